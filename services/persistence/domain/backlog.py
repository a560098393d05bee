"""Pages of what Redis has of a channel and the store lacks, and rows of them.

While the store is away the backlog of a channel may be many megabytes. Nobody takes all of it at once: Redis serves
nobody else while it makes a reply, and a write to the store must end in time. So each step takes a page, bounded in
number and bytes, and what it has achieved stays, whatever becomes of the next one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from services.persistence.domain.ports import ChannelState, HotLog, Row
from services.shared.hotlog.entries import Entry
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, Unstored

PAGE_ENTRIES = 1_000  # of one channel in one reply of Redis, and in one write to the store

# Returns the offsets that a publication of a channel names.
Named = Callable[[str, bytes], Iterable[int]]


async def first_page(hot: HotLog, channel: str) -> Unstored | None:
    """Return the oldest entries that are not stored; None: Redis has no meta.

    Raises:
        Unavailable: Redis does not answer.
    """
    (found,) = await hot.unstored([channel], PAGE_ENTRIES)
    return found


async def pages(hot: HotLog, channel: str) -> AsyncIterator[Unstored]:
    """Yield all entries that are not stored, in pages, oldest first.

    It ends where the channel gets another epoch. Raises `Unavailable`.
    """
    since_offset, epoch = 0, ""
    while True:
        (found,) = await hot.unstored([channel], PAGE_ENTRIES, since_offset=since_offset)
        if found is None or not found.entries or found.epoch != (epoch or found.epoch):
            return
        yield found
        since_offset, epoch = found.entries[-1].offset, found.epoch


def rows_of(channel: str, found: Unstored | None, upto: int) -> list[Row]:
    """Return rows of the entries of a page, up to offset `upto`.

    If the channel may have such as are acknowledged before, they are stored only in the epoch that they have in Redis.
    """
    if found is None:
        return []
    epoch = found.epoch if found.may_be_queued else ""
    return [Row(channel, *entry, epoch) for entry in found.entries if entry.offset <= upto]


def is_next(rows: Sequence[Row], stored: int) -> bool:
    """Whether these are some rows, without a hole, behind what is stored."""
    return bool(rows) and [row.offset for row in rows] == list(range(stored + 1, stored + 1 + len(rows)))


class Mover:
    """Gives entries of a channel the next places of another epoch, page by page.

    In a channel that counts, an entry may name others by their offsets. From the first one on that gets another offset,
    all that do not count themselves are left out, and those that name one that got another offset.
    """

    def __init__(self, channel: str, state: ChannelState, named: Named | None) -> None:
        """Create it; `state` is that of the other epoch."""
        self._channel, self._epoch, self._named = channel, state.epoch, named
        self._top, self._n, self._mv = state.top, state.n, state.mv
        self._first: int | None = None  # offset of the first entry that gets another one

    def note(self, offset: int) -> None:
        """Note that an entry has got another offset already."""
        self._first = offset if self._first is None else min(self._first, offset)

    def rows(self, entries: Sequence[Entry]) -> list[Row]:
        """Return the rows of the entries that are not left out."""
        rows: list[Row] = []
        counts = bool(self._n or self._mv or any(entry.flags or entry.n or entry.mv for entry in entries))
        for entry in entries:
            if self._top + 1 != entry.offset:
                self.note(entry.offset)
            if counts and self._first is not None and not self._may_move(entry, self._first):
                continue
            self._top += 1
            if counts:
                self._n += entry.flags & COUNTS
                self._mv = self._top if entry.flags & CHANGES_MEMBERSHIP else self._mv
            place = (self._top, entry.publication_id, entry.publication, entry.key, entry.flags)
            rows.append(Row(self._channel, *place, self._n, self._mv, self._epoch))
        return rows

    def _may_move(self, entry: Entry, first: int) -> bool:
        if not entry.flags & COUNTS:
            return False
        named = () if self._named is None else self._named(self._channel, entry.publication)
        return not any(offset >= first for offset in named)
