"""A store that finds another name in its Redis waits and changes nothing.

It stops if that one is in use.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import redis.asyncio

from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.other_store import SILENT_S, OtherStore, OtherStoreFound
from services.shared.hotlog import keys
from services.shared.incarnation.calls import Incarnation
from services.shared.process.config import ConfigError
from tests.support.redis import RedisServer


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Platform:
    """A store and who compares it with Redis."""

    def __init__(self, server: RedisServer, path: Path, clock: Clock) -> None:
        self._heartbeat = RedisHeartbeat(server.url, clock=clock)
        self._store = SqliteLogStore(path)

    async def heartbeat(self) -> Incarnation:
        beaten = await self._heartbeat.count_and_compare(await self._store.heartbeat())
        await self._store.keep_heartbeat(beaten.counted)
        assert beaten.incarnation is not None
        return beaten.incarnation

    async def close(self) -> None:
        await self._heartbeat.close()
        await self._store.close()


async def in_redis(client: redis.asyncio.Redis) -> list[object]:
    return list(await client.mget([keys.heartbeat(), keys.incarnation(), keys.store()]))


async def test_the_second_of_two_stops_and_the_first_notices_nothing(own_redis: RedisServer, tmp_path: Path) -> None:
    clock = Clock()
    first = Platform(own_redis, tmp_path / "first.sqlite3", clock)
    second = Platform(own_redis, tmp_path / "second.sqlite3", clock)
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        incarnation = [await first.heartbeat() for _ in range(2)][-1]
        before = await in_redis(client)
        for _ in range(3):
            with pytest.raises(OtherStoreFound):
                await second.heartbeat()
            clock.now += SILENT_S / 4
        assert await in_redis(client) == before
        assert await first.heartbeat() == incarnation
        with pytest.raises(ConfigError, match=r"REDIS_PREFIX: another platform uses this Redis"):
            await second.heartbeat()
        assert await first.heartbeat() == incarnation
    await first.close()
    await second.close()


async def test_a_store_that_is_silent_was_replaced(own_redis: RedisServer, tmp_path: Path) -> None:
    clock = Clock()
    first = Platform(own_redis, tmp_path / "first.sqlite3", clock)
    second = Platform(own_redis, tmp_path / "second.sqlite3", clock)
    await first.heartbeat()
    incarnation = await first.heartbeat()
    with pytest.raises(OtherStoreFound):
        await second.heartbeat()
    clock.now += SILENT_S - 0.1
    with pytest.raises(OtherStoreFound):
        await second.heartbeat()
    clock.now += 0.2
    began = await second.heartbeat()
    assert began.generation > incarnation.generation, "every `stored` channel is compared with the new store"
    assert await second.heartbeat() == began
    # The one that was replaced comes back: now it is the second.
    with pytest.raises(OtherStoreFound):
        await first.heartbeat()
    await second.heartbeat()
    with pytest.raises(ConfigError, match="REDIS_PREFIX"):
        await first.heartbeat()
    await first.close()
    await second.close()


def test_each_other_store_is_watched_from_when_it_was_seen_first() -> None:
    other = OtherStore()
    assert not other.may_be_replaced("a", 5, 0.0)
    assert not other.may_be_replaced("b", 9, SILENT_S + 1)
    assert not other.may_be_replaced("a", 7, SILENT_S + 2)
    other.forget()
    assert not other.may_be_replaced("a", 8, SILENT_S + 3)
    assert other.may_be_replaced("a", 8, 2 * SILENT_S + 3)
    with pytest.raises(ConfigError, match="database 3"):
        other.may_be_replaced("a", 9, 2 * SILENT_S + 4, place=" (database 3)")
