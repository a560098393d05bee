"""What is given to the log of `stored` channels to append."""

from __future__ import annotations

from typing import NamedTuple

from services.shared.hotlog.hotlog import STAMP_BYTES, Item


class Request(NamedTuple):
    """One publication to append, with the history settings of its namespace."""

    channel: str
    item: Item
    history_size: int
    history_ttl_s: int


def is_larger(item: Item, max_bytes: int) -> bool:
    """Whether a publication with its key is larger than the store can keep."""
    publication, user, key = len(item.publication) + STAMP_BYTES, item.key_user, item.key
    if publication + 4 * (len(user) + len(key)) <= max_bytes:  # UTF-8 has at most 4 bytes per character
        return False
    return publication + len(user.encode()) + len(key.encode()) > max_bytes
