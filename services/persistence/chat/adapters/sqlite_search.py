"""`SearchIndex` in the SQLite file of the log, with FTS5.

Purpose. Who searches must not learn anything of conversations that they can't read, not even by the time it takes.

Rules.

* A token of the index is the number of its conversation, `_`, and the token: `2s_hello`. So each conversation has words
  of its own: a search never reads what others wrote, whether it asks for a word or for its beginning.
* The row of a document is number × 2^36 + offset, so rows of a conversation stand in the order of the log: that of
  time, unless a rescue put older messages behind newer ones. `search_falls` has each row whose time was below that of
  the row before it.
* The table of FTS5 has no content. `search_texts` has what was indexed, which FTS5 must be told again to delete it.
* Documents are written in the log's writer thread, many in one transaction. Searches have threads of their own, see
  `sqlite_search_find.py`: each takes two seconds at most, and none goes on for a caller that went away. What the index
  is asked for in order to write it is quick, and goes to the thread of readers.
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
from collections.abc import Callable, Collection, Sequence
from functools import partial

from services.persistence.adapters.sqlite_database import SqliteDatabase, Transaction
from services.persistence.adapters.sqlite_stop import Stop
from services.persistence.chat.adapters.sqlite_search_find import find, known
from services.persistence.chat.adapters.sqlite_search_rows import (
    MAX_OFFSET,
    body_of,
    offset_of,
    row_of,
    rows_of,
    with_tag,
)
from services.persistence.chat.index.ports import Asked, Document, Hits, Update

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
CREATE TABLE IF NOT EXISTS search_falls (id INTEGER PRIMARY KEY);
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
_MERGED_AT_ONCE = 64  # pages of the index: some milliseconds, in which nothing else is written


class SqliteSearchIndex:
    """`SearchIndex` in an SQLite file, which several processes may share.

    Methods without a docstring are described in `SearchIndex`.
    """

    rows_at_once = 1
    gone_at_once = 32
    logs_at_once = 1

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
        found = await self._run("read", "search_indexed", partial(known, channels=list(channels)))
        return {channel: found.get(channel, (0, 0))[1] for channel in channels}

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
            return await self._run("search", "search_find", partial(find, asked=asked, stop=stop))
        finally:
            stop.is_over = True  # the caller may have gone away

    async def offsets_with(self, channel: str, tag: str, above: int, upto: int, most: int) -> list[int]:
        def read(connection: sqlite3.Connection) -> list[int]:
            number, _ = known(connection, [channel]).get(channel, (0, 0))
            if not number:
                return []
            query = "SELECT rowid FROM search_index WHERE search_index MATCH ? AND rowid BETWEEN ? AND ?"
            values = (with_tag(number, tag), *rows_of(number, above, upto), most)
            found = connection.execute(f"{query} ORDER BY rowid LIMIT ?", values)
            return [offset_of(row) for (row,) in found]

        return await self._run("read", "search_offsets", read)

    async def offsets_upto(self, channel: str, upto: int, most: int) -> list[int]:
        def read(connection: sqlite3.Connection) -> list[int]:
            number, _ = known(connection, [channel]).get(channel, (0, 0))
            if not number:
                return []
            query = "SELECT id FROM search_texts WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
            return [offset_of(row) for (row,) in connection.execute(query, (*rows_of(number, 0, upto), most))]

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


# Writing.


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
        row = row_of(number, offset)
        kept = connection.execute("SELECT atoms, tags FROM search_texts WHERE id = ?", (row,)).fetchone()
        if kept is not None:
            old = body_of(number, *(text.split(" ") if text else [] for text in kept))
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
    first, last = rows_of(number, 0, MAX_OFFSET)
    connection.execute(
        "INSERT OR IGNORE INTO search_falls SELECT ?1 WHERE ?2 <"
        " (SELECT time_ms FROM search_texts WHERE id < ?1 AND id >= ?3 ORDER BY id DESC LIMIT 1)",
        (row, time_ms, first),
    )
    connection.execute(
        "INSERT OR IGNORE INTO search_falls SELECT id FROM (SELECT id, time_ms FROM search_texts"
        " WHERE id > ?1 AND id <= ?3 ORDER BY id LIMIT 1) WHERE time_ms < ?2",
        (row, time_ms, last),
    )
    connection.execute("INSERT INTO search_index (rowid, body) VALUES (?, ?)", (row, body_of(number, atoms, tags)))


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
