"""Cache of log pages, shared by clients that catch up in the same channel."""

from __future__ import annotations

import math
from collections import OrderedDict

from services.edge.domain.model import Publication

_MAX_BYTES = 16_777_216  # of all cached pages
_OVERHEAD_BYTES = 200  # memory of a publication beside its content, estimated
_MAX_DROPPED = 10_000  # channels of which it is kept how often pages were dropped
Edition = tuple[int, int]
Key = tuple[str, str, int]  # channel, epoch, offset before the first publication of the page


class PageCache:
    """Least-recently-used cache of pages, bounded in bytes.

    Patches that encoders keep with its publications are not counted; they are shorter than the data.
    A publication never changes its position in a log. So a page stays correct until a history is removed, or something
    is erased from the channel.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pages: OrderedDict[Key, tuple[list[Publication], int, float]] = OrderedDict()  # page, bytes, time read
        self._bytes = 0  # of all pages
        self._of_channel: dict[str, set[Key]] = {}  # keys of its pages
        self._cleared = 0  # calls of `clear`
        self._dropped: dict[str, int] = {}  # channel → calls of `drop`

    def edition(self, channel: str) -> Edition:
        """What changes with `clear` and `drop`.

        A page whose read began in another edition is not cached.
        """
        return self._cleared, self._dropped.get(channel, 0)

    def get(self, key: Key, not_before: float = -math.inf) -> list[Publication] | None:
        """Return a page, or None if it is not cached or was read before `not_before`."""
        found = self._pages.get(key)
        if found is None or found[2] < not_before:
            return None
        self._pages.move_to_end(key)
        return found[0]

    def put(self, key: Key, page: list[Publication], edition: Edition, now: float) -> None:
        """Cache a page whose read began at the time `now`, when the edition was `edition`."""
        if edition != self.edition(key[0]):
            return
        self._remove(key)
        size = sum(one.size + _OVERHEAD_BYTES for one in page)
        self._pages[key] = page, size, now
        self._of_channel.setdefault(key[0], set()).add(key)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._pages)))

    def drop(self, channel: str) -> None:
        """Drop the pages of a channel; those being read at the moment are not cached."""
        for key in list(self._of_channel.get(channel, ())):
            self._remove(key)
        if len(self._dropped) >= _MAX_DROPPED and channel not in self._dropped:
            self.clear()
        self._dropped[channel] = self._dropped.get(channel, 0) + 1

    def clear(self) -> None:
        """Drop all pages. Pages that are being read at the moment will not be cached."""
        self._cleared += 1
        self._dropped.clear()
        self._pages.clear()
        self._of_channel.clear()
        self._bytes = 0

    def _remove(self, key: Key) -> None:
        found = self._pages.pop(key, None)
        if found is None:
            return
        self._bytes -= found[1]
        keys = self._of_channel[key[0]]
        keys.discard(key)
        if not keys:
            del self._of_channel[key[0]]
