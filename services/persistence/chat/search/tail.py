"""What may be found in rows of the log that are not indexed yet.

Rows are read newest first, conversations that are least behind before others, until 4,000 rows, 4 MiB or the effort of
comparing are spent. Where each read is a request of its own, those of some conversations are made at the same time.
Conversations that could not be read are to be indexed. Rows of new messages tell author, time and content. Those of
edits tell content, and that the message is not newer than they are: moderators edit what others wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from services.persistence.chat.documents import content_of
from services.persistence.chat.domain import events
from services.persistence.chat.index.ports import Place, Scope
from services.persistence.chat.index.query import Query
from services.persistence.chat.metrics import SEARCH_SCANNED
from services.persistence.chat.rows import parsed_row
from services.persistence.chat.search.indexing import Indexing
from services.persistence.chat.search.turns import Turns, Work, effort
from services.persistence.domain.ports import CountedRow, Rows

_MAX_ROWS = 4_000  # that one answer reads because they are not indexed
_MAX_BYTES = 4 << 20  # of them
_MAX_EFFORT = 8 << 20
_PAGE_ROWS = 500
_PAGE_BYTES = 512 << 10


class Candidates(NamedTuple):
    """Messages that may be found; scores are 0.

    `new`: with their places. `edited`: with places in front of which they are not. A message may be in both, and there
    more than once. `is_whole`: there are no others.
    """

    new: list[Place]
    edited: list[Place]
    is_whole: bool


class _Stretch(NamedTuple):
    """Rows of a conversation that are to be read: above `since`, up to `upto`."""

    channel: str
    since: int
    upto: int


class Tail:
    """Reads rows that are not indexed; every method raises `Unavailable`."""

    def __init__(self, rows: Rows, indexing: Indexing, turns: Turns, at_once: int) -> None:
        """Take what it needs; of `at_once` conversations rows are read at the same time."""
        self._rows, self._indexing, self._turns, self._at_once = rows, indexing, turns, at_once

    async def candidates(self, query: Query, scopes: Sequence[Scope], indexed: Mapping[str, int]) -> Candidates:
        """Return what may be found above `indexed`, by channel."""
        work = Work(self._turns, _MAX_EFFORT)
        new: list[Place] = []
        edited: list[Place] = []
        rows_left, bytes_left = _MAX_ROWS, _MAX_BYTES
        behind = [
            _Stretch(one.channel, max(indexed[one.channel], one.above), one.position)
            for one in scopes
            if indexed[one.channel] < one.position
        ]
        behind.sort(key=lambda one: one.upto - indexed[one.channel])
        for one in behind:
            if one.upto - indexed[one.channel] > _PAGE_ROWS:
                self._indexing.soon(one.channel)
        todo = [one for one in reversed(behind) if one.upto > one.since]  # the next one last
        while todo and min(rows_left, bytes_left, work.left) > 0:
            some = [todo.pop() for _ in range(min(self._at_once, len(todo)))]
            found = await asyncio.gather(*(self._rows_of(one, rows_left) for one in some))
            for one, rows in zip(some, found, strict=True):
                if min(rows_left, bytes_left, work.left) <= 0:
                    todo.append(one)
                    continue
                rows = rows[:rows_left]
                if rows and (upto := rows[-1].offset - 1) > one.since:
                    todo.append(one._replace(upto=upto))
                rows = [row for row in rows if row.offset > one.since]
                rows_left -= len(rows)
                bytes_left -= sum(len(row.publication) for row in rows)
                for place, is_new in await work.pick(rows, partial(_look, query, one.channel)):
                    (new if is_new else edited).append(place)
        for one in todo:
            self._indexing.at_once(one.channel)
        SEARCH_SCANNED.inc(_MAX_ROWS - rows_left)
        return Candidates(new, edited, not todo)

    async def _rows_of(self, one: _Stretch, most: int) -> Sequence[CountedRow]:
        """Return the newest rows."""
        return await self._rows.read_counted(
            one.channel,
            since_offset=0,
            upto=one.upto,
            limit=min(_PAGE_ROWS, most, one.upto - one.since),
            reverse=True,
            max_bytes=_PAGE_BYTES,
        )


def _look(query: Query, channel: str, row: CountedRow) -> tuple[int, tuple[Place, bool] | None]:
    """Return the effort of a row, and what may be found in it, and if that is new."""
    event, entry = parsed_row(row.offset, row.publication)
    cost = effort("") + len(row.publication) // 8
    if not isinstance(event, events.Message | events.Edit):
        return cost, None
    content = content_of(event)
    cost += effort(content.text)
    if isinstance(event, events.Edit):
        is_there = (query.since is None or entry.time_ms >= query.since) and query.fits_content(content)
        return cost, (Place(0.0, -entry.time_ms, channel, -event.of), False) if is_there else None
    is_there = query.fits(entry.author, entry.time_ms, content)
    return cost, (Place(0.0, -entry.time_ms, channel, -row.offset), True) if is_there else None
