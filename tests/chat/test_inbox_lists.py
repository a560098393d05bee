"""Lists of users in Redis: nothing of before a change outlives it.

However changes and calls overlap.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.inbox.lists import List, Lists
from services.persistence.chat.ports import Changes
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.full import sized

LISTED = b'{"type":"group","role":"member","since":1,"from":0,"at":1}'


class SlowStore:
    """A real store whose answers to readers can be held back."""

    def __init__(self, store: SqliteChatStore) -> None:
        self.store = store
        self.held: list[asyncio.Event] = []
        self.holds = False

    async def conversations_of(self, user: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        found = await self.store.conversations_of(user, after, limit)
        if self.holds:
            self.held.append(asyncio.Event())
            await self.held[-1].wait()
        return found

    async def list(self, user: str, channel: str) -> None:
        listed = {user: LISTED}
        assert await self.store.apply(channel, None, Changes(1, b"{}", {}, listed, {}))


class Readers:
    """Lists, and calls that read them."""

    def __init__(self, conn: redis.asyncio.Redis, pipeline: RedisPipeline, store: SlowStore) -> None:
        self.conn, self.pipeline, self.store = conn, pipeline, store
        self.life = "life.1"
        self.now_ms = 1
        self.lists = Lists(pipeline, store, lambda: self.life, lambda: self.now_ms, most=1_000)  # type: ignore[arg-type]

    async def read(self, user: str = "ann") -> List:
        (reply,) = await self.pipeline.execute([self.lists.command(user)], timeout_s=5.0)
        assert not isinstance(reply, Exception)
        return await self.lists.read(user, reply)

    async def listed(self) -> set[str]:
        return set((await self.read()).conversations)

    async def later(self, seconds: int) -> None:
        """So much time passes for what Redis has of the list."""
        left_ms = await self.conn.pttl(keys.inbox_list("ann"))
        if left_ms > 0:
            await self.conn.pexpire(keys.inbox_list("ann"), max(0, left_ms - 1_000 * seconds))


@pytest.fixture
async def readers(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, tmp_path: Path
) -> AsyncIterator[Readers]:
    rows = SqliteLogStore(tmp_path / "log.sqlite3")
    yield Readers(redis_conn, redis_pipeline, SlowStore(SqliteChatStore(rows.database)))
    await rows.close()


async def test_the_end_of_one_change_says_nothing_of_another(readers: Readers) -> None:
    lists, store = readers.lists, readers.store
    first, second = await lists.changing("conv:1", ["ann"], []), await lists.changing("conv:1", ["ann"], [])
    await store.list("ann", "conv:1")
    await lists.changed(first, ["ann"])
    assert await readers.listed() == {"conv:1"}
    await store.list("ann", "conv:2")  # who wrote it dies before telling
    assert await readers.listed() == {"conv:1", "conv:2"}
    assert second


async def test_a_list_of_another_redis_is_not_taken_for_a_change(readers: Readers) -> None:
    """A call that found one takes no mark away that came meanwhile."""
    lists, store = readers.lists, readers.store
    await readers.read()
    old = await readers.pipeline.execute([lists.command("ann")], timeout_s=5.0)
    readers.life = "life.2"
    await lists.changing("conv:1", ["ann"], [])
    found: Any = old[0]
    await lists.read("ann", found)
    await store.list("ann", "conv:1")
    assert await readers.listed() == {"conv:1"}


async def test_lists_are_kept_again_when_nobody_changes_them(readers: Readers) -> None:
    name = keys.inbox_list("ann")
    for number in range(3):
        mark = await readers.lists.changing("conv:1", ["ann"], [])
        assert 590_000 < await readers.conn.pttl(name) <= 600_000
        await readers.store.list("ann", f"conv:{number}")
        await readers.lists.changed(mark, ["ann"])
        assert not await readers.conn.exists(name)
        assert len(await readers.listed()) == number + 1
        assert await readers.conn.hexists(name, "d")
        assert await readers.conn.pttl(name) > 3_000_000
    readers.life = "life.2"
    assert len(await readers.listed()) == 3
    token: Any = await readers.conn.hget(name, "v")
    assert (await readers.read()).token == token.decode()


async def test_a_slow_write_of_a_process_that_died_is_seen(readers: Readers) -> None:
    """It reaches the store minutes after it was sent; calls in between keep nothing."""
    await readers.lists.changing("conv:1", ["ann"], [])
    for _ in range(5):
        await readers.later(60)
        assert await readers.listed() == set()
    await readers.store.list("ann", "conv:1")
    assert await readers.listed() == {"conv:1"}
    await readers.later(600)
    assert await readers.listed() == {"conv:1"}
    assert await readers.conn.hexists(keys.inbox_list("ann"), "d")


async def test_who_has_no_place_any_more_is_remembered_for_30_days(readers: Readers) -> None:
    lists = readers.lists
    day_ms = 86_400_000
    for day, channel in enumerate(["conv:1", "conv:2", "conv:1"]):
        readers.now_ms = 1 + day * day_ms
        await lists.changing(channel, ["ann", "bob"], ["ann"])
    assert await lists.gone("bob", 0) == []
    assert await lists.gone("ann", 0) == ["conv:2", "conv:1"]
    assert await lists.gone("ann", 1 + 2 * day_ms) == ["conv:1"], "it was left twice"
    readers.now_ms = 2 + 31 * day_ms
    await lists.changing("conv:3", ["ann"], ["ann"])
    assert await lists.gone("ann", 0) == ["conv:1", "conv:3"]


@pytest.mark.parametrize("seed", range(sized(2, 200)))
async def test_who_reads_behind_a_change_sees_it(readers: Readers, seed: int) -> None:
    """Changes, some by processes that die behind the write, and calls."""
    print(f"seed {seed}")
    rng, lists, store = random.Random(seed), readers.lists, readers.store
    written: set[str] = set()
    marked: list[str] = []  # before the write
    unmarked: list[str] = []  # behind it
    reading: list[asyncio.Task[List]] = []
    for number in range(300):
        match rng.choice(
            ["mark", "write", "write", "unmark", "die", "read", "answer", "answer", "a minute", "run out"]
        ):
            case "mark":
                marked.append(await lists.changing("conv:1", ["ann"], []))
            case "write" if marked:
                unmarked.append(marked.pop(rng.randrange(len(marked))))
                await store.list("ann", f"conv:{number}")
                written.add(f"conv:{number}")
            case "unmark" if unmarked:
                await lists.changed(unmarked.pop(rng.randrange(len(unmarked))), ["ann"])
            case "die" if unmarked:
                unmarked.pop(rng.randrange(len(unmarked)))
            case "read":
                store.holds, held = True, len(store.held)
                reading.append(asyncio.create_task(readers.read()))
                while len(store.held) == held and not reading[-1].done():
                    await asyncio.sleep(0.001)
                store.holds = False
            case "answer" if store.held:
                store.held.pop(rng.randrange(len(store.held))).set()
                await asyncio.sleep(0.002)
            case "a minute":
                await readers.later(60)
            case "run out" if not marked:
                await readers.later(600)
            case _:
                continue
        if rng.random() < 0.3:  # else no list may be kept, and the next call takes a token
            assert await readers.listed() == written
    for event in store.held:
        event.set()
    await asyncio.gather(*reading)
    await readers.later(600)
    for _ in range(2):
        assert await readers.listed() == written
