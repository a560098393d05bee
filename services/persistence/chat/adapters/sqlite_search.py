"""`SearchIndex` in the SQLite file of the log, with FTS5.

Purpose. Who searches must not learn anything of conversations that they can't read, not even by the time it takes.

Rules.

* A token of the index is the number of its conversation, `_`, and the token: `2s_hello`. So each conversation has words
  of its own: a search never reads what others wrote, whether it asks for a word or for its beginning.
* The row of a document is number × 2^36 + offset, so rows of a conversation stand in the order of time.
* The table of FTS5 has no content. `search_texts` has what was indexed, which FTS5 must be told again to delete it.
* Documents are written in the log's writer thread, many in one transaction. Searches have a thread of their own: one at
  a time, for two seconds at most, and none goes on for a caller that went away. What the index is asked for in order
  to write it is quick, and goes to the thread of readers.
* With SQLite from 3.42 on, what is deleted is erased at once (`secure-delete`). Before that FTS5 only notes it, and all
  of the index is written anew, step by step (`scrub`). `search_scrubbing` counts transactions that erased something
  (`erased`), and has how many there were when the last whole round of scrubbing began (`scrubbed`).

Example. Conversation 5 has `See you`, at offset 7: row 5 × 2^36 + 7 has the text `5_see 5_you 5__a9f86d0818…`.

Trade-offs. A word stands in the index once for each conversation that has it. With one list of rows for all of them a
rare word of one would be found more quickly. But FTS5 reads all rows of all words with the same beginning before it
looks at which rows are wanted: others' messages would cost time, and show by it.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from services.persistence.adapters.sqlite_database import SqliteDatabase, Transaction
from services.persistence.adapters.sqlite_stop import Stop
from services.persistence.chat.index.analyser import Condition, tokens_of
from services.persistence.chat.index.ports import Asked, Document, Hits, Place, Scope, Update
from services.persistence.chat.index.query import Query

_SCHEMA = """
CREATE TABLE IF NOT EXISTS search_conversations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL UNIQUE,
    indexed INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS search_texts (
    id INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    atoms TEXT NOT NULL,
    tags TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS search_scrubbing (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    erased INTEGER NOT NULL,
    scrubbed INTEGER NOT NULL
);
INSERT OR IGNORE INTO search_scrubbing VALUES (1, 1, 0);
CREATE VIRTUAL TABLE IF NOT EXISTS search_index USING fts5(body, content='', tokenize="ascii tokenchars '_'");
"""
_LONGEST_S = 2.0  # of a search, once it is its turn; edges give up after 2.5 s
_SECURE_FROM = (3, 42)  # version of SQLite
_ERASE_AT_ONCE = "INSERT INTO search_index (search_index, rank) VALUES ('secure-delete', 1)"
_BITS = 36  # of an offset
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PASSED_BY = 16  # hits above a time that are read one by one; then their end is looked for
_MERGED_AT_ONCE = 64  # pages of the index: some milliseconds, in which nothing else is written
_CHANNELS_AT_ONCE = 500  # in one statement; SQLite takes 999 parameters at least
_FIND = (
    "SELECT id, time_ms, atoms FROM search_index JOIN search_texts ON id = search_index.rowid"
    " WHERE search_index MATCH ? AND search_index.rowid BETWEEN ? AND ? ORDER BY search_index.rowid DESC"
)


class SqliteSearchIndex:
    """`SearchIndex` in an SQLite file, which several processes may share.

    Methods without a docstring are described in `SearchIndex`.
    """

    def __init__(
        self, database: SqliteDatabase, on_erased: Callable[[], None], *, longest_s: float = _LONGEST_S
    ) -> None:
        """Create the tables that are missing; who opened the file closes it.

        Args:
            database: The file.
            on_erased: Called when something was erased, of which the write-ahead log may have copies.
            longest_s: How long a search may take, once it is its turn; then it is Unavailable.

        Raises:
            ConfigError: the file can't be used.
        """
        database.create(_SCHEMA)
        self._run, self._on_erased, self._longest_s = database.run, on_erased, longest_s
        self._is_secure = sqlite3.sqlite_version_info >= _SECURE_FROM  # whether FTS5 erases at once
        self._is_told = not self._is_secure  # to do so

    async def indexed(self, channels: Collection[str]) -> dict[str, int]:
        return await self._run("read", "search_indexed", partial(_indexed, channels=list(channels)))

    async def apply(self, updates: Sequence[Update]) -> list[bool]:
        if not self._is_told:
            await self._run("write", "search_apply", lambda connection: connection.execute(_ERASE_AT_ONCE))
            self._is_told = True
        outcome, has_erased = await self._run(
            "write", "search_apply", partial(_apply, updates=updates, is_secure=self._is_secure)
        )
        if has_erased:
            self._on_erased()
        return outcome

    async def find(self, asked: Asked) -> Hits:
        stop = Stop(self._longest_s)
        try:
            return await self._run("search", "search_find", partial(_find, asked=asked, stop=stop))
        finally:
            stop.is_over = True  # the caller may have gone away

    async def offsets_with(self, channel: str, tag: str, above: int, upto: int, most: int) -> list[int]:
        def read(connection: sqlite3.Connection) -> list[int]:
            number = _number(connection, channel)
            if number is None:
                return []
            query = "SELECT rowid FROM search_index WHERE search_index MATCH ? AND rowid BETWEEN ? AND ?"
            values = (_quoted(number, Condition((tag,))), *_rows(number, above, upto), most)
            found = connection.execute(f"{query} ORDER BY rowid LIMIT ?", values)
            return [_offset(row) for (row,) in found]

        return await self._run("read", "search_offsets", read)

    async def offsets_upto(self, channel: str, upto: int, most: int) -> list[int]:
        def read(connection: sqlite3.Connection) -> list[int]:
            number = _number(connection, channel)
            if number is None:
                return []
            query = "SELECT id FROM search_texts WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
            return [_offset(row) for (row,) in connection.execute(query, (*_rows(number, 0, upto), most))]

        return await self._run("read", "search_offsets", read)

    async def behind(self, after: str, most: int) -> tuple[list[str], str]:
        query = (
            "SELECT channel, top > ifnull(indexed, 0) FROM (SELECT * FROM channels WHERE channel > ? ORDER BY channel"
            " LIMIT ?) LEFT JOIN search_conversations USING (channel) ORDER BY channel"
        )
        rows = await self._run(
            "read", "search_behind", lambda connection: connection.execute(query, (after, most)).fetchall()
        )
        return [channel for channel, is_behind in rows if is_behind], rows[-1][0] if len(rows) == most else ""

    async def scrub(self) -> None:
        query = "SELECT erased, scrubbed FROM search_scrubbing"
        erased, scrubbed = await self._run("read", "search_scrub", lambda database: database.execute(query).fetchone())
        if erased == scrubbed:
            return
        pages = -_MERGED_AT_ONCE  # negative: all segments of the index are to become one
        while await self._run("write", "search_scrub", partial(_merge, pages=pages)):
            pages = _MERGED_AT_ONCE
        await self._run("write", "search_scrub", partial(_scrubbed, erased=erased))
        self._on_erased()


# Rows and tokens.


def _rows(number: int, above: int, upto: int) -> tuple[int, int]:
    """Return the first and the last row of a range of offsets."""
    return (number << _BITS) + above + 1, (number << _BITS) + upto


def _offset(row: int) -> int:
    return row & ((1 << _BITS) - 1)


def _number(connection: sqlite3.Connection, channel: str) -> int | None:
    query = "SELECT number FROM search_conversations WHERE channel = ?"
    found = connection.execute(query, (channel,)).fetchone()
    return found[0] if found else None


def _name(number: int) -> str:
    """Return a number as tokens begin with it, in base 36."""
    digits = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits + "_"


def _body(number: int, atoms: Sequence[str], tags: Sequence[str]) -> str:
    """Return the text that FTS5 gets of a document."""
    name = _name(number)
    return " ".join([name + token for token in (*tokens_of(atoms), *tags)])


def _quoted(number: int, condition: Condition) -> str:
    name = _name(number)
    star = "*" if condition.is_prefix else ""
    return f'"{" ".join([name + token for token in condition.tokens])}"{star}'


def _match(number: int, query: Query) -> str:
    """Return the query in the language of FTS5."""
    conditions = [_quoted(number, one) for phrase in query.phrases for one in phrase.conditions()]
    for tags in query.tags:
        conditions.append("(" + " OR ".join([_quoted(number, Condition((tag,))) for tag in tags]) + ")")
    without = [_quoted(number, only) for phrase in query.without if (only := phrase.exactly()) is not None]
    return f"({' AND '.join(conditions)})" + "".join([f" NOT {one}" for one in without])


# Writing.


def _indexed(connection: sqlite3.Connection, channels: Sequence[str]) -> dict[str, int]:
    found = dict.fromkeys(channels, 0)
    for start in range(0, len(channels), _CHANNELS_AT_ONCE):
        some = channels[start : start + _CHANNELS_AT_ONCE]
        places = ", ".join("?" * len(some))
        query = f"SELECT channel, indexed FROM search_conversations WHERE channel IN ({places})"
        found |= dict(connection.execute(query, some).fetchall())
    return found


def _apply(connection: sqlite3.Connection, updates: Sequence[Update], is_secure: bool) -> tuple[list[bool], bool]:
    """Write updates in one transaction; return which were, and whether any erased."""
    outcome: list[bool] = []
    has_erased = False
    with Transaction(connection):
        for update in updates:
            number = _expected(connection, update)
            outcome.append(number is not None)
            if number is not None:
                has_erased |= _put(connection, number, update)
        if has_erased and not is_secure:
            connection.execute("UPDATE search_scrubbing SET erased = erased + 1")
    return outcome, has_erased


def _expected(connection: sqlite3.Connection, update: Update) -> int | None:
    """Return the number of the conversation, which gets one; None: not as expected."""
    query = "SELECT number, indexed FROM search_conversations WHERE channel = ?"
    found = connection.execute(query, (update.channel,)).fetchone()
    if found is None and update.expected == 0:
        connection.execute("INSERT INTO search_conversations (channel, indexed) VALUES (?, 0)", (update.channel,))
        found = connection.execute(query, (update.channel,)).fetchone()
    return found[0] if found is not None and found[1] == update.expected else None


def _put(connection: sqlite3.Connection, number: int, update: Update) -> bool:
    """Write one update; return whether it erased anything."""
    has_erased = False
    for offset, document in update.documents.items():
        row = (number << _BITS) + offset
        kept = connection.execute("SELECT atoms, tags FROM search_texts WHERE id = ?", (row,)).fetchone()
        if kept is not None:
            old = _body(number, *(text.split(" ") if text else [] for text in kept))
            connection.execute(
                "INSERT INTO search_index (search_index, rowid, body) VALUES ('delete', ?, ?)", (row, old)
            )
            connection.execute("DELETE FROM search_texts WHERE id = ?", (row,))
            has_erased = True
        if document is not None:
            _insert(connection, number, row, document)
    if update.indexed != update.expected:
        connection.execute("UPDATE search_conversations SET indexed = ? WHERE number = ?", (update.indexed, number))
    return has_erased


def _insert(connection: sqlite3.Connection, number: int, row: int, document: Document) -> None:
    time_ms, atoms, tags = document
    connection.execute("INSERT INTO search_texts VALUES (?, ?, ?, ?)", (row, time_ms, " ".join(atoms), " ".join(tags)))
    connection.execute("INSERT INTO search_index (rowid, body) VALUES (?, ?)", (row, _body(number, atoms, tags)))


def _merge(connection: sqlite3.Connection, pages: int) -> bool:
    """Write some pages of the index anew; return whether there is more to do."""
    with Transaction(connection):
        before = connection.total_changes
        connection.execute("INSERT INTO search_index (search_index, rank) VALUES ('merge', ?)", (pages,))
        return connection.total_changes - before >= 2


def _scrubbed(connection: sqlite3.Connection, erased: int) -> None:
    """Note for how many transactions that erased something a round was made."""
    with Transaction(connection):
        connection.execute("UPDATE search_scrubbing SET scrubbed = max(scrubbed, ?)", (erased,))


# Finding.


def _find(connection: sqlite3.Connection, asked: Asked, stop: Stop) -> Hits:
    """Return the first hits of all scopes; Unavailable if it has to end before."""
    with Transaction(connection, "DEFERRED"), stop.ending(connection):
        return _found(connection, asked, stop)


def _found(connection: sqlite3.Connection, asked: Asked, stop: Stop) -> Hits:
    found: list[Place] = []
    indexed: dict[str, int] = {}
    has_more = False
    most, after = asked.most, None if asked.by_score else asked.after
    latest = _latest(asked, after)
    for scope in asked.scopes:
        stop.check()
        query = "SELECT number, indexed FROM search_conversations WHERE channel = ?"
        known = connection.execute(query, (scope.channel,)).fetchone()
        number, indexed[scope.channel] = known or (0, 0)
        if not number:
            continue
        for place in _hits(connection, number, scope, asked, latest):
            stop.check()
            if after is not None and place <= after:
                continue
            newest_first = place._replace(goodness=0.0)
            is_full = len(found) == most
            if is_full and newest_first > found[-1]._replace(goodness=0.0):
                has_more = True
                break
            insort(found, place, key=_by_time)
            if is_full:
                found.pop()
                has_more = True
    if asked.by_score:
        found.sort()
        if asked.after is not None:
            found = found[bisect_left(found, asked.after) :]
            found = found[1:] if found and found[0] == asked.after else found
    return Hits(found, has_more, indexed)


def _by_time(place: Place) -> tuple[int, str, int]:
    return place.age, place.channel, place.behind


def _latest(asked: Asked, after: Place | None) -> int | None:
    """Return the newest time that can be wanted, Unix ms; None: any."""
    bounds = [asked.upto_ms, None if after is None else after.time_ms]
    bounds.append(None if asked.query.before is None else asked.query.before - 1)
    return min((bound for bound in bounds if bound is not None), default=None)


def _hits(
    connection: sqlite3.Connection, number: int, scope: Scope, asked: Asked, latest: int | None
) -> Iterator[Place]:
    """Yield the hits of a conversation, the newest first, none newer than `latest`."""
    query = asked.query
    match = _match(number, query)
    first, last = _rows(number, scope.above, scope.position)
    passed_by = 0
    rows = connection.execute(_FIND, (match, first, last))
    while (found := rows.fetchone()) is not None:
        row, time_ms, atoms = found
        if latest is not None and time_ms > latest:
            passed_by += 1
            if passed_by == _PASSED_BY:
                last = _last_upto(connection, first, row - 1, latest)
                rows = connection.execute(_FIND, (match, first, last))
            continue
        if query.since is not None and time_ms < query.since:
            return
        score = query.score(atoms.split(" ") if atoms else ()) if asked.by_score else 0.0
        yield Place(-score, -time_ms, scope.channel, -_offset(row))


def _last_upto(connection: sqlite3.Connection, first: int, last: int, latest: int) -> int:
    """Return the last row that is not newer: times never fall within a conversation."""
    query = "SELECT id, time_ms FROM search_texts WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1"
    while first <= last:
        middle = (first + last) // 2
        found = connection.execute(query, (first, middle)).fetchone()
        if found is None or found[1] <= latest:
            first = middle + 1
        else:
            last = found[0] - 1
    return last
