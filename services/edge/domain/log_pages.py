"""Pages of logs that were read just now, for others who catch up in the same channel."""

from __future__ import annotations

from collections import OrderedDict

from services.edge.domain.model import Publication

_MAX_BYTES = 16_777_216
_OVERHEAD_BYTES = 200  # of a publication in memory
Key = tuple[str, str, int]  # channel, epoch, the offset before


class RecentPages:
    """What has a place in a log stays there, so a page is right for as long as nobody removes the history.

    Bounded in bytes; the longest unused go first.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pages: OrderedDict[Key, tuple[list[Publication], int]] = OrderedDict()
        self._bytes = 0
        self.edition = 0  # a page that was asked for in an older one may have been removed since

    def get(self, key: Key) -> list[Publication] | None:
        """The page behind this offset."""
        found = self._pages.get(key)
        if found is None:
            return None
        self._pages.move_to_end(key)
        return found[0]

    def put(self, key: Key, page: list[Publication], edition: int) -> None:
        """Keep a page that was asked for in that edition."""
        if edition != self.edition or key in self._pages:
            return
        size = sum(one.size + _OVERHEAD_BYTES for one in page)
        self._pages[key] = page, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, size) = self._pages.popitem(last=False)
            self._bytes -= size

    def clear(self) -> None:
        """Forget all; what is being read is not kept."""
        self.edition += 1
        self._pages.clear()
        self._bytes = 0
