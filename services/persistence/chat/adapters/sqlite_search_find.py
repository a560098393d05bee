"""Questions to the index in SQLite: the first hits of some conversations.

Purpose. One question to FTS5 for each conversation takes some 16 µs at least, as each has words of its own
(`sqlite_search.py`). So a user of 300 conversations waits for 300 of them. What comes on top of that is kept small.

Rules.

* Conversations come last active first. Once there are as many hits as wanted, the oldest of them is the bound. A
  conversation whose newest document is behind it is not asked, and of others nothing behind it is read.
* Of each conversation a share of the hits is read first, and the rest in another round, four times as many each. So
  the bound is there before thousands are read that it would leave out.
* A conversation whose hits begin above the time that is wanted is entered by a search for that time.
* Where times fall within a conversation (`search_falls`), nothing is concluded from one time for others: hits that are
  not wanted are passed by, one by one.
* Texts are read for scores alone, and only of the newest hits that remain.

Example. The best of 300 conversations with 500 hits each: four of each are read, the newest 1,000 of these give a
bound. Then those are read on that have more above it, and 1,000 texts are scored; not 150,000.

Trade-offs. A conversation that is not asked may have hits or none, so `has_more` may be wrong. Who asks on is told.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from services.persistence.adapters.sqlite_database import Transaction
from services.persistence.adapters.sqlite_stop import Stop
from services.persistence.chat.adapters.sqlite_search_rows import offset_of, question_of, row_of, rows_of
from services.persistence.chat.index.ports import Asked, Hits, Place
from services.persistence.chat.index.query import Query

_PASSED_BY = 16  # hits above a time that are read one by one; then their end is looked for
_SHARE = 4  # hits of a conversation that are read in the first round, at least
_MORE = 4  # times as many in the next one
_AT_ONCE = 500  # parameters of one statement; SQLite takes 999 at least
_FIND = (
    "SELECT id, time_ms FROM search_index JOIN search_texts ON id = search_index.rowid"
    " WHERE search_index MATCH ? AND search_index.rowid BETWEEN ? AND ? ORDER BY search_index.rowid DESC"
)
_FALLS = "SELECT 1 FROM search_falls WHERE id BETWEEN ? AND ? LIMIT 1"
_LAST = "SELECT id, time_ms FROM search_texts WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1"


class _Part(NamedTuple):
    """The rows of a conversation that are still to be looked at."""

    channel: str
    number: int
    first: int
    last: int


class _Newest:
    """The newest places so far, and a few more.

    `bound`: places behind it are not wanted any more. `has_more`: there may be some.
    """

    def __init__(self, most: int) -> None:
        self._most, self._full = most, most + max(8, most // 4)
        self.places: list[Place] = []
        self.bound: Place | None = None
        self.has_more = False

    def leaves_out(self, place: Place) -> bool:
        """Whether a place is not wanted."""
        if self.bound is None or place <= self.bound:
            return False
        self.has_more = True
        return True

    def add(self, place: Place) -> None:
        self.places.append(place)
        if len(self.places) >= self._full:
            self.cut()

    def cut(self) -> None:
        """Sort the places, and forget those that are too many."""
        self.places.sort()
        if len(self.places) > self._most:
            del self.places[self._most :]
            self.has_more = True
        if len(self.places) == self._most:
            self.bound = self.places[-1]


def find(connection: sqlite3.Connection, asked: Asked, stop: Stop) -> Hits:
    """Return the first hits of all scopes; Unavailable if it has to end before."""
    with Transaction(connection, "DEFERRED"), stop.ending(connection):
        return _found(connection, asked, stop)


def known(connection: sqlite3.Connection, channels: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return numbers of conversations, and up to where they are indexed."""
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(channels), _AT_ONCE):
        some = channels[start : start + _AT_ONCE]
        query = f"SELECT channel, number, indexed FROM search_conversations WHERE channel IN ({_places(some)})"
        found |= {channel: (number, indexed) for channel, number, indexed in connection.execute(query, some)}
    return found


def _found(connection: sqlite3.Connection, asked: Asked, stop: Stop) -> Hits:
    there = known(connection, [scope.channel for scope in asked.scopes])
    newest = _Newest(asked.most)
    look = _look(connection, asked, stop, newest)
    todo = [
        _Part(scope.channel, number, *rows_of(number, scope.above, scope.position))
        for scope in asked.scopes
        if (number := there.get(scope.channel, (0, 0))[0])
    ]
    share = max(_SHARE, 2 * asked.most // max(1, len(todo)))
    while todo:
        todo = [rest for part in todo if (rest := look(part, share)) is not None]
        newest.cut()
        share *= _MORE
    newest.cut()
    found = newest.places
    if asked.by_score:
        rows = {row_of(there[one.channel][0], one.offset): one for one in found}
        found = sorted(_scored(connection, asked.query, rows, stop))
        found = found if asked.after is None else found[bisect_right(found, asked.after) :]
    indexed = {scope.channel: there.get(scope.channel, (0, 0))[1] for scope in asked.scopes}
    return Hits(found, newest.has_more, indexed)


def _look(
    connection: sqlite3.Connection, asked: Asked, stop: Stop, newest: _Newest
) -> Callable[[_Part, int], _Part | None]:
    """Return what takes in a share of the hits of a part, and returns what is left."""
    after = None if asked.by_score else asked.after
    latest = _latest(asked, after)
    question = question_of(asked.query)

    def look(part: _Part, share: int) -> _Part | None:
        stop.check()
        falls = connection.execute(_FALLS, (part.first, part.last)).fetchone() is not None
        if newest.bound is not None and not falls:
            last = connection.execute(_LAST, (part.first, part.last)).fetchone()
            if last is None or newest.leaves_out(_place(part.channel, *last)):
                return None
        taken = 0
        for row, time_ms in _hits(connection, question(part.number), part, asked.query.since, latest, falls=falls):
            place = _place(part.channel, row, time_ms)
            if after is not None and place <= after:
                continue
            if newest.leaves_out(place):
                if falls:
                    continue
                return None
            newest.add(place)
            taken += 1
            if taken == share:
                return part._replace(last=row - 1)
        return None

    return look


def _place(channel: str, row: int, time_ms: int) -> Place:
    return Place(0.0, -time_ms, channel, -offset_of(row))


def _places(some: Collection[object]) -> str:
    """Return that many places for parameters."""
    return ", ".join("?" * len(some))


def _latest(asked: Asked, after: Place | None) -> int | None:
    """Return the newest time that can be wanted, Unix ms; None: any."""
    bounds = [asked.upto_ms, None if after is None else after.time_ms]
    bounds.append(None if asked.query.before is None else asked.query.before - 1)
    return min((bound for bound in bounds if bound is not None), default=None)


def _hits(
    connection: sqlite3.Connection, question: str, part: _Part, since: int | None, latest: int | None, *, falls: bool
) -> Iterator[tuple[int, int]]:
    """Yield rows and times of hits, the last first, from `latest` down to `since`.

    `falls`: times may fall from row to row.
    """
    passed_by = 0
    rows = connection.execute(_FIND, (question, part.first, part.last))
    while (found := rows.fetchone()) is not None:
        row, time_ms = found
        if latest is not None and time_ms > latest:
            passed_by += 1
            if passed_by == _PASSED_BY and not falls:
                last = _last_upto(connection, part.first, row - 1, latest)
                rows = connection.execute(_FIND, (question, part.first, last))
            continue
        if since is not None and time_ms < since:
            if falls:
                continue
            return
        yield row, time_ms


def _last_upto(connection: sqlite3.Connection, first: int, last: int, latest: int) -> int:
    """Return the last row that is not newer, where times never fall."""
    while first <= last:
        middle = (first + last) // 2
        found = connection.execute(_LAST, (first, middle)).fetchone()
        if found is None or found[1] <= latest:
            first = middle + 1
        else:
            last = found[0] - 1
    return last


def _scored(connection: sqlite3.Connection, query: Query, rows: dict[int, Place], stop: Stop) -> Iterator[Place]:
    """Yield places with their scores."""
    ids = sorted(rows)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        texts = connection.execute(f"SELECT id, atoms FROM search_texts WHERE id IN ({_places(some)})", some)
        for row, atoms in texts:
            stop.check()
            yield rows[row]._replace(goodness=-query.score(atoms))
