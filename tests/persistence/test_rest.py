"""Redis forgets quiet `stored` channels, and never what is not stored yet."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition
from services.shared.hotlog import hotlog, keys
from services.shared.hotlog.hotlog import EMPTY_TTL_S, REST_TTL_S, Item
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.log import append, unstamped
from tests.support.scripts import run

CHANNEL = "chat:rest"
META = keys.meta(CHANNEL)
HISTORY_TTL_S = 3 * 86_400


class Persistence:
    """One process; `log` appends, stores, sweeps."""

    def __init__(self, pipeline: RedisPipeline, store: SqliteLogStore) -> None:
        self.hot = RedisHotLog(pipeline, lambda: "incarnation")
        self.log = Log(self.hot, store, max_unstored=1_000, max_waiting=10_000, max_batch=256)
        self.running = asyncio.create_task(self.log.run())

    async def publish(self, data: str, key: str = "") -> AppendedPosition:
        request = Request(CHANNEL, item(data, key), 1_000, HISTORY_TTL_S)
        (outcome,) = await append(self.log, [request])
        assert isinstance(outcome, AppendedPosition), outcome
        return outcome

    async def texts(self) -> list[str]:
        found, _ = await self.log.read(CHANNEL, since_offset=0, limit=100, reverse=False)
        return [unstamped(publication).decode() for _, publication in found]


def item(data: str, key: str = "") -> Item:
    return Item(os.urandom(16), data.encode(), "u", key or os.urandom(8).hex())


@pytest.fixture
async def persistence(redis_pipeline: RedisPipeline, tmp_path: Path) -> AsyncIterator[Persistence]:
    store = SqliteLogStore(tmp_path / "log.sqlite3")
    made = Persistence(redis_pipeline, store)
    yield made
    await end_task(made.running)
    await store.close()


async def expire(redis_conn: redis.asyncio.Redis) -> None:
    """The time of all that has one is over."""
    for key in await redis_conn.keys("t:{*"):
        if await redis_conn.ttl(key) >= 0:
            await redis_conn.delete(key)


async def test_names_that_were_only_opened_do_not_stay(
    redis_conn: redis.asyncio.Redis, persistence: Persistence
) -> None:
    before = {name: await persistence.log.open(name) for name in ("chat:a", "chat:b", "chat:c")}
    times = [await redis_conn.ttl(keys.meta(name)) for name in before]
    assert all(0.7 * EMPTY_TTL_S < left < 1.3 * EMPTY_TTL_S for left in times), times
    await expire(redis_conn)
    assert not await redis_conn.keys("t:{*")
    assert {name: await persistence.log.open(name) for name in before} == before  # nobody is told of a gap


async def test_what_is_not_stored_is_never_forgotten(redis_conn: redis.asyncio.Redis, persistence: Persistence) -> None:
    opened = await persistence.log.open(CHANNEL)
    await persistence.hot.append([hotlog.Batch(CHANNEL, 1_000, HISTORY_TTL_S, [item("1", "k")])], 1_000)  # and dies
    assert await redis_conn.ttl(META) == -1
    await persistence.hot.verify(CHANNEL, opened)
    assert await redis_conn.ttl(META) == -1
    assert await persistence.log.sweep(0.0, 10) == 1  # it stores and commits
    assert await persistence.log.sweep(0.0, 10) == 0
    assert await redis_conn.ttl(META) > 0
    assert await persistence.texts() == ["1"]


async def test_a_channel_rests_when_nobody_publishes_and_stays_when_somebody_does(
    redis_conn: redis.asyncio.Redis, persistence: Persistence
) -> None:
    for number in range(3):
        assert (await persistence.publish(str(number))).offset == number + 1
        assert await redis_conn.ttl(META) == -1
        await persistence.log.sweep(0.0, 10)
        left = await redis_conn.ttl(META)
        assert left >= await redis_conn.ttl(keys.log(CHANNEL)) > 0.7 * REST_TTL_S  # the log is not cut off before


async def test_a_channel_that_was_forgotten_goes_on_as_it_was(
    redis_conn: redis.asyncio.Redis, persistence: Persistence
) -> None:
    first = await persistence.publish("1", key="once")
    await persistence.publish("2")
    await persistence.log.sweep(0.0, 10)
    await expire(redis_conn)
    assert not await redis_conn.exists(META)
    assert await persistence.texts() == ["1", "2"]
    await expire(redis_conn)
    assert await persistence.publish("again", key="once") == first._replace(repeated_key=True)
    assert await persistence.publish("3") == AppendedPosition(3, first.epoch, False)
    assert await persistence.texts() == ["1", "2", "3"]
    assert await redis_conn.ttl(META) == -1


async def test_all_that_an_earlier_version_left_rests_when_it_is_compared(
    redis_conn: redis.asyncio.Redis, persistence: Persistence
) -> None:
    opened = await persistence.log.open(CHANNEL)
    await redis_conn.persist(META)
    assert await redis_conn.ttl(META) == -1
    assert await persistence.hot.verify(CHANNEL, opened) == 1
    assert await redis_conn.ttl(META) > 0
    assert await run(redis_conn, [hotlog.rest_call("chat:nobody")]) == [0]
