"""The file of accounts: what is atomic, what stays, and who may read it."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain.ports import ApiKeyRow, NameTaken, Refresh, User
from services.shared.config import ConfigError

NOW = 1_000.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteAccounts]:
    made = SqliteAccounts(tmp_path / "auth.sqlite3")
    yield made
    await made.close()


def token_of(family: str, expires_at: float = NOW + 60) -> Refresh:
    return Refresh("u1", family, expires_at, used=False, revoked=False)


async def test_names_are_found_and_taken_without_their_case(store: SqliteAccounts) -> None:
    await store.add_user(User("u1", "Ann", "hash"))
    with pytest.raises(NameTaken):
        await store.add_user(User("u2", "aNN", "hash"))
    found = await store.find_user("ANN")
    assert found == User("u1", "Ann", "hash")
    assert await store.user_by_id("u1") == found
    assert await store.find_user("' OR 1=1 --") is None
    assert await store.user_by_id("U1") is None


async def test_a_refresh_token_is_told_as_it_was_before_its_use(store: SqliteAccounts) -> None:
    await store.add_refresh(b"one", token_of("family"))
    assert await store.use_refresh(b"one", NOW) == token_of("family")
    again = await store.use_refresh(b"one", NOW)
    assert again is not None
    assert again.used
    assert await store.use_refresh(b"unknown", NOW) is None


async def test_the_second_use_revokes_every_token_of_the_family_and_no_other(store: SqliteAccounts) -> None:
    for digest, family in ((b"one", "a"), (b"two", "a"), (b"other", "b")):
        await store.add_refresh(digest, token_of(family))
    await store.use_refresh(b"one", NOW)
    await store.use_refresh(b"one", NOW)
    two, other = [await store.use_refresh(digest, NOW) for digest in (b"two", b"other")]
    assert two is not None
    assert other is not None
    assert (two.revoked, other.revoked) == (True, False)


@pytest.mark.parametrize("ended_by", ["reuse", "logout"])
async def test_a_token_that_is_added_to_a_revoked_family_is_revoked_from_its_birth(
    store: SqliteAccounts, ended_by: str
) -> None:
    """One request trades the token, another revokes its family before the first has stored what it traded for."""
    await store.add_refresh(b"one", token_of("family"))
    await store.use_refresh(b"one", NOW)
    if ended_by == "reuse":
        await store.use_refresh(b"one", NOW)
    else:
        await store.revoke_family(b"one")
    await store.add_refresh(b"two", token_of("family"))
    two = await store.use_refresh(b"two", NOW)
    assert two is not None
    assert two.revoked


async def test_expired_tokens_are_forgotten(store: SqliteAccounts) -> None:
    await store.add_refresh(b"old", token_of("a", NOW - 1))
    await store.add_refresh(b"new", token_of("b"))
    assert await store.use_refresh(b"new", NOW) is not None
    assert await store.use_refresh(b"old", NOW) is None


async def test_two_processes_share_the_file_and_notice_each_other(store: SqliteAccounts, tmp_path: Path) -> None:
    other = SqliteAccounts(tmp_path / "auth.sqlite3")
    before = await store.version()
    assert await store.version() == before
    row = ApiKeyRow("id1", "backend", b"digest", NOW)
    await other.add_api_key(row)
    assert await store.version() != before
    assert await store.api_keys() == [row]
    assert await store.remove_api_key("id1")
    assert await other.api_keys() == []
    await other.close()


async def test_many_uses_at_once_from_two_processes_let_one_through(store: SqliteAccounts, tmp_path: Path) -> None:
    other = SqliteAccounts(tmp_path / "auth.sqlite3")
    await store.add_refresh(b"one", token_of("family"))
    uses = await asyncio.gather(*(one.use_refresh(b"one", NOW) for one in (store, other) for _ in range(10)))
    assert sum(use is not None and not use.used for use in uses) == 1
    await other.close()


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
