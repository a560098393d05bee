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
        self.lists = Lists(pipeline, store, lambda: self.life, lambda: 1, most=1_000)  # type: ignore[arg-type]

    async def read(self, user: str = "ann") -> List:
        (reply,) = await self.pipeline.execute([self.lists.command(user)], timeout_s=5.0)
        assert not isinstance(reply, Exception)
        return await self.lists.read(user, reply)

    async def listed(self) -> set[str]:
        return set((await self.read()).conversations)

    async def run_out(self) -> None:
        """All marks and tokens run out: 10 s pass."""
        if 0 <= await self.conn.pttl(keys.inbox_list("ann")) <= 10_000:
            await self.conn.delete(keys.inbox_list("ann"))


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
        assert 9_000 < await readers.conn.pttl(name) <= 10_000
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
        match rng.choice(["mark", "write", "write", "unmark", "die", "read", "answer", "answer", "run out"]):
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
            case "run out" if not marked:
                await readers.run_out()
            case _:
                continue
        if rng.random() < 0.3:  # else no list may be kept, and the next call takes a token
            assert await readers.listed() == written
    for event in store.held:
        event.set()
    await asyncio.gather(*reading)
    await readers.run_out()
    for _ in range(2):
        assert await readers.listed() == written
