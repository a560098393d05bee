"""No epoch of a `hot` log spans a loss.

Whatever Redis comes back as, edges go on only with what is whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from services.edge.adapters.redis import acknowledged as acknowledged
from services.edge.adapters.redis import broker as redis_broker
from services.edge.adapters.redis.acknowledged import AcknowledgedPosition, AcknowledgedPositions
from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.model import AppendResult, Publication, StreamPosition
from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.domain.ports import Heartbeat
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.incarnation.calls import parse_incarnation
from tests.edge.adapters.brokers import check_now, forget, generation
from tests.edge.adapters.test_self_check import Reconnects
from tests.support.redis import RedisServer
from tests.support.waiting import until

CHANNEL = "live:incarnation"


async def append(broker: RedisBroker, data: str, channel: str = CHANNEL) -> AppendResult:
    publication = Publication(data.encode(), None, {}, os.urandom(16), "", 1)
    key = os.urandom(8).hex()
    async with asyncio.timeout(30):
        while True:
            try:
                return await broker.append(
                    channel, publication, key_user="u", key=key, history_size=100, history_ttl_s=60
                )
            except Unavailable:
                await asyncio.sleep(0.02)


async def top(broker: RedisBroker) -> StreamPosition:
    async with asyncio.timeout(30):
        while True:
            try:
                return await broker.top(CHANNEL)
            except Unavailable:
                await asyncio.sleep(0.02)


class Store:
    """What persistence keeps of the heartbeat, and the heartbeat itself."""

    def __init__(self, url: str) -> None:
        self.kept = Heartbeat(0, 0)
        self._heartbeat = RedisHeartbeat(url)

    async def heartbeat(self) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    beaten = await self._heartbeat.count_and_compare(self.kept)
                    self.kept = beaten.counted
                    if beaten.incarnation is not None:
                        return
                except Unavailable:
                    pass
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self._heartbeat.close()


@pytest.fixture
async def store(own_redis: RedisServer) -> AsyncIterator[Store]:
    made = Store(own_redis.url)
    await made.heartbeat()
    yield made
    await made.close()


@pytest.fixture
async def brokers(own_redis: RedisServer, store: Store) -> AsyncIterator[list[RedisBroker]]:
    made = [RedisBroker(own_redis.url) for _ in range(2)]
    for broker in made:
        await broker.start(Reconnects(), lambda payload: None)
    await until(lambda: all(broker.is_ready for broker in made))
    yield made
    for broker in made:
        await broker.close()


async def dump(server: RedisServer) -> list[tuple[Any, bytes]]:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        return [(name, value) for name in await client.keys("*") if (value := await client.dump(name)) is not None]


async def go_back(server: RedisServer, dumped: list[tuple[Any, bytes]]) -> None:
    """Killed; comes back as it was at the dump."""
    server.kill()
    server.wipe()
    server.start(whole=False)
    async with redis.asyncio.Redis.from_url(server.url) as client:
        for name, value in dumped:
            await client.restore(name, 0, value)


async def test_killed_with_aof_keeps_epoch_and_offsets(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    before = [await append(brokers[0], str(number)) for number in range(5)]
    own_redis.kill()
    own_redis.start(whole=False)
    await store.heartbeat()
    after = await append(brokers[1], "more")
    assert after.position == StreamPosition(6, before[0].position.epoch)


async def test_before_anybody_compared_redis_with_the_store_nothing_runs_on_it(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    await append(brokers[0], "one")
    own_redis.kill()
    own_redis.start(whole=False)
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await brokers[0].top(CHANNEL)
            await asyncio.sleep(0.01)
        assert not brokers[0].is_ready
        assert await client.xlen(keys.log(CHANNEL)) == 1
    await store.heartbeat()
    await append(brokers[0], "two")


async def test_ready_means_that_calls_succeed_though_one_has_just_failed(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_broker, "_BREAK_S", 60.0)  # so that "just" is as long as the test takes
    own_redis.kill()
    own_redis.start(whole=False)
    broker, store = RedisBroker(own_redis.url), Store(own_redis.url)
    try:
        await broker.start(Reconnects(), lambda payload: None)
        with pytest.raises(Unavailable, match="this incarnation of Redis may not be used yet"):
            await broker.top(CHANNEL)
        await store.heartbeat()
        await until(lambda: broker.is_ready)
        await broker.top(CHANNEL)
    finally:
        await store.close()
        await broker.close()


async def test_without_persistence_hot_logs_begin_anew_after_a_while(
    own_redis: RedisServer, brokers: list[RedisBroker]
) -> None:
    before = await append(brokers[0], "one")
    own_redis.kill()
    own_redis.start(whole=False)
    after = await append(brokers[1], "two")
    assert after.position.epoch != before.position.epoch
    assert after.position.offset == 1
    assert (await top(brokers[0])).epoch == after.position.epoch


@pytest.mark.parametrize("dumped", ["empty", "older"])
async def test_back_empty_or_older_the_heartbeat_gives_a_new_epoch(
    dumped: str, own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    first = await append(brokers[0], "one")
    older = await dump(own_redis) if dumped == "older" else []
    await append(brokers[0], "two")
    await store.heartbeat()  # a second later
    for broker in brokers:
        forget(broker)  # edges that saw nothing: the heartbeat alone
    await go_back(own_redis, older)
    await store.heartbeat()
    now = await top(brokers[1])
    assert now.epoch != first.position.epoch
    assert now.offset == 0


async def test_a_loss_too_young_for_the_heartbeat_is_seen_by_the_edge_that_acknowledged_it(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    first = await append(brokers[0], "one")
    older = await dump(own_redis)
    await append(brokers[0], "two")
    await go_back(own_redis, older)
    await store.heartbeat()  # finds nothing amiss
    # The other edge publishes as soon as it may: not under the epoch that lost something.
    after = await append(brokers[1], "three")
    assert after.position.epoch != first.position.epoch
    assert (await top(brokers[0])).epoch == after.position.epoch


async def test_a_loss_that_was_overtaken_is_seen_too(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    first = await append(brokers[0], "one")
    older = await dump(own_redis)
    await append(brokers[0], "lost")
    await go_back(own_redis, older)
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        # A writer of before this gate: it takes the place of what was lost.
        await client.xadd(keys.log(CHANNEL), {"i": os.urandom(16), "p": b"", "k": ""}, id="2-0")
        await client.hset(keys.meta(CHANNEL), "top", "2")
    await store.heartbeat()
    assert (await top(brokers[0])).epoch != first.position.epoch


async def test_emptied_while_it_runs(own_redis: RedisServer, store: Store, brokers: list[RedisBroker]) -> None:
    first = await append(brokers[0], "one")
    await store.heartbeat()
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        await client.flushall()
    await store.heartbeat()
    after = await append(brokers[0], "two")
    assert after.position.epoch != first.position.epoch
    await until(lambda: generation(brokers[1]) == store.kept.generation)
    assert (await top(brokers[1])).epoch.startswith(f"{store.kept.generation}.")


async def test_an_edge_that_has_not_heard_of_a_generation_yet_writes_nothing_under_the_old_one(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    await append(brokers[0], "one")
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        said = parse_incarnation(await client.get(keys.incarnation()))  # type: ignore[arg-type]
        assert said is not None
        await client.set(keys.incarnation(), f"{said.run_id} {said.generation + 1} 0")
    check_now(brokers[1])
    await until(lambda: generation(brokers[1]) == said.generation + 1)
    after = await append(brokers[1], "two")
    late = await append(brokers[0], "three")
    assert late.position == StreamPosition(2, after.position.epoch)


def test_acknowledged_positions_are_the_last_of_each_channel_and_are_forgotten() -> None:
    kept = AcknowledgedPositions()
    kept.turn(0.0)
    kept.note("a", "3.x", 1, b"1")
    kept.note("a", "3.x", 2, b"2")
    kept.note("a", "3.x", 1, b"late")
    kept.note("stored", "epoch", 9, b"9")
    kept.note("b", "2.x", 5, b"5")
    assert kept.of_generation(3) == [("a", AcknowledgedPosition("3.x", 2, b"2"))]
    kept.turn(100.0)
    assert kept.of_generation(3) == [("a", AcknowledgedPosition("3.x", 2, b"2"))]
    kept.turn(100.0 + acknowledged.KEPT_S)
    assert kept.of_generation(3) == []


def test_acknowledged_positions_have_a_bound(monkeypatch: Any) -> None:
    monkeypatch.setattr(acknowledged, "MAX_CHANNELS", 3)
    kept = AcknowledgedPositions()
    for number in range(10):
        kept.note(str(number), "1.x", 1, b"1")
    assert len(kept.of_generation(1)) == 3


async def test_a_log_that_outlived_its_meta_begins_anew(brokers: list[RedisBroker], own_redis: RedisServer) -> None:
    first = await append(brokers[0], "one")
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        await client.delete(keys.meta(CHANNEL))
    after = await append(brokers[1], "two")
    assert after.position.offset == 1
    assert after.position.epoch != first.position.epoch


async def test_acknowledged_positions_are_kept_while_redis_is_away(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledged, "KEPT_S", 0.05)
    first = await append(brokers[0], "one")
    older = await dump(own_redis)
    await append(brokers[0], "two")
    own_redis.kill()
    await asyncio.sleep(0.5)  # many turns, if it turned
    await go_back(own_redis, older)
    await store.heartbeat()
    assert (await append(brokers[1], "three")).position.epoch != first.position.epoch


async def test_a_redis_that_comes_back_full_can_still_be_read(own_redis: RedisServer, store: Store) -> None:
    """Out of memory refuses writes.

    What says that an incarnation is whole is let through.
    """
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        await client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            await client.set("any", "thing")
        await store.heartbeat()
        broker = RedisBroker(own_redis.url)
        await broker.start(Reconnects(), lambda payload: None)
        try:
            await until(lambda: broker.is_ready)
        finally:
            await broker.close()
            await client.config_set("maxmemory", 0)


async def test_a_clock_that_was_set_back_keeps_no_edge_out(own_redis: RedisServer, store: Store) -> None:
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        said = parse_incarnation(await client.get(keys.incarnation()))  # type: ignore[arg-type]
        assert said is not None
        in_an_hour = int((await client.time())[0] + 3_600) * 1_000
        await client.set(keys.incarnation(), f"{said.run_id} {said.generation} {in_an_hour}")
    broker = RedisBroker(own_redis.url)
    await broker.start(Reconnects(), lambda payload: None)
    try:
        await until(lambda: broker.is_ready)
    finally:
        await broker.close()
