"""`MarkerStore` in the SQLite file of the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from functools import partial

from services.persistence.adapters.sqlite_database import SqliteDatabase, Transaction
from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.record import Record

_SCHEMA = """
CREATE TABLE IF NOT EXISTS markers (
    user TEXT NOT NULL,
    channel TEXT NOT NULL,
    generation INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    version INTEGER NOT NULL,
    settings TEXT NOT NULL,
    PRIMARY KEY (user, channel)
) WITHOUT ROWID;
"""
_COLUMNS = "generation, offset, delivered, epoch, version, settings"
_AT_ONCE = 500  # records of one transaction, so that publications can come in between


class SqliteMarkerStore:
    """`MarkerStore` in an SQLite file, which several processes may share.

    Methods without a docstring are described in `MarkerStore`.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        """Create the table if it is missing; who opened the file closes it.

        Raises:
            ConfigError: the file can't be used.
        """
        database.create(_SCHEMA)
        self._run = database.run

    async def load(self, wanted: Collection[Of]) -> dict[Of, Record]:
        return await self._run("read", "markers_load", partial(_load, wanted=list(wanted)))

    async def merge(self, records: Sequence[tuple[Of, Record]]) -> None:
        for start in range(0, len(records), _AT_ONCE):
            part = records[start : start + _AT_ONCE]
            await self._run("write", "markers_merge", partial(_merge, records=part))

    async def of_user(self, user: str, after: str, limit: int) -> Sequence[tuple[str, Record]]:
        query = f"SELECT channel, {_COLUMNS} FROM markers WHERE user = ? AND channel > ? ORDER BY channel LIMIT ?"
        values = (user, after, limit)
        found = await self._run("read", "markers_load", lambda connection: connection.execute(query, values).fetchall())
        return [(channel, Record(*values)) for channel, *values in found]

    async def forget(self, wanted: Collection[Of]) -> None:
        await self._run("write", "markers_forget", partial(_forget, wanted=list(wanted)))


def _load(connection: sqlite3.Connection, *, wanted: Sequence[Of]) -> dict[Of, Record]:
    query = f"SELECT {_COLUMNS} FROM markers WHERE user = ? AND channel = ?"
    rows = ((of, connection.execute(query, of).fetchone()) for of in wanted)
    return {of: Record(*row) for of, row in rows if row is not None}


def _merge(connection: sqlite3.Connection, *, records: Sequence[tuple[Of, Record]]) -> None:
    with Transaction(connection):
        kept = _load(connection, wanted=[of for of, _ in records])
        for of, record in records:  # the same may be there twice
            kept[of] = kept[of].merged(record) if of in kept else record
        connection.executemany(
            f"INSERT OR REPLACE INTO markers (user, channel, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(*of, *record) for of, record in kept.items()],
        )


def _forget(connection: sqlite3.Connection, *, wanted: Sequence[Of]) -> None:
    with Transaction(connection):
        connection.executemany("DELETE FROM markers WHERE user = ? AND channel = ?", wanted)
