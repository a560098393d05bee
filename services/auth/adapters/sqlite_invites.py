"""`InviteStore` on SQLite, in the file of `SqliteAccounts`."""

from __future__ import annotations

import sqlite3

from services.auth.adapters.sqlite_users import Run, atomically
from services.auth.domain.ports import Invite

INVITES_SCHEMA = """
CREATE TABLE IF NOT EXISTS invites (
    sha256 BLOB PRIMARY KEY, note TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL NOT NULL
) WITHOUT ROWID;
"""


class SqliteInvites:
    """The store. `run` gives work the connection of `SqliteAccounts`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def add(self, invite: Invite, now: float) -> None:
        row = (invite.sha256, invite.note, invite.created_at, invite.expires_at)

        def add(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM invites WHERE expires_at <= ?", (now,))
            connection.execute("INSERT INTO invites VALUES (?, ?, ?, ?)", row)

        await self._run(lambda connection: atomically(connection, lambda: add(connection)))

    async def all(self, now: float) -> list[Invite]:
        query = "SELECT sha256, note, created_at, expires_at FROM invites WHERE expires_at > ?"
        return [
            Invite(*row) for row in await self._run(lambda connection: connection.execute(query, (now,)).fetchall())
        ]

    async def is_good(self, sha256: bytes, now: float) -> bool:
        query = "SELECT 1 FROM invites WHERE sha256 = ? AND expires_at > ?"
        return bool(await self._run(lambda connection: connection.execute(query, (sha256, now)).fetchone()))

    async def remove(self, sha256: bytes) -> bool:
        query = "DELETE FROM invites WHERE sha256 = ?"
        return bool(await self._run(lambda connection: connection.execute(query, (sha256,)).rowcount))


def use_invite(connection: sqlite3.Connection, sha256: bytes, now: float) -> bool:
    """Use up an invite, within a transaction; False if it is not good."""
    query = "DELETE FROM invites WHERE sha256 = ? AND expires_at > ?"
    return bool(connection.execute(query, (sha256, now)).rowcount)
