"""What is given to the log of `stored` channels to append."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.shared.hotlog.hotlog import STAMP_BYTES, Batch, Item


class Request(NamedTuple):
    """One publication to append, with the history settings of its namespace.

    `queued`: it may be acknowledged before it is stored.
    """

    channel: str
    item: Item
    history_size: int
    history_ttl_s: int
    queued: bool = False


def batch_of(requests: Sequence[Request]) -> Batch:
    """Return requests of one channel as a batch, with the settings of the first.

    It is queued if all of them are.
    """
    first, queued = requests[0], all(request.queued for request in requests)
    return Batch(first.channel, first.history_size, first.history_ttl_s, [request.item for request in requests], queued)


def parts_of(requests: Sequence[Request], most: int) -> list[list[int]]:
    """Return indexes of requests in parts.

    At most `most` of each channel are in a part. Those of one channel stay in order. Its queued ones at the beginning
    are in no part with others of it: they need not wait until these are stored.
    """
    parts: list[list[int]] = []
    last: dict[str, tuple[int, int, bool]] = {}  # channel → its last part, how many of it are in there, all are queued
    for index, request in enumerate(requests):
        number, count, queued = last.get(request.channel, (0, 0, request.queued))
        if count == most or (queued and not request.queued):
            number, count = number + 1, 0
        last[request.channel] = number, count + 1, queued and request.queued
        while number >= len(parts):
            parts.append([])
        parts[number].append(index)
    return parts


def is_larger(item: Item, max_bytes: int) -> bool:
    """Whether a publication with its key is larger than the store can keep."""
    publication, user, key = len(item.publication) + STAMP_BYTES, item.key_user, item.key
    if publication + 4 * (len(user) + len(key)) <= max_bytes:  # UTF-8 has at most 4 bytes per character
        return False
    return publication + len(user.encode()) + len(key.encode()) > max_bytes
