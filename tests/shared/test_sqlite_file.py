"""Files of SQLite that are deleted or replaced under a running service.

Noticed and refused, for both stores.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.auth.adapters.sqlite_accounts import SqliteAccounts
from services.auth.domain.ports import User
from services.persistence.adapters import sqlite_database
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.ports import Heartbeat, Row
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError


def deleted(path: Path) -> None:
    path.unlink()


def log_deleted(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def all_deleted(path: Path) -> None:
    shutil.rmtree(path.parent)


def replaced(path: Path) -> None:
    shutil.copy(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)


class Log:
    def __init__(self, path: Path) -> None:
        self._store = SqliteLogStore(path)
        self._next = 1

    async def write(self) -> None:
        await self._store.open("chat:1")
        row = Row("chat:1", self._next, os.urandom(16), b"x", "1:uk")
        assert not (await self._store.write([row]))["chat:1"].conflict
        self._next += 1

    async def ask(self) -> None:
        """What readiness asks every second."""
        await self._store.heartbeat()

    async def read(self) -> None:
        await self._store.read("chat:1", since_offset=0, upto=9, limit=9, reverse=False)

    async def keep(self) -> None:
        await self._store.keep_heartbeat(Heartbeat(1, 1))

    async def close(self) -> None:
        await self._store.close()


class Users:
    def __init__(self, path: Path) -> None:
        self._store = SqliteAccounts(path)
        self._next = 1

    async def write(self) -> None:
        self._next += 1
        await self._store.add_user(User(f"id{self._next}", f"user{self._next}", "hash"))

    async def ask(self) -> None:
        await self._store.version()

    async def read(self) -> None:
        await self._store.find_user("user1")

    async def keep(self) -> None:
        await self._store.api_keys()

    async def close(self) -> None:
        await self._store.close()


Store = Log | Users


@pytest.mark.parametrize("kind", [Log, Users])
@pytest.mark.parametrize("harm", [deleted, log_deleted, all_deleted, replaced])
@pytest.mark.parametrize("first", ["write", "ask", "read"])
async def test_nothing_is_done_any_more(
    kind: type[Store], harm: Callable[[Path], None], first: str, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "store.sqlite3"
    store = kind(path)
    for work in (store.write, store.ask, store.read, store.keep):
        await work()
    harm(path)
    order: list[Callable[[], Awaitable[None]]] = [getattr(store, first), store.write, store.ask, store.read, store.keep]
    for again in order * 2:
        with pytest.raises(Unavailable):
            await again()
    await store.close()


@pytest.mark.parametrize("kind", [Log, Users])
async def test_files_that_are_brought_back_are_used_again(kind: type[Store], tmp_path: Path) -> None:
    path = tmp_path / "data" / "store.sqlite3"
    store = kind(path)
    await store.write()
    path.parent.rename(tmp_path / "elsewhere")
    for work in (store.write, store.ask, store.read):
        with pytest.raises(Unavailable):
            await work()
    assert not path.exists(), "no new one is begun"
    (tmp_path / "elsewhere").rename(path.parent)
    for work in (store.write, store.ask, store.read, store.write):
        await work()
    await store.close()


@pytest.mark.parametrize("kind", [Log, Users])
async def test_several_at_one_file_are_no_replacement(kind: type[Store], tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    first = kind(path)
    await first.read()
    second = kind(path)
    for store in (first, second):
        await store.ask()
        await store.read()
    await second.close()
    await first.read()
    await first.write()
    await first.close()


@pytest.mark.parametrize("store", [SqliteLogStore, SqliteAccounts])
@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_new_file_that_another_replica_is_making_is_waited_for(
    store: Callable[[Path], SqliteLogStore | SqliteAccounts], lock: str, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "new", isolation_level=None, check_same_thread=False)
    other.execute(f"BEGIN {lock}")
    other.execute("CREATE TABLE half (made)")
    done = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    done.start()
    made = store(tmp_path / "new")
    done.join()
    other.close()
    asyncio.run(made.close())


def test_a_file_that_stays_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_database, "_BUSY_MS", 100)
    other = sqlite3.connect(tmp_path / "new", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConfigError, match="database is locked"):
        SqliteLogStore(tmp_path / "new")
    other.close()
