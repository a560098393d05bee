"""`GrantStore` on SQLite, in the file of `SqliteAccounts`."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.auth.domain.ports import GrantRow

SCHEMA = """
CREATE TABLE IF NOT EXISTS grants (
    user_id TEXT NOT NULL, channel TEXT NOT NULL, operation TEXT NOT NULL, expires_at REAL NOT NULL,
    PRIMARY KEY (user_id, channel, operation)
) WITHOUT ROWID;
"""
_GIVE = "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)"
_TAKE = "DELETE FROM grants WHERE user_id = ? AND channel = ? AND operation = ?"
_OF = "SELECT channel, operation, expires_at FROM grants WHERE user_id = ? ORDER BY channel, operation"
Run = Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]


class SqliteGrants:
    """The store.

    `run` calls its argument with the connection, in the thread of the accounts.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    async def give(self, user: str, rows: Sequence[GrantRow]) -> None:
        await self._change(_GIVE, [(user, *row) for row in rows])

    async def take(self, user: str, rows: Sequence[GrantRow]) -> None:
        await self._change(_TAKE, [(user, row.channel, row.operation) for row in rows])

    async def of(self, user: str) -> list[GrantRow]:
        rows = await self._run(lambda connection: connection.execute(_OF, (user,)).fetchall())
        return [GrantRow(*row) for row in rows]

    async def _change(self, query: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Execute the query for all rows, in one transaction."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(query, rows)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

        await self._run(change)
