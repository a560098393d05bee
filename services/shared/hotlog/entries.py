"""Entries of the logs of `stored` channels, as persistence reads them from Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Entry(NamedTuple):
    """Entry of a `stored` channel; `key` as `keys.pair` makes it.

    `flags`, `n` and `mv` are 0 if the channel does not count, or a version that does not count numbered it.
    """

    offset: int
    publication_id: bytes
    publication: bytes
    key: str
    flags: int = 0
    n: int = 0
    mv: int = 0


def decode_entry(offset: int, fields: Sequence[bytes]) -> Entry:
    """Decode the fields of a stream entry: names and values in turn."""
    entry = Entry(offset, fields[1], fields[3], fields[5].decode())
    if b"c" in fields[8::2]:
        flags, n, mv = map(int, fields[9 + 2 * fields[8::2].index(b"c")].split())
        return entry._replace(flags=flags, n=n, mv=mv)
    return entry
