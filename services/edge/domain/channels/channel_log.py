"""An edge's view of one log: orders publications and keeps the last ones. No I/O.

**Purpose.** Pub/sub may lose, repeat or reorder publications, and subscribers must get each of them once and in order.
The view compares every publication with the last offset that it handed out. It also keeps the last publications in a
ring, so that a client that was away for a short time recovers without a read of the log.

**Rules.**

1. `delivered` is the last offset that was handed out. Everything up to it, since the view was created, was handed out
   once, and nothing above it.
2. Offset `delivered` + 1 is handed out. A lower one is a repetition and is dropped. A higher one shows a gap: it is
   buffered, and the caller must read the log (`Need.REPAIR`).
3. What the read found is passed to `repaired`, which hands out as much as continues `delivered` without a hole, and
   then what the buffer has behind it.
4. A publication of another epoch is not handed out: the log was started again, and the view is of no more use
   (`Need.RESYNC`).
5. The ring has no holes and ends at `delivered`. `since` answers only if it has everything that was asked for. For a
   `hot` log it answers nothing that the log itself may have dropped by now (`ttl_s`), and where a `stored` log is not
   kept for ever nothing that is too old (`max_age_s`).
6. Behind a publication that erases something (`ERASES`) the ring begins anew, and no read puts back what is before it:
   the erasing of many publications goes on for a while, and nothing says when it has ended. What raced with it, such as
   an edit that was numbered behind the delete of its message, is erased a moment later: so it leaves the ring then.

**Example.** `delivered` is 5. Pub/sub brings 8: it is buffered, and a repair is due. The read after 5 finds 6 and 7.
`repaired` returns 6, 7 and, from the buffer, 8. If pub/sub brings 7 afterwards, it is dropped.

**Trade-offs.** Publications behind a gap wait until the read has ended: a lost message costs all subscribers of the
channel the time of a read, but never the order. The buffer is bounded: what does not fit is read from the log again.

Decision: docs/decisions/0024-stored-channels-keep-everything.md (what the ring may answer). Repairs: see `hub`.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Sequence

from services.edge.domain.model import Publication, StreamPosition

ERASES = 4  # in `Publication.flags`: something before it is erased from the log
_SETTLED_S = 10.0  # after which what raced with such a publication is erased, too


class Need(enum.Enum):
    """What the caller must do next."""

    NOTHING = enum.auto()
    REPAIR = enum.auto()  # there is a gap: read the log after `delivered`
    RESYNC = enum.auto()  # the log has another epoch: send gap notifications to the subscribers


class ChannelLog:
    """Order of one log, and the ring of its last publications.

    `delivered` is the last offset handed out. `forgotten` counts calls of `forget` and `forget_before`.
    """

    __slots__ = (
        "_buffer",
        "_buffer_size",
        "_erased_s",
        "_max_age_s",
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
        self,
        top: StreamPosition,
        *,
        ring_size: int,
        ring_max_bytes: int,
        buffer_size: int,
        ttl_s: float = math.inf,
        max_age_s: float = math.inf,
    ) -> None:
        """Create a view that continues after `top`.

        Args:
            top: Newest position of the log.
            ring_size: Largest number of publications in the ring.
            ring_max_bytes: Largest size of the ring, in bytes; one publication may be larger.
            buffer_size: Largest number of publications that are buffered behind a gap.
            ttl_s: Age of its newest publication, in seconds, at which the ring is emptied, because the log itself may
                have expired.
            max_age_s: Age of a publication, in seconds, at which it leaves the ring.
        """
        self.epoch = top.epoch
        self.delivered = top.offset
        self._ring: deque[Publication] = deque()
        self._ring_sizes: deque[int] = deque()  # bytes of each publication in the ring
        self._ring_bytes = 0  # the sum of `_ring_sizes`
        self._erased_s = math.inf  # time of the last one that erases; infinite: all is settled
        self._ring_size = ring_size
        self._ttl_s = ttl_s
        self._max_age_s = max_age_s
        self._ring_max_bytes = ring_max_bytes
        self._buffer: dict[int, Publication] = {}  # publications behind a gap, by offset
        self._buffer_size = buffer_size
        self.forgotten = 0  # calls of `forget` and `forget_before`

    def message(self, epoch: str, publication: Publication) -> tuple[list[Publication], Need]:
        """Take a publication from pub/sub.

        Return the publications to hand out now, in order, and what must be done next.
        """
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
        """Take the result of a read after `delivered`, in ascending order.

        Return the same as `message`. Publications behind a hole in the result are not handed out; the need is REPAIR
        then.
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
        """Return the publications after `offset` up to `delivered`, from the ring.

        None if the ring does not have all of them. `now_s` is in Unix seconds.
        """
        if offset >= self.delivered:
            return []
        if self._ring and now_s - self._ring[-1].time_ms / 1000 >= self._ttl_s:
            self.forget()  # the log may have expired: only a read can tell
        if now_s - self._erased_s >= _SETTLED_S:
            self._erased_s = math.inf
            self.forget()
        while self._ring and now_s - self._ring[0].time_ms / 1000 >= self._max_age_s:
            self.forget_before(self._ring[0].offset + 1)
        if not self._ring or self._ring[0].offset > offset + 1:
            return None
        skip = offset + 1 - self._ring[0].offset
        return [publication for index, publication in enumerate(self._ring) if index >= skip]

    def refill(self, publications: Sequence[Publication]) -> None:
        """Put publications that a read found at the front of the ring.

        They are in ascending order. As many as there is room for are taken, beginning with the newest one that the ring
        does not have, and none that is before one that erases.
        """
        first = self._ring[0].offset if self._ring else self.delivered + 1
        if self._ring and self._ring[0].flags & ERASES:
            return
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
            if publication.flags & ERASES:
                return

    def forget(self) -> None:
        """Empty the ring, because the log's history was removed or may have expired."""
        self.forgotten += 1
        self._ring.clear()
        self._ring_sizes.clear()
        self._ring_bytes = 0

    def forget_before(self, offset: int) -> None:
        """Take what is before an offset out of the ring: some of it was erased.

        A read that began earlier does not put it back.
        """
        self.forgotten += 1
        while self._ring and self._ring[0].offset < offset:
            self._ring.popleft()
            self._ring_bytes -= self._ring_sizes.popleft()

    @property
    def position(self) -> StreamPosition:
        """Position of the last publication handed out: where a new subscriber begins."""
        return StreamPosition(self.delivered, self.epoch)

    def _accept(self, publication: Publication) -> None:
        self.delivered = publication.offset
        if publication.flags & ERASES:
            self._erased_s = publication.time_ms / 1000
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
