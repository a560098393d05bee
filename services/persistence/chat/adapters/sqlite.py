"""`ChatStore` in the SQLite file of the log.

Every change is one transaction, so nothing of it can be seen before the rest. It shares the log's writer thread, so the
two never wait for each other's lock. Only `drop` takes several transactions, since a conversation may have a million
overlays: the first one hides it (`position` -1), and whoever writes the conversation again deletes what is left.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from services.persistence.adapters.sqlite_database import SqliteDatabase, Transaction
from services.persistence.chat.adapters.sqlite_devices import SqliteDeviceStore
from services.persistence.chat.adapters.sqlite_search import SqliteSearchIndex
from services.persistence.chat.domain.names import namespace_of
from services.persistence.chat.index.ports import SearchIndex
from services.persistence.chat.ports import Changes, Loaded

_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    channel TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    head BLOB NOT NULL,
    namespace TEXT NOT NULL,
    directory TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS conversations_by_name ON conversations (namespace, directory, channel)
    WHERE directory IS NOT NULL;
CREATE TABLE IF NOT EXISTS people (
    channel TEXT NOT NULL,
    user TEXT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (channel, user)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS listed (
    user TEXT NOT NULL,
    channel TEXT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (user, channel)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS listed_by_channel ON listed (channel);
CREATE TABLE IF NOT EXISTS overlays (
    channel TEXT NOT NULL,
    offset INTEGER NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (channel, offset)
) WITHOUT ROWID;
"""
_DROPPED = -1  # position of a conversation whose overlays are being deleted
_OVERLAYS_AT_ONCE = 5_000  # overlays deleted in one transaction, so that writes can come in between
_OFFSETS_AT_ONCE = 500  # offsets in one statement; SQLite takes 999 parameters at least
_IS_THERE = "EXISTS (SELECT 1 FROM conversations WHERE channel = ?1 AND position >= 0)"


class SqliteChatStore:
    """`ChatStore` in an SQLite file, which several processes may share.

    Methods without a docstring are described in `ChatStore`.
    """

    def __init__(
        self, database: SqliteDatabase, on_erased: Callable[[], None] = lambda: None, *, has_search: bool = False
    ) -> None:
        """Create the tables that are missing; who opened the file closes it.

        Args:
            database: The file.
            on_erased: Called when the index of messages has erased something, see `sqlite_search.py`.
            has_search: Whether there is an index of messages; without, its tables are neither made nor touched.

        Raises:
            ConfigError: the file can't be used.
        """
        database.create(_SCHEMA)
        self._run = database.run
        self.devices = SqliteDeviceStore(database)
        self.search: SearchIndex | None = SqliteSearchIndex(database, on_erased) if has_search else None

    async def load(self, channel: str) -> Loaded | None:
        return await self._run("read", "chat_load", partial(_load, channel=channel))

    async def overlays(self, channel: str, offsets: Collection[int]) -> dict[int, bytes]:
        wanted = list(offsets)
        found: dict[int, bytes] = {}
        for start in range(0, len(wanted), _OFFSETS_AT_ONCE):
            part = wanted[start : start + _OFFSETS_AT_ONCE]
            places = ", ".join("?" * len(part))
            query = f"SELECT offset, document FROM overlays WHERE channel = ?1 AND {_IS_THERE} AND offset IN ({places})"
            found |= await self._run("read", "chat_overlays", partial(_pairs, query=query, values=[channel, *part]))
        return found

    async def overlays_between(self, channel: str, first: int, last: int) -> dict[int, bytes]:
        query = (
            f"SELECT offset, document FROM overlays WHERE channel = ?1 AND {_IS_THERE}"
            " AND offset BETWEEN ?2 AND ?3 ORDER BY offset"
        )
        return await self._run("read", "chat_overlays", partial(_pairs, query=query, values=[channel, first, last]))

    async def apply(self, channel: str, expected: int | None, changes: Changes) -> bool:
        return await self._run(
            "write", "chat_apply", partial(_apply, channel=channel, expected=expected, changes=changes)
        )

    async def conversations_of(self, user: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        query = "SELECT channel, document FROM listed WHERE user = ? AND channel > ? ORDER BY channel LIMIT ?"
        return await self._run(
            "read", "chat_list", lambda connection: connection.execute(query, (user, after, limit)).fetchall()
        )

    async def directory(self, namespace: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, str]]:
        name, _, channel = after.rpartition(" ")
        query = (
            "SELECT directory, channel FROM conversations WHERE directory IS NOT NULL AND namespace = ?"
            " AND directory >= ? AND (directory, channel) > (?, ?) ORDER BY directory, channel LIMIT ?"
        )
        values = (namespace, prefix, name, channel, limit)
        found = await self._run("read", "chat_list", lambda connection: connection.execute(query, values).fetchall())
        return [one for one in found if one[0].startswith(prefix)]

    async def drop(self, channel: str, seen: Loaded | None = None) -> None:
        await self._run("write", "chat_drop", partial(_hide, channel=channel, seen=seen))
        some = (
            "DELETE FROM overlays WHERE channel = ?1 AND offset IN (SELECT offset FROM overlays WHERE channel = ?1"
            " AND (SELECT position FROM conversations WHERE channel = ?1) = ?2 LIMIT ?3)"
        )
        bounds = (channel, _DROPPED, _OVERLAYS_AT_ONCE)
        while await self._run("write", "chat_drop", lambda connection: connection.execute(some, bounds).rowcount):
            pass
        forget = "DELETE FROM conversations WHERE channel = ? AND position = ?"
        await self._run("write", "chat_drop", lambda connection: connection.execute(forget, (channel, _DROPPED)))


def _load(connection: sqlite3.Connection, *, channel: str) -> Loaded | None:
    with Transaction(connection, "DEFERRED"):  # both statements see the same
        found = connection.execute(
            "SELECT position, head FROM conversations WHERE channel = ? AND position >= 0", (channel,)
        ).fetchone()
        people = connection.execute("SELECT user, document FROM people WHERE channel = ?", (channel,)).fetchall()
    return Loaded(found[0], found[1], dict(people)) if found else None


def _pairs(connection: sqlite3.Connection, *, query: str, values: Sequence[object]) -> dict[int, bytes]:
    return dict(connection.execute(query, values).fetchall())


def _apply(connection: sqlite3.Connection, *, channel: str, expected: int | None, changes: Changes) -> bool:
    with Transaction(connection):
        found = connection.execute("SELECT position FROM conversations WHERE channel = ?", (channel,)).fetchone()
        position = found[0] if found else None
        if position == _DROPPED:
            connection.execute("DELETE FROM overlays WHERE channel = ?", (channel,))
            position = None
        if position != expected:
            return False
        connection.execute(
            "INSERT OR REPLACE INTO conversations VALUES (?, ?, ?, ?, ?)",
            (channel, changes.position, changes.head, namespace_of(channel), changes.directory),
        )
        for table, documents in (("people", changes.people), ("listed", changes.listed)):
            _change(connection, table, channel, documents)
        connection.executemany(
            "INSERT OR REPLACE INTO overlays VALUES (?, ?, ?)",
            [(channel, offset, document) for offset, document in changes.overlays.items()],
        )
    return True


def _change(connection: sqlite3.Connection, table: str, channel: str, documents: Mapping[str, bytes | None]) -> None:
    """Write or delete the rows of users in one of the two tables that have such."""
    connection.executemany(
        f"DELETE FROM {table} WHERE channel = ? AND user = ?",
        [(channel, user) for user, document in documents.items() if document is None],
    )
    connection.executemany(
        f"INSERT OR REPLACE INTO {table} (channel, user, document) VALUES (?, ?, ?)",
        [(channel, user, document) for user, document in documents.items() if document is not None],
    )


def _hide(connection: sqlite3.Connection, *, channel: str, seen: Loaded | None) -> None:
    """Delete all of a conversation but its overlays, which nobody reads from here on."""
    is_same = "SELECT 1 FROM conversations WHERE channel = ? AND position = ? AND head = ?"
    with Transaction(connection):
        if seen is not None and not connection.execute(is_same, (channel, seen.position, seen.head)).fetchone():
            return
        connection.execute(
            "UPDATE conversations SET position = ?, head = '', directory = NULL WHERE channel = ?", (_DROPPED, channel)
        )
        connection.execute("DELETE FROM people WHERE channel = ?", (channel,))
        connection.execute("DELETE FROM listed WHERE channel = ?", (channel,))
