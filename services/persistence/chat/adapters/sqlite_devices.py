"""`DeviceStore` in the SQLite file of the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from functools import partial
from typing import Any

from services.persistence.adapters.sqlite_database import SqliteDatabase, Transaction
from services.persistence.chat.devices.ports import Kept

_SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
    user TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    document BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS device_owners (
    address TEXT PRIMARY KEY,
    user TEXT NOT NULL
) WITHOUT ROWID;
"""
_AT_ONCE = 500  # values in one statement; SQLite takes 999 parameters at least


class SqliteDeviceStore:
    """`DeviceStore` in an SQLite file; methods are described there."""

    def __init__(self, database: SqliteDatabase) -> None:
        """Create the tables that are missing; who opened the file closes it.

        Raises:
            ConfigError: the file can't be used.
        """
        database.create(_SCHEMA)
        self._run = database.run

    async def devices(self, users: Collection[str]) -> dict[str, Kept]:
        found: dict[str, Kept] = {}
        query = "SELECT user, version, document FROM devices WHERE user IN"
        for part in _parts(users):
            rows = await self._run("read", "devices_read", partial(_select, query=query, values=part))
            found |= {user: Kept(version, document) for user, version, document in rows}
        return found

    async def set_devices(self, user: str, expected: str, kept: Kept | None) -> bool:
        return await self._run("write", "devices_write", partial(_set, user=user, expected=expected, kept=kept))

    async def owners(self, addresses: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        query = "SELECT address, user FROM device_owners WHERE address IN"
        for part in _parts(addresses):
            found |= dict(await self._run("read", "devices_read", partial(_select, query=query, values=part)))
        return found

    async def own(self, address: str, user: str) -> str | None:
        return await self._run("write", "devices_write", partial(_own, address=address, user=user))

    async def disown(self, address: str, user: str) -> None:
        query = "DELETE FROM device_owners WHERE address = ? AND user = ?"
        await self._run("write", "devices_write", lambda connection: connection.execute(query, (address, user)))


def _parts(values: Collection[str]) -> list[list[str]]:
    wanted = list(values)
    return [wanted[start : start + _AT_ONCE] for start in range(0, len(wanted), _AT_ONCE)]


def _select(connection: sqlite3.Connection, *, query: str, values: list[str]) -> list[Any]:
    return connection.execute(f"{query} ({', '.join('?' * len(values))})", values).fetchall()


def _set(connection: sqlite3.Connection, *, user: str, expected: str, kept: Kept | None) -> bool:
    with Transaction(connection):
        found = connection.execute("SELECT version FROM devices WHERE user = ?", (user,)).fetchone()
        if (found[0] if found else "") != expected:
            return False
        if kept is None:
            connection.execute("DELETE FROM devices WHERE user = ?", (user,))
        else:
            connection.execute("INSERT OR REPLACE INTO devices VALUES (?, ?, ?)", (user, *kept))
    return True


def _own(connection: sqlite3.Connection, *, address: str, user: str) -> str | None:
    with Transaction(connection):
        found = connection.execute("SELECT user FROM device_owners WHERE address = ?", (address,)).fetchone()
        connection.execute("INSERT OR REPLACE INTO device_owners VALUES (?, ?)", (address, user))
    return found[0] if found else None
