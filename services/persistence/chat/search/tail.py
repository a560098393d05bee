"""What may be found in rows of the log that are not indexed yet.

Rows are read newest first, conversations that are least behind before others, until 4,000 rows, 4 MiB or the effort of
comparing are spent. Rows of new messages tell author, time and content. Those of edits tell content, and that the
message is not newer than they are: moderators edit what others wrote.
"""

from __future__ import annotations

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


class Tail:
    """Reads rows that are not indexed; every method raises `Unavailable`."""

    def __init__(self, rows: Rows, indexing: Indexing, turns: Turns) -> None:
        self._rows, self._indexing, self._turns = rows, indexing, turns

    async def candidates(self, query: Query, scopes: Sequence[Scope], indexed: Mapping[str, int]) -> Candidates:
        """Return what may be found above `indexed`, by channel."""
        work = Work(self._turns, _MAX_EFFORT)
        new: list[Place] = []
        edited: list[Place] = []
        rows_left, bytes_left, is_whole = _MAX_ROWS, _MAX_BYTES, True
        behind = [one for one in scopes if indexed[one.channel] < one.position]
        for scope in sorted(behind, key=lambda one: one.position - indexed[one.channel]):
            since, upto = max(indexed[scope.channel], scope.above), scope.position
            if upto - indexed[scope.channel] > _PAGE_ROWS:
                self._indexing.soon(scope.channel)
            while upto > since:
                if min(rows_left, bytes_left, work.left) <= 0:
                    is_whole = False
                    break
                rows = await self._rows.read_counted(
                    scope.channel,
                    since_offset=0,
                    upto=upto,
                    limit=min(_PAGE_ROWS, rows_left, upto - since),
                    reverse=True,
                    max_bytes=_PAGE_BYTES,
                )
                if not rows:
                    break
                upto = rows[-1].offset - 1
                rows = [row for row in rows if row.offset > since]
                rows_left -= len(rows)
                bytes_left -= sum(len(row.publication) for row in rows)
                for place, is_new in await work.pick(rows, partial(_look, query, scope.channel)):
                    (new if is_new else edited).append(place)
        SEARCH_SCANNED.inc(_MAX_ROWS - rows_left)
        return Candidates(new, edited, is_whole)


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
