"""An edge's view of one log: next, older or a jump; and a ring of the last publications. No I/O."""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Sequence

from services.edge.domain.model import Publication, StreamPosition


class Need(enum.Enum):
    """What the view wants done about it."""

    NOTHING = enum.auto()
    REPAIR = enum.auto()  # a jump: read (delivered, top]
    RESYNC = enum.auto()  # another epoch: subscribers have insufficient state


class ChannelLog:
    """Turns what pub/sub brings into each offset once, in order.

    `delivered` is the last offset handed out; nothing above it was, everything up to it since the start was.
    """

    __slots__ = (
        "_buffer",
        "_buffer_size",
        "_ring",
        "_ring_bytes",
        "_ring_max_bytes",
        "_ring_size",
        "_ring_sizes",
        "_ttl_s",
        "delivered",
        "epoch",
        "forgotten",
    )

    def __init__(
        self, top: StreamPosition, *, ring_size: int, ring_max_bytes: int, buffer_size: int, ttl_s: float = math.inf
    ) -> None:
        """`ttl_s`: the ring answers for nothing once its newest publication is so old: the log may have expired."""
        self.epoch = top.epoch
        self.delivered = top.offset
        self._ring: deque[Publication] = deque()
        self._ring_sizes: deque[int] = deque()  # of its publications
        self._ring_bytes = 0  # the sum of these
        self._ring_size = ring_size
        self._ttl_s = ttl_s
        self._ring_max_bytes = ring_max_bytes
        self._buffer: dict[int, Publication] = {}
        self._buffer_size = buffer_size
        self.forgotten = 0  # how often

    def message(self, epoch: str, publication: Publication) -> tuple[list[Publication], Need]:
        """One publication from pub/sub: those to hand out now, in order, and what must be done besides."""
        if epoch != self.epoch:
            return [], Need.RESYNC
        offset = publication.offset
        if offset <= self.delivered:
            return [], Need.NOTHING
        if offset > self.delivered + 1:
            if len(self._buffer) < self._buffer_size:
                self._buffer[offset] = publication
            return [], Need.REPAIR
        self._accept(publication)
        if not self._buffer:
            return [publication], Need.NOTHING
        ready = [publication]
        ready.extend(self._drain())
        return ready, Need.REPAIR if self._buffer else Need.NOTHING

    def repaired(self, epoch: str, publications: list[Publication]) -> tuple[list[Publication], Need]:
        """What a read of (delivered, …] found, ascending: as `message`.

        A hole in it ends it: what comes behind is not handed out, and the need stays.
        """
        if epoch != self.epoch:
            return [], Need.RESYNC
        ready = []
        for publication in publications:
            if publication.offset == self.delivered + 1:
                self._accept(publication)
                ready.append(publication)
            elif publication.offset > self.delivered + 1:
                return ready, Need.REPAIR
        ready.extend(self._drain())
        return ready, Need.REPAIR if self._buffer else Need.NOTHING

    def since(self, offset: int, now_s: float = 0.0) -> list[Publication] | None:
        """Publications of (offset, delivered] if the ring has all of them, else None; `now_s`: Unix seconds."""
        if offset >= self.delivered:
            return []
        if self._ring and now_s - self._ring[-1].time_ms / 1000 >= self._ttl_s:
            self.forget()  # whether they are still there is for the log to say
        if not self._ring or self._ring[0].offset > offset + 1:
            return None
        skip = offset + 1 - self._ring[0].offset
        return [publication for index, publication in enumerate(self._ring) if index >= skip]

    def refill(self, publications: Sequence[Publication]) -> None:
        """Put what a read of the log found, ascending, before what the ring has, as far as there is room."""
        first = self._ring[0].offset if self._ring else self.delivered + 1
        for publication in reversed(publications):
            if publication.offset >= first:
                continue
            size = publication.size
            if publication.offset < first - 1 or len(self._ring) >= self._ring_size:
                return
            if self._ring_bytes + size > self._ring_max_bytes:
                return
            self._ring.appendleft(publication)
            self._ring_sizes.appendleft(size)
            self._ring_bytes += size
            first = publication.offset

    def forget(self) -> None:
        """Empty the ring: the log's history was removed."""
        self.forgotten += 1
        self._ring.clear()
        self._ring_sizes.clear()
        self._ring_bytes = 0

    @property
    def position(self) -> StreamPosition:
        """Where whoever joins now joins."""
        return StreamPosition(self.delivered, self.epoch)

    def _accept(self, publication: Publication) -> None:
        self.delivered = publication.offset
        size = publication.size
        self._ring.append(publication)
        self._ring_sizes.append(size)
        self._ring_bytes += size
        while len(self._ring) > self._ring_size or (self._ring_bytes > self._ring_max_bytes and len(self._ring) > 1):
            self._ring.popleft()
            self._ring_bytes -= self._ring_sizes.popleft()

    def _drain(self) -> list[Publication]:
        ready = []
        while (publication := self._buffer.pop(self.delivered + 1, None)) is not None:
            self._accept(publication)
            ready.append(publication)
        if self._buffer:
            for offset in [offset for offset in self._buffer if offset <= self.delivered]:
                del self._buffer[offset]
        return ready
