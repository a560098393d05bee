"""A Redis that comes back from an older copy, or becomes one while it runs.

No place is given twice in one epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import redis.asyncio

from services.edge.adapters.redis import incarnation as redis_incarnation
from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.model import StreamPosition
from services.persistence.adapters.redis import heartbeat as redis_heartbeat
from services.persistence.domain.ports import Heartbeat
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.incarnation.calls import parse_incarnation
from tests.edge.adapters.brokers import forget, generation, stop_watching
from tests.edge.adapters.test_incarnation_watch import CHANNEL, Store, append, brokers, dump, go_back, store, top
from tests.edge.adapters.test_self_check import Reconnects
from tests.support.redis import RedisServer
from tests.support.waiting import until

__all__ = ["brokers", "store"]  # fixtures

COUNT = 9


async def append_some(made: Sequence[RedisBroker], count: int = COUNT) -> list[StreamPosition]:
    return [(await append(made[number % len(made)], str(number))).position for number in range(count if made else 0)]


async def persistence_comes_back(server: RedisServer, kept: Heartbeat) -> Store:
    """A process that remembers nothing but what the store has."""
    made = Store(server.url)
    made.kept = kept
    await made.heartbeat()
    return made


@pytest.mark.parametrize("edges", ["alive", "quiet", "dead", "started anew"])
async def test_an_older_copy_is_noticed_though_the_kept_heartbeat_is_older_still(
    edges: str,
    own_redis: RedisServer,
    store: Store,
    brokers: list[RedisBroker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_heartbeat, "WAITS_S", 0.5)
    kept = store.kept
    before = await append_some(brokers)
    older = await dump(own_redis)
    lost = await append_some(brokers)
    if edges in ("dead", "started anew"):
        for broker in brokers:
            await broker.close()
    if edges == "quiet":
        for broker in brokers:
            forget(broker)
        await asyncio.sleep(2 * redis_incarnation.EVERY_S)
    await go_back(own_redis, older)
    after = brokers
    if edges in ("dead", "started anew"):
        after = [RedisBroker(own_redis.url) for _ in brokers]
        if edges == "started anew":
            for broker in after:
                await broker.start(Reconnects(), lambda payload: None)
    again = await persistence_comes_back(own_redis, kept)
    if edges == "dead":
        for broker in after:
            await broker.start(Reconnects(), lambda payload: None)
    given = await append_some(after)
    assert len({*before, *lost, *given}) == 3 * COUNT
    if edges in ("dead", "started anew"):
        for broker in after:
            await broker.close()
    await again.close()


async def test_an_edge_that_died_with_what_it_acknowledged_is_missed(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other edge and persistence find everything that they know of.

    It is the dead one that would know better.
    """
    monkeypatch.setattr(redis_heartbeat, "WAITS_S", 0.5)
    monkeypatch.setattr(redis_incarnation, "EVERY_S", 60.0)  # the other one does not look again before the end
    await asyncio.sleep(0.6)
    older = await dump(own_redis)
    lost = await append_some(brokers[:1], 1)
    broker = brokers[0]
    stop_watching(broker)  # it says no farewell
    await go_back(own_redis, older)
    await store.heartbeat()
    given = await append_some(brokers[1:], 1)
    assert given != lost


@pytest.mark.parametrize("persistence", ["restarted", "running"])
async def test_whole_and_vouched_for_the_epoch_stays(
    persistence: str, own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    """Also where persistence was started anew with Redis.

    The edges have been watching.
    """
    kept = store.kept
    before = await append_some(brokers)
    own_redis.kill()
    await asyncio.sleep(1.0)
    own_redis.start(whole=False)
    if persistence == "running":
        await store.heartbeat()
    else:
        again = await persistence_comes_back(own_redis, kept)
        await again.close()
    after = await append_some(brokers)
    assert {position.epoch for position in after} == {before[0].epoch}
    assert [position.offset for position in after] == list(range(COUNT + 1, 2 * COUNT + 1))


async def test_a_new_process_alone_can_not_tell(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything was down: nobody has seen what was acknowledged last."""
    monkeypatch.setattr(redis_heartbeat, "WAITS_S", 0.5)
    before = await append_some(brokers)
    for broker in brokers:
        await broker.close()
    own_redis.kill()
    own_redis.start(whole=False)
    again = await persistence_comes_back(own_redis, store.kept)
    broker = RedisBroker(own_redis.url)
    await broker.start(Reconnects(), lambda payload: None)
    assert (await append(broker, "after")).position.epoch != before[0].epoch
    await broker.close()
    await again.close()


async def become_a_copy(server: RedisServer, way: str, lose: Sequence[RedisBroker]) -> list[StreamPosition]:
    """Make a copy, acknowledge some, and have the running server become the copy.

    Return what was acknowledged.
    """
    async with redis.asyncio.Redis.from_url(server.url) as client:
        if way == "DEBUG RELOAD":
            await client.save()
            lost = await append_some(lose)
            await client.execute_command("DEBUG", "RELOAD", "NOSAVE")  # type: ignore[no-untyped-call]
            return lost
        other = RedisServer()
        other.start(whole=False)
        try:
            async with redis.asyncio.Redis.from_url(other.url) as copy:
                for one in (client, copy):
                    await one.config_set("repl-diskless-sync-delay", 0)
                await copy.replicaof("127.0.0.1", str(server.port))
                await synced(copy)
                await copy.replicaof("NO", "ONE")
            lost = await append_some(lose)
            await client.replicaof("127.0.0.1", str(other.port))
            await synced(client)
            await client.replicaof("NO", "ONE")
        finally:
            other.close()
        return lost


async def synced(client: redis.asyncio.Redis) -> None:
    async with asyncio.timeout(20):
        while (await client.info("replication")).get("master_link_status") != "up":
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("way", ["DEBUG RELOAD", "REPLICAOF"])
@pytest.mark.parametrize("persistence", ["away", "running"])
async def test_a_redis_that_becomes_a_copy_while_it_runs_acknowledges_no_place_twice(
    way: str, persistence: str, own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    before = await append_some(brokers)
    lost = await become_a_copy(own_redis, way, brokers)
    if persistence == "running":
        await store.heartbeat()
    given = await append_some(brokers)
    assert len({*before, *lost, *given}) == 3 * COUNT
    generations = {position.epoch.split(".")[0] for position in given}
    assert len(generations) == 1, "told twice"
    await store.heartbeat()
    await store.heartbeat()
    assert (await top(brokers[0])).epoch.split(".")[0] in generations, "told twice"


async def test_nothing_is_read_from_a_redis_that_went_back(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    """Otherwise a client would be told that it has recovered, without some of it.

    Without what was acknowledged in this epoch.
    """
    (*_, last) = await append_some(brokers[:1])
    for broker in brokers:
        stop_watching(broker)  # nobody looks meanwhile
    await become_a_copy(own_redis, "DEBUG RELOAD", brokers[:1])
    with pytest.raises(Unavailable):
        await brokers[0].top(CHANNEL)
    page = await brokers[0].read(
        CHANNEL, since_offset=last.offset, limit=100, reverse=False, stored=False, max_bytes=1 << 20
    )
    assert page is None
    assert await brokers[0].stored_top("chat:any") is None


async def test_an_idle_edge_notices_within_a_look(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    before = generation(brokers[0])
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        await client.save()
        await append_some(brokers[:1], 1)
        await asyncio.sleep(2 * redis_incarnation.EVERY_S)  # the other edge has seen it, too
        await brokers.pop(0).close()
        await client.execute_command("DEBUG", "RELOAD", "NOSAVE")  # type: ignore[no-untyped-call]
    await until(lambda: {generation(broker) for broker in brokers} == {before + 1})


async def test_a_server_that_became_a_copy_while_nobody_watched_is_not_trusted(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is the same, and whoever knew better is gone.

    The server itself says that it has been somebody's copy.
    """
    monkeypatch.setattr(redis_heartbeat, "WAITS_S", 0.5)
    before = await append_some(brokers)
    lost = await become_a_copy(own_redis, "REPLICAOF", brokers)
    for broker in brokers:
        stop_watching(broker)
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        said = parse_incarnation(await client.get(keys.incarnation()))  # type: ignore[arg-type]
        assert said is not None
    again = await persistence_comes_back(own_redis, store.kept)
    assert again.kept.generation > said.generation
    assert before != lost
    await again.close()


async def test_an_edge_that_ends_in_order_is_not_missed(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    before = await append_some(brokers)
    await brokers.pop().close()
    await store.heartbeat()
    await asyncio.sleep(1.0)  # longer than Redis may put off writing its file
    own_redis.kill()
    own_redis.start(whole=False)
    await store.heartbeat()
    assert (await append_some(brokers))[0].epoch == before[0].epoch


@pytest.mark.parametrize("persistence", ["running", "starts anew"])
async def test_a_first_replica_changes_the_replication_id_and_no_epoch(
    persistence: str, own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    """The server was nobody's copy: all that watch it say so."""
    before = await append_some(brokers)
    await asyncio.sleep(2 * redis_incarnation.EVERY_S)
    await store.heartbeat()
    replica = RedisServer()
    replica.start(whole=False)
    try:
        async with (
            redis.asyncio.Redis.from_url(own_redis.url) as ours,
            redis.asyncio.Redis.from_url(replica.url) as other,
        ):
            await ours.config_set("repl-diskless-sync-delay", 0)
            replid = (await ours.info("replication"))["master_replid"]
            await other.replicaof("127.0.0.1", str(own_redis.port))
            await synced(other)
            assert (await ours.info("replication"))["master_replid"] != replid
        writer = store if persistence == "running" else await persistence_comes_back(own_redis, store.kept)
        for _ in range(3):
            await writer.heartbeat()
        await asyncio.sleep(2 * redis_incarnation.EVERY_S)
        assert {position.epoch for position in await append_some(brokers)} == {before[0].epoch}
        if writer is not store:
            await writer.close()
    finally:
        replica.close()


async def test_under_another_replication_id_an_edge_that_died_is_missed(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it acknowledged last may be what the copy lacks."""
    monkeypatch.setattr(redis_heartbeat, "WAITS_S", 0.5)
    before = await append_some(brokers)
    await store.heartbeat()
    stop_watching(brokers[0])  # it says no farewell
    await become_a_copy(own_redis, "REPLICAOF", [])
    await store.heartbeat()
    await asyncio.sleep(2 * redis_incarnation.EVERY_S)
    assert (await append_some(brokers[1:], 1))[0].epoch != before[0].epoch


async def test_a_copy_that_still_has_removed_history_is_an_older_one(
    own_redis: RedisServer, store: Store, brokers: list[RedisBroker]
) -> None:
    """Nothing else was written since."""
    before = await append_some(brokers)
    await asyncio.sleep(2 * redis_incarnation.EVERY_S)
    older = await dump(own_redis)
    await brokers[0].remove_history(CHANNEL)
    await asyncio.sleep(2 * redis_incarnation.EVERY_S)
    await go_back(own_redis, older)
    await asyncio.sleep(2 * redis_incarnation.EVERY_S)  # until both have looked at all of it
    await store.heartbeat()
    await until(lambda: all(broker.is_ready for broker in brokers))
    page = await brokers[1].read(CHANNEL, since_offset=0, limit=100, reverse=False, stored=False, max_bytes=1 << 20)
    assert page is None or not page.publications
    assert (await append_some(brokers, 1))[0].epoch != before[0].epoch
