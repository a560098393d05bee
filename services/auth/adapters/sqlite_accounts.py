"""`AccountStore` on SQLite, in one thread. Only the file's owner may read it."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from services.auth.adapters.sqlite_grants import SCHEMA as GRANTS
from services.auth.adapters.sqlite_grants import SqliteGrants
from services.auth.adapters.sqlite_invites import INVITES_SCHEMA, SqliteInvites, use_invite
from services.auth.adapters.sqlite_users import USERS_SCHEMA, SqliteUsers, atomically
from services.auth.domain.ports import ApiKeyRow, EndedSession, NameTaken, NoInvite, Refresh, SigningKey, User
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from services.shared.sqlite_file import FileWatch, identity, once_unlocked

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY, username TEXT NOT NULL COLLATE NOCASE UNIQUE, password_hash TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS refresh_tokens (
    digest BLOB PRIMARY KEY, user_id TEXT NOT NULL, family TEXT NOT NULL, expires_at REAL NOT NULL,
    used INTEGER NOT NULL DEFAULT 0, revoked INTEGER NOT NULL DEFAULT 0, seed BLOB
);
CREATE INDEX IF NOT EXISTS refresh_by_family ON refresh_tokens (family);
CREATE INDEX IF NOT EXISTS refresh_by_expiry ON refresh_tokens (expires_at);
CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, sha256 BLOB NOT NULL UNIQUE, created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS scoped_api_keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, sha256 BLOB NOT NULL UNIQUE, created_at REAL NOT NULL,
    scopes TEXT NOT NULL, expires_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS api_key_uses (id TEXT PRIMARY KEY, used_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS signing_keys (
    kid TEXT PRIMARY KEY, algorithm TEXT NOT NULL, pem BLOB NOT NULL, created_at REAL NOT NULL
);
"""
_EXPIRED_AT_ONCE = 100  # most expired tokens that one use of a token removes
_BUSY_MS = 2_000  # longest wait of a statement for another process's lock, milliseconds
_CHECK_MS = 500  # the same for the write check, milliseconds; no write of ours holds the lock for that long
T = TypeVar("T")


class SqliteAccounts:
    """The store. Several processes may share the file."""

    def __init__(self, path: Path) -> None:
        """Open the file; create it if it is missing.

        Raises:
            ConfigError: it can't be opened or created.
        """
        self._thread = ThreadPoolExecutor(1, "accounts")
        self.grants = SqliteGrants(self._run)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = once_unlocked(lambda: _opened(path), _BUSY_MS / 1000)
            self._path, self._opened, self._watch = path, identity(path), FileWatch(path)
            self.users = SqliteUsers(self._run)
            self.invites = SqliteInvites(self._run)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"AUTH_DB: {path} can't be used: {error}") from error

    async def close(self) -> None:
        """Finish the running work, then close the file."""
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()

    async def add_user(self, user: User, now: float = 0.0, invite: bytes = b"") -> None:
        def add(connection: sqlite3.Connection) -> None:
            if invite and not use_invite(connection, invite, now):
                raise NoInvite
            try:
                connection.execute("INSERT INTO users VALUES (?, ?, ?)", (user.id, user.username, user.password_hash))
            except sqlite3.IntegrityError as error:
                raise NameTaken from error
            query = "INSERT OR IGNORE INTO profiles (user_id, created_at) VALUES (?, ?)"
            connection.execute(query, (user.id, now))

        await self._run(lambda connection: atomically(connection, lambda: add(connection)))

    async def find_user(self, username: str) -> User | None:
        return await self._user("username = ?", username)

    async def user_by_id(self, user_id: str) -> User | None:
        return await self._user("id = ?", user_id)

    async def _user(self, where: str, value: str) -> User | None:
        found = await self._run(
            lambda connection: connection.execute(
                f"SELECT id, username, password_hash FROM users WHERE {where}", (value,)
            ).fetchone()
        )
        return User(*found) if found else None

    async def add_refresh(self, digest: bytes, refresh: Refresh) -> bool:
        row = (digest, refresh.user_id, refresh.family, refresh.expires_at)

        def add(connection: sqlite3.Connection) -> bool:
            added = connection.execute(
                "INSERT OR IGNORE INTO refresh_tokens (digest, user_id, family, expires_at, revoked)"
                " VALUES (?1, ?2, ?3, ?4, EXISTS (SELECT 1 FROM refresh_tokens WHERE family = ?3 AND revoked))",
                row,
            )
            query = "SELECT seed IS NULL FROM refresh_tokens WHERE digest = ?"
            return bool(added.rowcount or connection.execute(query, (digest,)).fetchone()[0])

        return await self._run(add)

    async def use_refresh(self, digest: bytes, now: float, seed: bytes) -> Refresh | None:
        def use(connection: sqlite3.Connection) -> Refresh | None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute("UPDATE refresh_tokens SET seed = ifnull(seed, ?) WHERE digest = ?", (seed, digest))
                found = connection.execute(
                    "SELECT user_id, family, expires_at, used, revoked, seed FROM refresh_tokens WHERE digest = ?",
                    (digest,),
                ).fetchone()
                if found is not None and found[3]:
                    connection.execute("UPDATE refresh_tokens SET revoked = 1 WHERE family = ?", (found[1],))
                connection.execute(
                    "DELETE FROM refresh_tokens WHERE digest IN"
                    " (SELECT digest FROM refresh_tokens WHERE expires_at < ? LIMIT ?)",
                    (now, _EXPIRED_AT_ONCE),
                )
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            if found is None:
                return None
            return Refresh(found[0], found[1], found[2], bool(found[3]), bool(found[4]), found[5])

        return await self._run(use)

    async def use_up_refresh(self, digest: bytes) -> None:
        await self._run(
            lambda connection: connection.execute("UPDATE refresh_tokens SET used = 1 WHERE digest = ?", (digest,))
        )

    async def revoke_family(self, digest: bytes) -> EndedSession | None:
        def revoke(connection: sqlite3.Connection) -> EndedSession | None:
            query = "SELECT user_id, family FROM refresh_tokens WHERE digest = ?"
            found = connection.execute(query, (digest,)).fetchone()
            if found is None:
                return None
            connection.execute("UPDATE refresh_tokens SET revoked = 1 WHERE family = ?", (found[1],))
            return EndedSession(*found)

        return await self._run(revoke)

    async def add_api_key(self, key: ApiKeyRow) -> None:
        row: tuple[object, ...] = (key.id, key.name, key.sha256, key.created_at)
        query = "INSERT INTO api_keys VALUES (?, ?, ?, ?)"
        if key.is_limited:  # where services of before, which would take it for a key without limits, don't look
            row = (*row, " ".join(key.scopes), key.expires_at)
            query = "INSERT INTO scoped_api_keys VALUES (?, ?, ?, ?, ?, ?)"
        await self._run(lambda connection: connection.execute(query, row))

    async def api_keys(self) -> list[ApiKeyRow]:
        query = (
            "SELECT id, name, sha256, created_at, scopes, expires_at, ifnull(used_at, 0) FROM ("
            "SELECT id, name, sha256, created_at, '' AS scopes, 0 AS expires_at FROM api_keys"
            " UNION ALL SELECT * FROM scoped_api_keys) LEFT JOIN api_key_uses USING (id) ORDER BY created_at"
        )
        rows = await self._run(lambda connection: connection.execute(query).fetchall())
        return [
            ApiKeyRow(key_id, name, sha256, created_at, tuple(scopes.split()), float(expires_at), float(used_at))
            for key_id, name, sha256, created_at, scopes, expires_at, used_at in rows
        ]

    async def remove_api_key(self, key_id: str) -> bool:
        def remove(connection: sqlite3.Connection) -> int:
            queries = ("DELETE FROM api_keys WHERE id = ?", "DELETE FROM scoped_api_keys WHERE id = ?")
            removed = sum(connection.execute(query, (key_id,)).rowcount for query in queries)
            connection.execute("DELETE FROM api_key_uses WHERE id = ?", (key_id,))
            return removed

        return bool(await self._run(remove))

    async def note_api_key_uses(self, uses: Mapping[str, float]) -> None:
        query = (
            "INSERT INTO api_key_uses SELECT ?1, ?2 WHERE"  # a key that was revoked meanwhile leaves nothing
            " EXISTS (SELECT 1 FROM api_keys WHERE id = ?1) OR EXISTS (SELECT 1 FROM scoped_api_keys WHERE id = ?1)"
            " ON CONFLICT (id) DO UPDATE SET used_at = max(used_at, excluded.used_at)"
        )
        await self._run(lambda connection: connection.executemany(query, list(uses.items())))

    async def signing_keys(self) -> list[SigningKey]:
        query = "SELECT kid, algorithm, pem, created_at FROM signing_keys ORDER BY created_at"
        return [SigningKey(*row) for row in await self._run(lambda connection: connection.execute(query).fetchall())]

    async def add_signing_key(self, key: SigningKey) -> None:
        row = (key.kid, key.algorithm, key.pem, key.created_at)
        await self._run(lambda connection: connection.execute("INSERT INTO signing_keys VALUES (?, ?, ?, ?)", row))

    async def remove_signing_key(self, kid: str) -> bool:
        query = "DELETE FROM signing_keys WHERE kid = ?"
        return bool(await self._run(lambda connection: connection.execute(query, (kid,)).rowcount))

    async def version(self) -> int:
        return await self._run(lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0]))

    async def check_writable(self) -> None:
        def lock_and_let_go(connection: sqlite3.Connection) -> None:
            connection.execute(f"PRAGMA busy_timeout = {_CHECK_MS}")
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            finally:
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")

        await self._run(lock_and_let_go)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, work)

    def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            done = work(self._connection)
            # If the files were replaced meanwhile, what was written is lost with the next restart.
            self._watch.check(identity(self._path) == self._opened)
            # A cursor ends in this thread: its end resets its statement, which may be executing again by then.
            return None if isinstance(done, sqlite3.Cursor) else done  # type: ignore[return-value]
        except sqlite3.Error as error:
            logger.error("the account store failed", extra={"error": str(error)})
            raise Unavailable("the account store can't") from error


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA + USERS_SCHEMA + GRANTS + INVITES_SCHEMA)
        if "seed" not in (row[1] for row in connection.execute("PRAGMA table_info(refresh_tokens)")):
            connection.execute("ALTER TABLE refresh_tokens ADD COLUMN seed BLOB")  # the file is of an earlier version
    except BaseException:
        connection.close()
        raise
    return connection
