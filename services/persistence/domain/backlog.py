"""Pages of what Redis has of a channel and the store lacks, and rows of them.

While the store is away the backlog of a channel may be many megabytes. Nobody takes all of it at once: Redis serves
nobody else while it makes a reply, and a write to the store must end in time. So each step takes a page, bounded in
number and bytes, and what it has achieved stays, whatever becomes of the next one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from services.persistence.domain.ports import HotLog, Row
from services.shared.hotlog.entries import Entry
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, Unstored

PAGE_ENTRIES = 1_000  # of one channel in one reply of Redis, and in one write to the store


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


def moved(channel: str, epoch: str, entries: Sequence[Entry], top: int, n: int, mv: int) -> list[Row]:
    """Return the rows of entries that get the next places of another epoch.

    Left out are entries of a channel that counts that do not count themselves and would get another offset: they may
    name others by theirs. `top`, `n`, `mv`: what that epoch has in front of them.
    """
    rows: list[Row] = []
    counts = bool(n or mv or any(entry.flags or entry.n or entry.mv for entry in entries))
    for entry in entries:
        place = top + 1 + len(rows)
        if counts:
            if place != entry.offset and not entry.flags & COUNTS:
                continue
            n += entry.flags & COUNTS
            mv = place if entry.flags & CHANGES_MEMBERSHIP else mv
        rows.append(Row(channel, place, entry.publication_id, entry.publication, entry.key, entry.flags, n, mv, epoch))
    return rows
