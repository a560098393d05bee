"""Cache of log pages, shared by clients that catch up in the same channel."""

from __future__ import annotations

import math
from collections import OrderedDict

from services.edge.domain.model import Publication

_MAX_BYTES = 16_777_216  # of all cached pages
_OVERHEAD_BYTES = 200  # memory of a publication beside its content, estimated
Key = tuple[str, str, int]  # channel, epoch, offset before the first publication of the page


class PageCache:
    """Least-recently-used cache of pages, bounded in bytes.

    Patches that encoders keep with its publications are not counted; they are shorter than the data.
    A publication never changes its position in a log. So a page stays correct until a history is removed.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pages: OrderedDict[Key, tuple[list[Publication], int, float]] = OrderedDict()  # page, bytes, time read
        self._bytes = 0  # of all pages
        self.edition = 0  # raised by `clear`; a page whose read began in an older edition is not cached

    def get(self, key: Key, not_before: float = -math.inf) -> list[Publication] | None:
        """Return a page, or None if it is not cached or was read before `not_before`."""
        found = self._pages.get(key)
        if found is None or found[2] < not_before:
            return None
        self._pages.move_to_end(key)
        return found[0]

    def put(self, key: Key, page: list[Publication], edition: int, now: float) -> None:
        """Cache a page whose read began at the time `now`, when the edition was `edition`."""
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
        """Drop all pages. Pages that are being read at the moment will not be cached."""
        self.edition += 1
        self._pages.clear()
        self._bytes = 0
