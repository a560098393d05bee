"""The append-only file of Redis loses what was erased, in time and by one replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.redis.rewrites import DUE_S, AofRewrites, oldest_ms
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.redis.client import redis_client
from services.shared.redis.pipeline import RedisPipeline
from tests.support.redis import RedisServer

SECRET = b"planted:b1946ac92492d234"
CHANNEL = "conv:g.a"
HOUR = 3_600.0


class Clock:
    """The real time, and what the test adds."""

    later_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.later_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(own_redis: RedisServer) -> AsyncIterator[RedisPipeline]:
    made = RedisPipeline(own_redis.url)
    yield made
    await made.aclose()


async def plant_and_erase(server: RedisServer, pipeline: RedisPipeline) -> None:
    async with redis_client(server.url) as client:
        await client.config_set("rdbcompression", "no")
        fields = {"i": b"1" * 16, "p": SECRET, "k": "1:u", "n": "key"}
        await client.xadd(keys.log(CHANNEL), fields, id="1-0")  # type: ignore[arg-type]
        await client.hset(keys.meta(CHANNEL), mapping={"epoch": "e", "top": 1, "stored": 1})
    assert await RedisHotLog(pipeline).erase(CHANNEL, {1: b"gone"}, 1)


async def rewrites(server: RedisServer) -> int:
    """How many there were since it was started, once none is under way."""
    async with redis_client(server.url) as client:
        async with asyncio.timeout(30):
            while True:
                said = await client.info("persistence")
                if not said["aof_rewrite_in_progress"] and not said.get("aof_rewrite_scheduled"):
                    return int(said["aof_rewrites"])
                await asyncio.sleep(0.02)


def metric() -> float | None:
    return REGISTRY.get_sample_value("thalamus_erasure_oldest_seconds", {"target": "aof"})


async def test_what_was_erased_is_out_of_the_file_a_day_later_by_one_rewrite_of_one_replica(
    own_redis: RedisServer, client: RedisPipeline, clock: Clock
) -> None:
    replicas = [AofRewrites(client, clock) for _ in range(3)]
    before = await rewrites(own_redis)
    await plant_and_erase(own_redis, client)
    await replicas[0].look()
    assert await rewrites(own_redis) == before
    assert own_redis.files_with(SECRET) != []
    for hour in range(25):
        clock.later_s = hour * HOUR + 60
        for replica in replicas:
            await replica.look()
            await rewrites(own_redis)
    assert own_redis.files_with(SECRET) == []
    assert await rewrites(own_redis) == before + 1
    assert await oldest_ms(client) is None
    assert metric() == 0


async def test_the_metric_is_the_age_of_the_oldest_also_while_the_file_is_rewritten(
    own_redis: RedisServer, client: RedisPipeline, clock: Clock
) -> None:
    replica = AofRewrites(client, clock)
    await plant_and_erase(own_redis, client)
    clock.later_s = 5 * HOUR
    await replica.look()
    assert metric() == pytest.approx(5 * HOUR, abs=30)
    clock.later_s = DUE_S + 1
    await replica.look()
    assert await oldest_ms(client) is not None, "until it is known to be done"
    await rewrites(own_redis)
    await replica.look()
    assert await oldest_ms(client) is None


async def test_what_is_erased_while_the_file_is_rewritten_waits_for_the_next_time(
    own_redis: RedisServer, client: RedisPipeline, clock: Clock
) -> None:
    replica = AofRewrites(client, clock)
    await plant_and_erase(own_redis, client)
    clock.later_s = DUE_S + 1
    await replica.look()
    await client.execute([("DEL", keys.log(CHANNEL))], timeout_s=2)
    await plant_and_erase(own_redis, client)
    await rewrites(own_redis)
    await replica.look()
    oldest = await oldest_ms(client)
    assert oldest is not None
    assert abs(oldest / 1_000 - time.time()) < 60


async def test_a_rewrite_that_fails_or_is_cut_off_is_tried_again_an_hour_later(
    own_redis: RedisServer, client: RedisPipeline, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    replica = AofRewrites(client, clock)
    await plant_and_erase(own_redis, client)
    clock.later_s = DUE_S + 1
    rules = ["reset", "on", ">pw", "~*", "&*", "+@all", "-bgrewriteaof"]
    await client.execute([("ACL", "SETUSER", "less", *rules)], timeout_s=2)
    less = RedisPipeline(own_redis.url.replace("redis://", "redis://less:pw@"))
    await AofRewrites(less, clock).look()  # as before the rights were updated
    await less.aclose()
    assert "can't be rewritten" in caplog.text
    for _ in range(3):
        await replica.look()
    before = await rewrites(own_redis)
    assert await oldest_ms(client) is not None
    clock.later_s += HOUR
    await client.execute([("CONFIG", "SET", "rdb-key-save-delay", 10_000_000)], timeout_s=2)
    await replica.look()  # it begins, and Redis dies in the midst of it
    own_redis.kill()
    own_redis.start(whole=False)
    async with asyncio.timeout(30):
        while True:
            try:
                await replica.look()
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    assert await oldest_ms(client) is not None
    assert own_redis.files_with(SECRET) != []
    clock.later_s += HOUR
    await replica.look()
    await rewrites(own_redis)
    await replica.look()
    assert await oldest_ms(client) is None
    assert own_redis.files_with(SECRET) == []
    assert before == 0


async def test_a_redis_without_such_a_file_needs_nothing(
    own_redis: RedisServer, client: RedisPipeline, clock: Clock
) -> None:
    await client.execute([("CONFIG", "SET", "appendonly", "no")], timeout_s=2)
    await plant_and_erase(own_redis, client)
    await AofRewrites(client, clock).look()
    assert await oldest_ms(client) is None
