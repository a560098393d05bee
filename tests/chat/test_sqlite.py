"""Conversations in SQLite: files of earlier versions, crashes, a full disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.persistence.adapters.sqlite_database import SqliteDatabase
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.chat.adapters import sqlite as chat_sqlite
from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.ports import Changes, Loaded
from services.persistence.domain.ports import Row, Written
from services.shared.errors import Unavailable
from tests.support.before_counts import write_before

CHANNEL = "conv:g.file"
ONE = Changes(3, b"{}", {"ann": b"1"}, {"ann": b"1"}, {2: b"1"}, "here")


def row(offset: int) -> Row:
    return Row(CHANNEL, offset, bytes([offset]) * 16, b"p", "1:uk")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLogStore]:
    made = SqliteLogStore(tmp_path / "kept.sqlite3")
    yield made
    await made.close()


@pytest.fixture
def store(log: SqliteLogStore) -> SqliteChatStore:
    return SqliteChatStore(log.database)


def rows_of(path: Path) -> dict[str, int]:
    """Number of rows in each table of conversations."""
    with closing(sqlite3.connect(path)) as connection:
        tables = ("conversations", "people", "listed", "overlays")
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


async def test_a_file_of_before_gets_the_tables_and_that_version_still_writes_to_it(tmp_path: Path) -> None:
    path = tmp_path / "before.sqlite3"
    write_before(path, "epoch", [row(1)], 1.0)
    log = SqliteLogStore(path)
    store = SqliteChatStore(log.database)
    assert (await log.open(CHANNEL)).top == 1
    assert await store.load(CHANNEL) is None
    assert await store.apply(CHANNEL, None, ONE)
    write_before(path, "epoch", [row(2)], 2.0)
    assert (await log.open(CHANNEL)).top == 2
    await log.close()
    again = SqliteLogStore(path)
    assert await SqliteChatStore(again.database).load(CHANNEL) == Loaded(3, b"{}", {"ann": b"1"})
    assert await again.write([row(3)]) == {CHANNEL: Written(3, False)}
    await again.close()


async def test_a_change_that_fails_half_way_leaves_nothing_behind(
    log: SqliteLogStore, store: SqliteChatStore, tmp_path: Path
) -> None:
    assert await store.apply(CHANNEL, None, ONE)
    writer = log.database._connections["write"]  # noqa: SLF001  # the bound below is one of this connection
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    before = rows_of(tmp_path / "kept.sqlite3")
    large = Changes(4, b"new", {"bob": b"2"}, {"bob": b"2"}, dict.fromkeys(range(20), b"x" * 5000))
    with pytest.raises(Unavailable):
        await store.apply(CHANNEL, 3, large)
    assert rows_of(tmp_path / "kept.sqlite3") == before
    assert await store.load(CHANNEL) == Loaded(3, b"{}", {"ann": b"1"})
    assert await store.conversations_of("bob", "", 9) == []
    assert await store.apply(CHANNEL, 3, large), "the connection was made anew, without the bound"
    assert await store.load(CHANNEL) == Loaded(4, b"new", {"ann": b"1", "bob": b"2"})


class Dying:
    """A database whose process dies before the given write."""

    def __init__(self, database: SqliteDatabase, at: int) -> None:
        self._database, self._left = database, at
        self.create = database.create

    async def run(self, role: Any, op: str, work: Callable[[sqlite3.Connection], Any]) -> Any:
        self._left -= role == "write"
        if self._left < 0:
            raise Unavailable("it died")
        return await self._database.run(role, op, work)


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("again", ["drop", "apply"])
async def test_a_drop_that_was_cut_off_shows_nothing_and_can_be_gone_over(
    log: SqliteLogStore,
    store: SqliteChatStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    again: str,
) -> None:
    monkeypatch.setattr(chat_sqlite, "_OVERLAYS_AT_ONCE", 2)
    assert await store.apply(CHANNEL, None, ONE._replace(overlays=dict.fromkeys(range(1, 6), b"1")))
    dying: Any = Dying(log.database, at)
    with pytest.raises(Unavailable):
        await SqliteChatStore(dying).drop(CHANNEL)
    if at == 0:
        assert await store.load(CHANNEL) == Loaded(3, b"{}", {"ann": b"1"})
        await store.drop(CHANNEL)
    assert await store.load(CHANNEL) is None
    assert await store.overlays(CHANNEL, range(1, 6)) == await store.overlays_between(CHANNEL, 1, 5) == {}
    assert await store.conversations_of("ann", "", 9) == []
    assert await store.directory("conv", "", "", 9) == []
    if again == "drop":
        await store.drop(CHANNEL)
        assert not any(rows_of(tmp_path / "kept.sqlite3").values())
    assert not await store.apply(CHANNEL, -1, ONE)
    assert await store.apply(CHANNEL, None, ONE)
    assert await store.overlays_between(CHANNEL, 1, 5) == {2: b"1"}
    assert await store.directory("conv", "", "", 9) == [("here", CHANNEL)]


async def test_a_conversation_written_again_meanwhile_loses_nothing_to_the_rest_of_a_drop(
    log: SqliteLogStore, store: SqliteChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_sqlite, "_OVERLAYS_AT_ONCE", 1)
    assert await store.apply(CHANNEL, None, ONE._replace(overlays=dict.fromkeys(range(1, 6), b"1")))

    class Meanwhile(Dying):
        async def run(self, role: Any, op: str, work: Callable[[sqlite3.Connection], Any]) -> Any:
            self._left -= 1
            if not self._left:
                assert await store.apply(CHANNEL, None, ONE._replace(overlays=dict.fromkeys(range(1, 4), b"2")))
            return await self._database.run(role, op, work)

    dropping: Any = Meanwhile(log.database, 3)
    await SqliteChatStore(dropping).drop(CHANNEL)
    assert await store.load(CHANNEL) == Loaded(3, b"{}", {"ann": b"1"})
    assert await store.overlays_between(CHANNEL, 1, 9) == dict.fromkeys(range(1, 4), b"2")


async def test_a_load_sees_no_half_of_what_another_process_writes_meanwhile(
    log: SqliteLogStore, store: SqliteChatStore, tmp_path: Path
) -> None:
    assert await store.apply(CHANNEL, None, ONE)
    other = SqliteLogStore(tmp_path / "kept.sqlite3")
    changed = ONE._replace(position=4, head=b"new", people={"ann": b"2", "bob": b"2"})
    loop = asyncio.get_running_loop()

    class Between:
        """A connection: before each of its reads, the other process writes."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection, self._reads = connection, 0

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            self._reads += statement.startswith("SELECT")
            if self._reads == 2 and statement.startswith("SELECT"):
                writing = SqliteChatStore(other.database).apply(CHANNEL, 3, changed)
                assert asyncio.run_coroutine_threadsafe(writing, loop).result(5)
            return self._connection.execute(statement, *values)

    class Slow(Dying):
        async def run(self, role: Any, op: str, work: Callable[[Any], Any]) -> Any:
            return await self._database.run(role, op, lambda connection: work(Between(connection)))

    reading: Any = Slow(log.database, 0)
    assert await SqliteChatStore(reading).load(CHANNEL) == Loaded(3, b"{}", {"ann": b"1"})
    assert await store.load(CHANNEL) == Loaded(4, b"new", {"ann": b"2", "bob": b"2"})
    await other.close()
