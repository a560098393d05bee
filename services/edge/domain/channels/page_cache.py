"""Pages of logs that were read just now, for others who catch up in the same channel."""

from __future__ import annotations

import math
from collections import OrderedDict

from services.edge.domain.model import Publication

_MAX_BYTES = 16_777_216
_OVERHEAD_BYTES = 200  # of a publication in memory
Key = tuple[str, str, int]  # channel, epoch, the offset before


class PageCache:
    """What has a place in a log stays there, so a page is right for as long as nobody removes the history.

    Bounded in bytes; the longest unused go first.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pages: OrderedDict[Key, tuple[list[Publication], int, float]] = OrderedDict()  # its size, and when read
        self._bytes = 0
        self.edition = 0  # a page that was asked for in an older one may have been removed since

    def get(self, key: Key, not_before: float = -math.inf) -> list[Publication] | None:
        """The page behind this offset, unless it was read before that time."""
        found = self._pages.get(key)
        if found is None or found[2] < not_before:
            return None
        self._pages.move_to_end(key)
        return found[0]

    def put(self, key: Key, page: list[Publication], edition: int, now: float) -> None:
        """Keep a page that was asked for in that edition, and read at that time."""
        if edition != self.edition:
            return
        if (older := self._pages.pop(key, None)) is not None:
            self._bytes -= older[1]
        size = sum(one.size + _OVERHEAD_BYTES for one in page)
        self._pages[key] = page, size, now
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, size, _) = self._pages.popitem(last=False)
            self._bytes -= size

    def clear(self) -> None:
        """Forget all; what is being read is not kept."""
        self.edition += 1
        self._pages.clear()
        self._bytes = 0
