"""Invariant: a view gives every offset once, ascending, or says what it needs.

Without a hole, and within its bounds.

What pub/sub and reads may bring is anything: dropped, doubled, out of order, of another epoch, stale, cut, with holes.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.edge.domain.channels.channel_log import ChannelLog, Need
from services.edge.domain.model import Publication, StreamPosition

EPOCH, OTHER = "epoch1", "epoch2"
_RING_MAX_BYTES = 24
_SIZES = (0, 3, 11, 1, 30, 7, 5)


def publication(offset: int, epoch: str = EPOCH) -> Publication:
    """The one publication of this epoch and offset."""
    return Publication(data=b"x" * _SIZES[offset % len(_SIZES)], id=f"{epoch}/{offset}".encode(), offset=offset)


class Model:
    """What a view may do, said slowly."""

    def __init__(self, start: int, ring_size: int, buffer_size: int) -> None:
        self.start = start
        self.delivered = start
        self.waiting: set[int] = set()
        self._since_forget: list[int] = []
        self._ring_size = ring_size
        self._buffer_size = buffer_size

    def message(self, offset: int) -> tuple[list[int], Need]:
        if offset <= self.delivered:
            return [], Need.NOTHING
        if offset > self.delivered + 1:
            if len(self.waiting) < self._buffer_size:
                self.waiting.add(offset)
            return [], Need.REPAIR
        ready = self._run({offset} | self.waiting)
        return ready, Need.REPAIR if self.waiting else Need.NOTHING

    def repaired(self, page: Sequence[int]) -> tuple[list[int], Need]:
        expected = self.delivered
        for offset in page:
            if offset > expected + 1:  # a hole: what the page has before it, and ask again
                return self._run({one for one in page if one <= expected}, tidy=False), Need.REPAIR
            expected = max(expected, offset)
        ready = self._run(set(page) | self.waiting)
        return ready, Need.REPAIR if self.waiting else Need.NOTHING

    def ring(self) -> list[int]:
        """The longest end of what was handed out that fits, one publication at least."""
        count = min(len(self._since_forget), self._ring_size)
        while count > 1 and sum(_size(one) for one in self._since_forget[-count:]) > _RING_MAX_BYTES:
            count -= 1
        return self._since_forget[len(self._since_forget) - count :]

    def since(self, offset: int) -> list[int] | None:
        wanted = list(range(offset + 1, self.delivered + 1))
        return wanted if set(wanted) <= set(self.ring()) else None

    def forget(self) -> None:
        self._since_forget = []

    def _run(self, known: Set[int], *, tidy: bool = True) -> list[int]:
        ready = []
        while self.delivered + 1 in known:
            self.delivered += 1
            ready.append(self.delivered)
        self._since_forget += ready
        if tidy:
            self.waiting = {one for one in self.waiting if one > self.delivered}
        return ready


def _size(offset: int) -> int:
    return _SIZES[offset % len(_SIZES)]


class Schedule:
    """One view and its model, through one schedule."""

    def __init__(self, start: int, ring_size: int, buffer_size: int) -> None:
        self.ring_size, self.buffer_size = ring_size, buffer_size
        self.log = ChannelLog(
            StreamPosition(start, EPOCH), ring_size=ring_size, ring_max_bytes=_RING_MAX_BYTES, buffer_size=buffer_size
        )
        self.model = Model(start, ring_size, buffer_size)
        self.handed: list[Publication] = []
        self.top = start  # the highest offset that anybody spoke of

    # Steps. Offsets are relative to what was delivered, so that schedules stay where it matters.

    def hear(self, ahead: int) -> None:
        offset = max(1, self.log.delivered + ahead)
        self._took(self.log.message(EPOCH, publication(offset)), self.model.message(offset))
        self.top = max(self.top, offset)

    def hear_other(self, ahead: int) -> None:
        offset = max(1, self.log.delivered + ahead)
        assert self.log.message(OTHER, publication(offset, OTHER)) == ([], Need.RESYNC)

    def read(self, begun: int, count: int, holes: Sequence[int]) -> None:
        """A page that begins near where the view is now: behind it, or beyond."""
        first = max(1, self.log.delivered + 1 + begun)
        page = [offset for offset in range(first, first + count) if offset - first not in holes]
        self._took(self.log.repaired(EPOCH, [publication(one) for one in page]), self.model.repaired(page))
        self.top = max(self.top, *page, 0)

    def read_other(self, count: int) -> None:
        first = self.log.delivered + 1
        page = [publication(offset, OTHER) for offset in range(first, first + count)]
        assert self.log.repaired(OTHER, page) == ([], Need.RESYNC)

    def forget(self) -> None:
        self.log.forget()
        self.model.forget()

    def finish(self) -> None:
        """A whole read ends every need."""
        self.read(0, self.top - self.log.delivered, ())
        assert self.log.delivered == self.top
        assert self.log.message(EPOCH, publication(self.top + 1)) == ([publication(self.top + 1)], Need.NOTHING)

    # What must always hold.

    def _took(self, outcome: tuple[list[Publication], Need], expected: tuple[list[int], Need]) -> None:
        ready, need = outcome
        self.handed += ready
        assert ([one.offset for one in ready], need) == expected

    def look(self) -> None:
        model, log = self.model, self.log
        offsets = range(model.start + 1, log.delivered + 1)
        assert self.handed == [publication(offset) for offset in offsets], "not every offset once, in order"
        assert log.position == StreamPosition(model.delivered, EPOCH)
        for offset in range(max(0, log.delivered - self.ring_size - 2), log.delivered + 3):
            found, expected = log.since(offset), model.since(offset)
            assert (found is None) == (expected is None), f"since({offset})"
            assert found is None or found == [publication(one) for one in expected or []]
        ring = list(log._ring)  # noqa: SLF001  # bounds of memory show in no answer
        assert len(ring) <= self.ring_size
        assert sum(len(one.data) for one in ring) <= _RING_MAX_BYTES or len(ring) == 1
        assert len(log._buffer) <= self.buffer_size  # noqa: SLF001  # the same


_ahead = st.integers(-3, 9)
_read = st.tuples(
    st.just("read"), st.integers(-4, 3), st.integers(0, 8), st.one_of(st.just(()), st.lists(st.integers(0, 7)))
)
steps_of_a_view = st.lists(
    st.one_of(
        st.tuples(st.just("hear"), st.just(1)),
        st.tuples(st.just("hear"), _ahead),
        st.tuples(st.just("hear"), _ahead),
        _read,
        _read,
        st.tuples(st.just("hear_other"), _ahead),
        st.tuples(st.just("read_other"), st.integers(0, 3)),
        st.tuples(st.just("forget")),
    ),
    min_size=1,
    max_size=25,
)
sizes_of_a_view = st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(1, 4))


def play_view(sizes: tuple[int, int, int], steps: Sequence[tuple[Any, ...]]) -> None:
    """One schedule: (start, ring, buffer), then steps."""
    schedule = Schedule(*sizes)
    for name, *arguments in steps:
        getattr(schedule, name)(*arguments)
        schedule.look()
    schedule.finish()


@settings(
    max_examples=2_000,
    deadline=None,
    derandomize=False,
    print_blob=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(sizes_of_a_view, steps_of_a_view)
def test_every_offset_once_in_order_or_a_need_that_is_told(
    sizes: tuple[int, int, int], steps: Sequence[tuple[Any, ...]]
) -> None:
    play_view(sizes, steps)
