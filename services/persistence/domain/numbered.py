"""Offsets that Redis gave to a channel's part of a batch, and the rows to store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.persistence.domain.backlog import PAGE_ENTRIES, rows_of
from services.persistence.domain.ports import PAGE_BYTES, HotLog, Row
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, Counts, Item
from services.shared.hotlog.keys import pair


class Numbered(NamedTuple):
    """Offsets of a channel's requests; negative where an earlier publish has the key.

    `counts`: None if the channel does not count.
    `may_be_queued`: whether anything of the channel may become readable before it is stored.
    """

    epoch: str
    stored: int  # the readable top
    stamp: bytes  # encoded time that Redis appended to each new publication
    places: list[tuple[int, int]]  # (index of the request, offset)
    counts: Counts | None
    may_be_queued: bool

    def rows(self, channel: str, items: Sequence[tuple[int, Item]]) -> list[Row]:
        """Return the rows of new items, each with its offset, in order.

        The items are all that the batch numbered. The rows say the same as the entries that append_stored.lua wrote.
        """
        rows: list[Row] = []
        stamp, counts, epoch = self.stamp, self.counts, self.epoch if self.may_be_queued else ""
        if counts is None:
            for offset, (publication_id, publication, user, key, *_) in items:
                rows.append(Row(channel, offset, publication_id, publication + stamp, pair(user, key), 0, 0, 0, epoch))
            return rows
        n, mv = counts.n, counts.mv
        for offset, (publication_id, publication, user, key, _, flags, *_) in items:
            n += flags & COUNTS
            if flags & CHANGES_MEMBERSHIP:
                mv = offset
            rows.append(Row(channel, offset, publication_id, publication + stamp, pair(user, key), flags, n, mv, epoch))
        return rows


async def rows_to_store(
    hot: HotLog, items: Sequence[Item], numbered: Mapping[str, Numbered]
) -> tuple[list[Row], dict[str, int], set[str]]:
    """Return the rows to store by channel, the last offsets, and channels that wait.

    The rows are those of the items, and those of others in front of them. Channels wait where these are more than a
    page: none of their rows is among those returned. Raises `Unavailable`.
    """
    rows: list[Row] = []
    uptos: dict[str, int] = {}
    incomplete: list[str] = []
    for channel, found in numbered.items():
        stored, places = found.stored, found.places
        upto = uptos[channel] = max([abs(offset) for _, offset in places])
        new = [place for place in places if place[1] > 0]  # ascending
        if upto > stored and (not new or new[0][1] != stored + 1 or len(new) != upto - stored):
            incomplete.append(channel)
            continue
        rows += found.rows(channel, [(offset, items[index]) for index, offset in new])
    waiting: set[str] = set()
    if incomplete:
        max_bytes = PAGE_BYTES // len(incomplete)
        pages = await hot.unstored(incomplete, PAGE_ENTRIES, max_bytes=max_bytes)
        for channel, page in zip(incomplete, pages, strict=True):
            if page is not None and page.entries and page.entries[-1].offset < min(uptos[channel], page.top):
                waiting.add(channel)
            else:
                rows += rows_of(channel, page, uptos[channel])
    return rows, uptos, waiting
