"""`UserStore` on SQLite: tables beside that of passwords, in the same file.

The table `users` keeps its three columns, because an auth of before inserts rows by their number. So profiles,
disabled users and what is known of sessions have tables of their own. A session is what its refresh tokens say; its row
in `sessions` says only when and from where it was used.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from services.auth.domain.user_ports import Profile, ProfileVersion, SessionRecord, UserRecord
from services.shared.user_digest import digest_of

USERS_SCHEMA = """
CREATE TABLE IF NOT EXISTS profiles (
    user_id TEXT PRIMARY KEY, display_name TEXT NOT NULL DEFAULT '', avatar_url TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL DEFAULT '', custom BLOB NOT NULL DEFAULT x'', hidden INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS profile_changes (
    user_id TEXT PRIMARY KEY, version INTEGER NOT NULL, changed_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS profile_changes_by_time ON profile_changes (changed_at);
CREATE TABLE IF NOT EXISTS disabled_users (
    digest BLOB PRIMARY KEY, user_id TEXT UNIQUE, disabled_at REAL NOT NULL, until REAL
);
CREATE TABLE IF NOT EXISTS disabled_version (one INTEGER PRIMARY KEY, version INTEGER NOT NULL);
-- from the clock: a new file has a higher version than the one before
INSERT OR IGNORE INTO disabled_version VALUES (1, CAST(strftime('%s', 'now') AS INTEGER) * 1000);
CREATE TABLE IF NOT EXISTS ended_sessions (family TEXT PRIMARY KEY, user_id TEXT NOT NULL, until REAL NOT NULL);
CREATE INDEX IF NOT EXISTS ended_by_user ON ended_sessions (user_id);
CREATE INDEX IF NOT EXISTS ended_by_time ON ended_sessions (until);
CREATE TABLE IF NOT EXISTS sessions (
    family TEXT PRIMARY KEY, user_id TEXT NOT NULL, begun_at REAL NOT NULL, refreshed_at REAL NOT NULL,
    expires_at REAL NOT NULL, peer TEXT NOT NULL, user_agent TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS sessions_by_user ON sessions (user_id);
CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires_at);
CREATE INDEX IF NOT EXISTS refresh_by_user ON refresh_tokens (user_id);
"""
_ALL = "(SELECT id FROM users UNION SELECT user_id FROM profiles)"
_PAGE = """(SELECT id FROM (
    SELECT id FROM (SELECT id FROM users WHERE id > ?1 ORDER BY id LIMIT ?2)
    UNION SELECT id FROM (SELECT user_id AS id FROM profiles WHERE user_id > ?1 ORDER BY user_id LIMIT ?2)
) ORDER BY id LIMIT ?2)"""
_RAISE = "UPDATE disabled_version SET version = version + 1"
_REFUSED = "SELECT 1 FROM disabled_users WHERE digest = {} AND user_id IS NULL AND until > {}"
_RECORD = f"""
SELECT a.id, u.username, p.display_name, p.avatar_url, p.status, p.custom, p.hidden, p.version, p.created_at,
    d.disabled_at
FROM {_ALL} a LEFT JOIN users u ON u.id = a.id LEFT JOIN profiles p ON p.user_id = a.id
    LEFT JOIN disabled_users d ON d.user_id = a.id
"""
_LIVE = """
SELECT family, min(expires_at), max(expires_at) FROM refresh_tokens
WHERE user_id = ? GROUP BY family HAVING NOT max(revoked) AND max(expires_at) > ?
"""
_EXPIRED_AT_ONCE = 100  # most expired rows that one note removes
_AT_ONCE = 500  # most ids of one query
T = TypeVar("T")


class Run(Protocol):
    """Runs work in the thread of the store."""

    def __call__(self, work: Callable[[sqlite3.Connection], T], /) -> Awaitable[T]: ...


class SqliteUsers:
    """The store. `run` gives work the connection of `SqliteAccounts`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def get(self, user_id: str) -> UserRecord | None:
        return (await self.get_many([user_id])).get(user_id)

    async def get_many(self, user_ids: Collection[str]) -> dict[str, UserRecord]:
        def read(connection: sqlite3.Connection) -> dict[str, UserRecord]:
            found: dict[str, UserRecord] = {}
            ids = list(user_ids)
            for start in range(0, len(ids), _AT_ONCE):
                some = ids[start : start + _AT_ONCE]
                query = f"{_RECORD.replace(_ALL, _those(len(some)))}"
                found |= {row[0]: _record(row) for row in connection.execute(query, some + some)}
            return found

        return await self._run(read)

    async def page(self, after: str, limit: int) -> tuple[list[UserRecord], str]:
        query = f"{_RECORD.replace(_ALL, _PAGE)} ORDER BY a.id"
        rows = await self._run(lambda connection: connection.execute(query, (after, limit + 1)).fetchall())
        records = [_record(row) for row in rows[:limit]]
        return records, records[-1].id if len(rows) > limit else ""

    async def add_users(self, user_ids: Collection[str], now: float) -> None:
        query = (
            "INSERT OR IGNORE INTO profiles (user_id, created_at)"
            " SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM users WHERE id = ?1)"
            f" AND NOT EXISTS ({_REFUSED.format('?3', '?2')})"
        )
        rows = [(user_id, now, digest_of(user_id)) for user_id in user_ids]
        await self._run(lambda connection: atomically(connection, lambda: connection.executemany(query, rows)))

    async def add_seen(self, names: Mapping[str, str], now: float) -> None:
        query = (
            "INSERT OR IGNORE INTO profiles (user_id, display_name, created_at)"
            " SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM users WHERE id = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM disabled_users WHERE digest = ?4 AND (until IS NULL OR until > ?3))"
        )
        rows = [(user_id, name, now, digest_of(user_id)) for user_id, name in names.items()]
        await self._run(lambda connection: atomically(connection, lambda: connection.executemany(query, rows)))

    async def put_profile(self, user_id: str, profile: Profile, now: float) -> bool:
        values = (
            *(user_id, profile.display_name, profile.avatar_url, profile.status, profile.custom, profile.hidden),
            profile.version,
            now,
            digest_of(user_id),
        )
        insert = (
            "INSERT INTO profiles (user_id, display_name, avatar_url, status, custom, hidden, version, created_at)"
            " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7,"
            " CASE WHEN EXISTS (SELECT 1 FROM users WHERE id = ?1) THEN 0 ELSE ?8 END"
            " WHERE (?7 = 1 OR EXISTS (SELECT 1 FROM profiles WHERE user_id = ?1))"
            f" AND NOT EXISTS ({_REFUSED.format('?9', '?8')})"
            " ON CONFLICT (user_id) DO UPDATE SET display_name = ?2, avatar_url = ?3, status = ?4, custom = ?5,"
            " hidden = ?6, version = ?7 WHERE version = ?7 - 1"
        )

        def put(connection: sqlite3.Connection) -> bool:
            is_put = bool(connection.execute(insert, values).rowcount)
            if is_put:
                note = "INSERT OR REPLACE INTO profile_changes VALUES (?, ?, ?)"
                connection.execute(note, (user_id, profile.version, now))
            return is_put

        return await self._run(lambda connection: atomically(connection, lambda: put(connection)))

    async def profile_changes(self, since: float, limit: int) -> list[ProfileVersion]:
        query = "SELECT user_id, version FROM profile_changes WHERE changed_at >= ? ORDER BY changed_at DESC LIMIT ?"
        rows = await self._run(lambda connection: connection.execute(query, (since, limit)).fetchall())
        return [ProfileVersion(*row) for row in rows]

    async def forget_profile_changes(self, before: float, limit: int) -> None:
        query = (
            "DELETE FROM profile_changes WHERE user_id IN"
            " (SELECT user_id FROM profile_changes WHERE changed_at < ? LIMIT ?)"
        )
        await self._run(lambda connection: connection.execute(query, (before, limit)))

    async def is_disabled(self, user_id: str, now: float) -> bool:
        query = "SELECT 1 FROM disabled_users WHERE digest = ? AND (until IS NULL OR until > ?)"
        row = await self._run(lambda connection: connection.execute(query, (digest_of(user_id), now)).fetchone())
        return row is not None

    async def disable(self, user_id: str, now: float) -> None:
        def disable(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM disabled_users WHERE digest = ? AND until <= ?", (digest_of(user_id), now))
            query = "INSERT OR IGNORE INTO disabled_users VALUES (?, ?, ?, NULL)"
            connection.execute(query, (digest_of(user_id), user_id, now))
            connection.execute(_RAISE)

        await self._run(lambda connection: atomically(connection, lambda: disable(connection)))

    async def enable(self, user_id: str) -> None:
        def enable(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM disabled_users WHERE user_id = ?", (user_id,))
            connection.execute(_RAISE)

        await self._run(lambda connection: atomically(connection, lambda: enable(connection)))

    async def disabled_version(self) -> int:
        query = "SELECT version FROM disabled_version"
        return int(await self._run(lambda connection: connection.execute(query).fetchone()[0]))

    async def disabled(self, now: float) -> list[bytes]:
        query = "SELECT digest FROM disabled_users WHERE until IS NULL OR until > ? ORDER BY digest"
        return [row[0] for row in await self._run(lambda connection: connection.execute(query, (now,)).fetchall())]

    async def delete(self, user_id: str, now: float, refused_until: float) -> None:
        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM disabled_users WHERE until <= ?", (now,))
            connection.execute("DELETE FROM disabled_users WHERE user_id = ?", (user_id,))
            connection.execute(
                "INSERT OR REPLACE INTO disabled_users VALUES (?, NULL, ?, ?)", (digest_of(user_id), now, refused_until)
            )
            for table, column in (
                *(("users", "id"), ("profiles", "user_id"), ("sessions", "user_id"), ("refresh_tokens", "user_id")),
                *(("ended_sessions", "user_id"), ("profile_changes", "user_id")),
            ):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (user_id,))
            connection.execute(_RAISE)

        await self._run(lambda connection: atomically(connection, lambda: delete(connection)))

    async def set_password(self, user_id: str, password_hash: str, old_hash: str) -> bool:
        query = "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?"
        values = (password_hash, user_id, old_hash)
        return bool(await self._run(lambda connection: connection.execute(query, values).rowcount))

    async def note_session(self, session: SessionRecord) -> None:
        row = (
            *(session.family, session.user_id, session.begun_at, session.refreshed_at),
            *(session.expires_at, session.peer, session.user_agent, _EXPIRED_AT_ONCE),
        )

        def note(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (family) DO UPDATE SET"
                " refreshed_at = ?4, expires_at = ?5, peer = ?6, user_agent = ?7",
                row[:-1],
            )
            connection.execute(
                "DELETE FROM sessions WHERE family IN (SELECT family FROM sessions WHERE expires_at < ? LIMIT ?)",
                (session.refreshed_at, _EXPIRED_AT_ONCE),
            )

        await self._run(lambda connection: atomically(connection, lambda: note(connection)))

    async def sessions(self, user_id: str, now: float) -> list[SessionRecord]:
        def read(connection: sqlite3.Connection) -> list[SessionRecord]:
            query = "SELECT family, begun_at, refreshed_at, peer, user_agent FROM sessions WHERE user_id = ?"
            known = {row[0]: row[1:] for row in connection.execute(query, (user_id,))}
            found = []
            for family, _, expires_at in connection.execute(_LIVE, (user_id, now)):
                begun_at, refreshed_at, peer, user_agent = known.get(family, (0.0, 0.0, "", ""))
                found.append(SessionRecord(user_id, family, begun_at, refreshed_at, expires_at, peer, user_agent))
            return sorted(found, key=lambda session: (session.refreshed_at, session.family), reverse=True)

        return await self._run(read)

    async def end_sessions(self, user_id: str, families: Sequence[str], until: float) -> list[str]:
        return await self._run(
            lambda connection: atomically(connection, lambda: _end(connection, user_id, families, until))
        )

    async def end_all(self, user_id: str, kept: str, now: float, until: float) -> list[str]:
        def end(connection: sqlite3.Connection) -> list[str]:
            connection.execute("DELETE FROM ended_sessions WHERE until <= ?", (now,))
            before = _ended(connection, user_id, now)
            live = [row[0] for row in connection.execute(_LIVE, (user_id, now)) if row[0] != kept]
            return [*_end(connection, user_id, live, until), *(family for family in before if family != kept)]

        return await self._run(lambda connection: atomically(connection, lambda: end(connection)))

    async def ended(self, user_id: str, now: float) -> list[str]:
        return await self._run(lambda connection: _ended(connection, user_id, now))

    async def is_over(self, user_id: str, family: str) -> bool:
        return False  # here a session is what its refresh tokens say, whoever began it


def _end(connection: sqlite3.Connection, user_id: str, families: Sequence[str], until: float) -> list[str]:
    ended = []
    for family in families:
        query = "UPDATE refresh_tokens SET revoked = 1 WHERE family = ? AND user_id = ?"
        if connection.execute(query, (family, user_id)).rowcount:
            ended.append(family)
            connection.execute("DELETE FROM sessions WHERE family = ?", (family,))
            connection.execute("INSERT OR REPLACE INTO ended_sessions VALUES (?, ?, ?)", (family, user_id, until))
    return ended


def _ended(connection: sqlite3.Connection, user_id: str, now: float) -> list[str]:
    query = "SELECT family FROM ended_sessions WHERE user_id = ? AND until > ? ORDER BY family"
    return [row[0] for row in connection.execute(query, (user_id, now))]


def _those(count: int) -> str:
    """Return `_ALL`, but for so many ids only, which are given twice."""
    marks = ",".join("?" * count)
    return f"(SELECT id FROM users WHERE id IN ({marks}) UNION SELECT user_id FROM profiles WHERE user_id IN ({marks}))"


def _record(row: Sequence[Any]) -> UserRecord:
    user_id, username, display_name, avatar_url, status, custom, hidden, version, created_at, disabled_at = row
    profile = Profile(
        display_name or "", avatar_url or "", status or "", bytes(custom or b""), bool(hidden), version or 0
    )
    return UserRecord(user_id, username or "", profile, created_at or 0.0, disabled_at or 0.0)


def atomically(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    """Return the result of `work`, which is one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = work()
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return done
