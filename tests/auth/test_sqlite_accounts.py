"""The file of accounts: what is forgotten, and who may read it.

See also tests/contract/test_account_store.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain.ports import Refresh, User
from services.shared.process.config import ConfigError

NOW = 1_000.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteAccounts]:
    made = SqliteAccounts(tmp_path / "auth.sqlite3")
    yield made
    await made.close()


def token_of(family: str, expires_at: float = NOW + 60) -> Refresh:
    return Refresh("u1", family, expires_at, used=False, revoked=False)


async def test_expired_tokens_are_forgotten(store: SqliteAccounts) -> None:
    await store.add_refresh(b"old", token_of("a", NOW - 1))
    await store.add_refresh(b"new", token_of("b"))
    assert await store.use_refresh(b"new", NOW, b"seed") is not None
    assert await store.use_refresh(b"old", NOW, b"seed") is None


def modes_in(folder: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()]


async def test_only_the_owner_may_read_the_file_and_what_belongs_to_it(store: SqliteAccounts, tmp_path: Path) -> None:
    await store.add_user(User("u1", "ann", "hash"))
    modes = modes_in(tmp_path)
    assert len(modes) > 1  # the write-ahead log
    assert all(mode & 0o077 == 0 for mode in modes)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "auth.sqlite3"
    path.write_bytes(b"no database at all, and more than a header of one" * 10)
    with pytest.raises(ConfigError, match=r"AUTH_DB: .*auth\.sqlite3"):
        SqliteAccounts(path)


async def test_a_file_of_before_tokens_had_seeds_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "auth.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE refresh_tokens (digest BLOB PRIMARY KEY, user_id TEXT NOT NULL, family TEXT NOT NULL,"
            " expires_at REAL NOT NULL, used INTEGER NOT NULL DEFAULT 0, revoked INTEGER NOT NULL DEFAULT 0)"
        )
        connection.execute("INSERT INTO refresh_tokens VALUES (?, 'u1', 'a', ?, 0, 0)", (b"old", NOW + 60))
    connection.close()
    for _ in range(2):
        store = SqliteAccounts(path)
        found = await store.use_refresh(b"old", NOW, b"seed")
        await store.close()
        assert found is not None
        assert (found.seed, found.used) == (b"seed", False)


async def test_calls_at_once_do_not_disturb_one_another(store: SqliteAccounts) -> None:
    """A cursor must end in the thread of the store.

    Elsewhere its end resets a statement that may be executing again: of 1,800 calls 2 failed.
    """
    for number in range(1_000):
        await asyncio.gather(*(store.users.add_users([f"u{number}"], 1.0) for _ in range(6)))
