"""Offsets that Redis gave to a channel's part of a batch, and the rows to store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.persistence.domain.comparison import UNSTORED_LIMIT, rows_of
from services.persistence.domain.ports import HotLog, Row
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, Counts, Item
from services.shared.hotlog.keys import pair


class Numbered(NamedTuple):
    """Offsets of a channel's requests; negative where an earlier publish has the key.

    `counts`: None if the channel does not count.
    """

    epoch: str
    stored: int  # the readable top
    stamp: bytes  # encoded time that Redis appended to each new publication
    places: list[tuple[int, int]]  # (index of the request, offset)
    counts: Counts | None

    def rows(self, channel: str, items: Sequence[tuple[int, Item]]) -> list[Row]:
        """Return the rows of new items, each with its offset, in order.

        The items are all that the batch numbered. The rows say the same as the entries that append_stored.lua wrote.
        """
        rows: list[Row] = []
        stamp, counts = self.stamp, self.counts
        if counts is None:
            for offset, (publication_id, publication, user, key, *_) in items:
                rows.append(Row(channel, offset, publication_id, publication + stamp, pair(user, key)))
            return rows
        n, mv = counts.n, counts.mv
        for offset, (publication_id, publication, user, key, _, flags, *_) in items:
            n += flags & COUNTS
            if flags & CHANGES_MEMBERSHIP:
                mv = offset
            rows.append(Row(channel, offset, publication_id, publication + stamp, pair(user, key), flags, n, mv))
        return rows


async def rows_to_store(
    hot: HotLog, items: Sequence[Item], numbered: Mapping[str, Numbered]
) -> tuple[list[Row], dict[str, int]]:
    """Return the rows to store by channel, and the last offsets.

    They are those of the items, and those of other replicas in front of them. Raises `Unavailable`.
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
    if incomplete:
        for channel, left in zip(incomplete, await hot.unstored(incomplete, UNSTORED_LIMIT), strict=True):
            rows += rows_of(channel, left, uptos[channel])
    return rows, uptos
