"""Markers: merged alike in any order, kept by Redis and the store."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

import pytest
import redis.asyncio

from services.persistence.chat.markers.flushing import Flusher
from services.persistence.chat.markers.kept import KeptMarkers
from services.persistence.chat.markers.markers import Markers
from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.record import Marker, Place, Record
from services.shared.redis.pipeline import RedisPipeline
from tests.support.marker_store import MemoryMarkerStore

CHANNEL = "conv:g.markers"
EPOCH = "epoch"


class Cluster:
    """Replicas on one Redis and one store; `incarnation` is that of Redis."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self.pipeline, self.store, self.incarnation, self.later_s = pipeline, MemoryMarkerStore(), "first", 0.0

    def kept(self) -> KeptMarkers:
        return KeptMarkers(self.pipeline, lambda: 1.0, lambda: self.incarnation)

    def markers(self) -> Markers:
        return Markers(self.kept(), self.store)

    def flusher(self) -> Flusher:
        return Flusher(self.kept(), self.store)


@pytest.fixture
def cluster(redis_pipeline: RedisPipeline) -> Cluster:
    return Cluster(redis_pipeline)


async def marker(markers: Markers, user: str = "ann") -> Marker:
    return (await markers.of_user(user, [CHANNEL]))[CHANNEL].marker


async def test_of_nobody_anything_is_kept(cluster: Cluster) -> None:
    assert await cluster.markers().of_user("ann", [CHANNEL, "conv:g.other"]) == {
        CHANNEL: Place(),
        "conv:g.other": Place(),
    }
    assert await cluster.markers().of_channel(CHANNEL, []) == {}


async def test_a_marker_only_goes_forward_within_a_generation(cluster: Cluster) -> None:
    markers = cluster.markers()
    moved: list[tuple[str, str, Marker]] = []
    markers.on_moved.append(lambda *what: moved.append(what))
    assert await markers.merge("ann", CHANNEL, EPOCH, Marker(0, 5)) == (Marker(0, 0), Marker(0, 5))
    assert await markers.merge("ann", CHANNEL, EPOCH, Marker(0, 3)) == (Marker(0, 5), Marker(0, 5))
    assert await markers.merge("ann", CHANNEL, EPOCH, Marker(1, 2)) == (Marker(0, 5), Marker(1, 2))
    assert await markers.merge("ann", CHANNEL, EPOCH, Marker(0, 9)) == (Marker(1, 2), Marker(1, 2))
    assert moved == [("ann", CHANNEL, Marker(0, 5)), ("ann", CHANNEL, Marker(1, 2))]
    assert (await markers.of_user("ann", [CHANNEL]))[CHANNEL] == Place(Marker(1, 2), 9, epoch=EPOCH)
    assert await markers.of_channel(CHANNEL, ["ann", "bob"]) == {
        "ann": Place(Marker(1, 2), 9, epoch=EPOCH),
        "bob": Place(),
    }


async def test_a_marker_of_another_epoch_says_nothing(cluster: Cluster) -> None:
    markers = cluster.markers()
    await markers.merge("ann", CHANNEL, EPOCH, Marker(2, 50))
    place = (await markers.of_user("ann", [CHANNEL]))[CHANNEL]
    assert place.within(EPOCH) == place
    assert place.within("restored") == Place(Marker(3, 0), 0, epoch="restored")
    assert await markers.merge("ann", CHANNEL, "restored", Marker(3, 4)) == (Marker(3, 0), Marker(3, 4))
    await cluster.flusher().flush()
    await cluster.store.merge([(Of("ann", CHANNEL), Record(2, 60, 60, EPOCH))])
    assert cluster.store.kept == {Of("ann", CHANNEL): Record(3, 4, 4, "restored")}


async def test_the_store_has_it_after_a_flush_and_redis_need_not(
    cluster: Cluster, redis_conn: redis.asyncio.Redis
) -> None:
    await cluster.markers().merge("ann", CHANNEL, EPOCH, Marker(0, 5))
    assert cluster.store.kept == {}
    assert await cluster.flusher().sweep(age_s=-1) == 1
    assert await cluster.flusher().sweep(age_s=-1) == 0
    assert cluster.store.kept == {Of("ann", CHANNEL): Record(0, 5, 5, EPOCH)}
    await redis_conn.flushall()
    assert await marker(cluster.markers()) == Marker(0, 5)


async def test_a_redis_that_went_back_is_compared_with_the_store(
    cluster: Cluster, redis_conn: redis.asyncio.Redis
) -> None:
    markers = cluster.markers()
    await markers.merge("ann", CHANNEL, EPOCH, Marker(0, 5))
    key = (await redis_conn.keys("*:read"))[0]
    before = await redis_conn.hgetall(key)
    await markers.merge("ann", CHANNEL, EPOCH, Marker(0, 9))
    await cluster.flusher().flush()
    for field, value in before.items():
        await redis_conn.hset(key, field, value)
    cluster.incarnation = "second"
    assert await marker(markers) == Marker(0, 9)


@pytest.mark.parametrize("asked_first", [True, False])
async def test_a_redis_that_went_back_to_before_somebody_returned_has_forgotten_nothing(
    cluster: Cluster, redis_conn: redis.asyncio.Redis, asked_first: bool
) -> None:
    markers, of = cluster.markers(), Of("ann", CHANNEL)
    await markers.merge("ann", CHANNEL, EPOCH, Marker(0, 5))
    await markers.forget([of])
    (key,), (noted,) = await redis_conn.keys("*:read"), await redis_conn.keys("*unwritten*")
    names = [found if isinstance(found, str) else found.decode() for found in (key, noted)]
    for name in names:
        await redis_conn.copy(name, f"before:{name}")
    old, new = await markers.change(*of, EPOCH, lambda record: record.read(9).set('{"archived":true}', 1))
    assert (old.offset, new.offset) == (0, 9)
    await cluster.flusher().flush()
    cluster.incarnation = "second"
    for name in names:
        await redis_conn.copy(f"before:{name}", name, replace=True)
    if asked_first:
        assert await marker(markers) == Marker(1, 9)
    await cluster.flusher().flush()
    place = (await markers.of_user("ann", [CHANNEL]))[CHANNEL]
    assert (place.marker, place.preferences.archived) == (Marker(1, 9), True)
    assert cluster.store.kept == {of: new}


async def test_what_is_forgotten_stays_so_in_a_redis_that_went_back(
    cluster: Cluster, redis_conn: redis.asyncio.Redis
) -> None:
    markers, of = cluster.markers(), Of("ann", CHANNEL)
    await markers.merge("ann", CHANNEL, EPOCH, Marker(0, 5))
    await cluster.flusher().flush()
    await markers.forget([of])
    cluster.incarnation = "second"
    assert await marker(markers) == Marker(1, 0)
    await cluster.flusher().flush()
    assert cluster.store.kept == {}
    assert await marker(markers) == Marker(1, 0)


@pytest.mark.parametrize("seed", range(5))
async def test_devices_at_once_on_two_replicas_end_with_the_greatest(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)
    replicas = [cluster.markers(), cluster.markers()]
    proposals = [Marker(chance.randrange(3), chance.randrange(30)) for _ in range(8)]
    await asyncio.gather(
        *(chance.choice(replicas).merge("ann", CHANNEL, EPOCH, one) for one in proposals + proposals),
        cluster.flusher().flush(),
        cluster.flusher().flush(),
    )
    assert {await marker(one) for one in replicas} == {max(proposals)}, seed
    await cluster.flusher().flush()
    assert cluster.store.kept[Of("ann", CHANNEL)].marker == max(proposals), seed


def test_merging_is_the_same_in_any_order() -> None:
    chance = random.Random(7)
    for _ in range(200):
        records = [
            Record(
                chance.randrange(3),
                chance.randrange(4),
                chance.randrange(4),
                EPOCH,
                chance.randrange(3),
                "ab"[chance.randrange(2)],
            )
            for _ in range(4)
        ]
        results = set()
        for order in itertools.permutations([*records[:3], records[chance.randrange(3)]]):
            kept = Record()
            for one in order:
                kept = kept.merged(one)
            results.add(kept)
        assert len(results) == 1


# C27: of three devices; "unread from 4 on" is said by one that knows generation 0.
PROPOSALS: list[Callable[[Record], Record]] = [
    lambda record: record.read(5, 0),
    lambda record: record.read(9, 0),
    lambda record: record.read(7, 0),
    lambda record: record.unread(4, 0),
    lambda record: record.read(12, 0),
    lambda record: record.read(6, 1),
]


@pytest.mark.parametrize("seed", range(3))
def test_c27_all_orders_of_all_proposals_twice_end_alike(seed: int) -> None:
    chance = random.Random(seed)
    for order in itertools.permutations(PROPOSALS):
        steps = [*order, *order]
        if seed:
            chance.shuffle(steps)
        record = Record(epoch=EPOCH)
        for step in steps:
            before, record = record, step(record)
            assert record.marker >= before.marker
            assert record.generation > before.generation or record.offset >= before.offset
            assert record.delivered >= before.delivered
        assert (record.marker, record.delivered) == (Marker(1, 6), 12), seed


def test_a_late_read_does_not_undo_what_was_marked_as_unread() -> None:
    record = Record(epoch=EPOCH).read(9, 0).unread(4, 0)
    assert record.marker == Marker(1, 3)
    assert record.unread(4, 0) == record, "repeated"
    assert record.read(12, 0).marker == Marker(1, 3)
    assert record.read(12).marker == Marker(1, 12), "a device that does not say its generation means the newest"
