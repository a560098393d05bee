"""Another platform in another database of the same Redis, under the same prefix.

The younger one stops.
"""

from __future__ import annotations

import logging

import pytest
import redis.asyncio

from services.persistence.adapters.redis.neighbours import Neighbours
from services.persistence.domain.other_store import SILENT_S, OtherStoreFound
from services.persistence.domain.ports import Heartbeat
from services.shared.hotlog import keys
from services.shared.process.config import ConfigError
from tests.persistence.test_other_store import Clock
from tests.support.redis import RedisServer

OURS, OTHERS = Heartbeat(100, 1, "ours"), "others"


@pytest.fixture
async def elsewhere(own_redis: RedisServer) -> redis.asyncio.Redis:
    client = redis.asyncio.Redis(port=own_redis.port, db=3)
    await client.set(keys.store(), OTHERS)
    return client


async def test_one_that_is_in_use_stops_a_start(own_redis: RedisServer, elsewhere: redis.asyncio.Redis) -> None:
    for count in (50, 5_000):  # younger or older: it was there first
        await elsewhere.set(keys.heartbeat(), count)
        clock = Clock()
        neighbours = Neighbours(own_redis.url, clock=clock)
        with pytest.raises(OtherStoreFound):
            await neighbours.check(OURS)
        await elsewhere.incr(keys.heartbeat())
        clock.now += 1
        with pytest.raises(ConfigError, match=r"REDIS_PREFIX: another platform uses this Redis in database 3"):
            await neighbours.check(OURS)
    await elsewhere.aclose()


async def test_one_that_is_not_stops_nobody(own_redis: RedisServer, elsewhere: redis.asyncio.Redis) -> None:
    for count, wait_s in ((50, 2.5), (5_000, SILENT_S)):
        await elsewhere.set(keys.heartbeat(), count)
        clock = Clock()
        neighbours = Neighbours(own_redis.url, clock=clock)
        with pytest.raises(OtherStoreFound):
            await neighbours.check(OURS)
        clock.now += wait_s - 0.1
        with pytest.raises(OtherStoreFound):
            await neighbours.check(OURS)
        clock.now += 0.2
        await neighbours.check(OURS)
    await elsewhere.aclose()


async def test_the_same_store_or_another_prefix_is_no_neighbour(
    own_redis: RedisServer, elsewhere: redis.asyncio.Redis
) -> None:
    await elsewhere.set("staging:store", OTHERS)
    await elsewhere.set(keys.store(), OURS.store)
    await Neighbours(own_redis.url, clock=Clock()).check(OURS)
    await elsewhere.aclose()


@pytest.mark.parametrize("older", [False, True])
async def test_one_that_comes_later(
    own_redis: RedisServer, elsewhere: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture, *, older: bool
) -> None:
    """As one of a version that does not look.

    The one that has counted longer goes on, and says so once.
    """
    await elsewhere.delete(keys.store())
    clock = Clock()
    neighbours = Neighbours(own_redis.url, clock=clock)
    await neighbours.check(OURS)
    await elsewhere.set(keys.store(), OTHERS)
    await elsewhere.set(keys.heartbeat(), 5_000 if older else 50)

    async def go_on() -> None:
        for _ in range(5):
            await elsewhere.incr(keys.heartbeat())
            clock.now += 11
            await neighbours.check(OURS)

    if older:
        with pytest.raises(ConfigError, match="database 3"):
            await go_on()
    else:
        with caplog.at_level(logging.ERROR):
            await go_on()
        assert [record.getMessage().split(":")[0] for record in caplog.records] == ["REDIS_PREFIX"]
    await elsewhere.aclose()


async def test_a_user_that_may_not_look_goes_on(own_redis: RedisServer, elsewhere: redis.asyncio.Redis) -> None:
    await elsewhere.set(keys.heartbeat(), 5)
    await elsewhere.acl_setuser("old", enabled=True, nopass=True, keys="*", commands=["+info", "+get"])
    url = own_redis.url.replace("redis://", "redis://old:x@")
    await Neighbours(url, clock=Clock()).check(OURS)
    await elsewhere.aclose()


async def test_what_somebody_else_keeps_under_such_names_stops_nobody(
    own_redis: RedisServer, elsewhere: redis.asyncio.Redis
) -> None:
    await elsewhere.set(keys.heartbeat(), "a word")
    await elsewhere.select(5)
    await elsewhere.hset(keys.store(), "of", "another")
    await elsewhere.select(6)
    await elsewhere.rpush(keys.heartbeat(), "list")
    await elsewhere.set(keys.store(), b"\xff")
    await Neighbours(own_redis.url, clock=Clock()).check(OURS)
    await elsewhere.aclose()


async def test_many_databases_cost_one_connection(own_redis: RedisServer, elsewhere: redis.asyncio.Redis) -> None:
    """A heartbeat has 2 s, and a distant Redis takes much of that for each connection."""
    for db in range(4, 16):
        await elsewhere.select(db)
        await elsewhere.set(keys.store(), OTHERS)
        await elsewhere.set(keys.heartbeat(), 5)
    before = (await elsewhere.info("stats"))["total_connections_received"]
    with pytest.raises(OtherStoreFound):
        await Neighbours(own_redis.url, clock=Clock()).check(OURS)
    assert (await elsewhere.info("stats"))["total_connections_received"] == before + 1
    await elsewhere.aclose()
