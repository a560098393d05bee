"""Offsets that Redis gave to a channel's part of a batch, and the rows to store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.persistence.domain.ports import Row
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
