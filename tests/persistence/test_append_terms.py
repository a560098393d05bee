"""Appends with flags and guards, over gRPC to real processes."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import redis.asyncio

from services.shared.hotlog import keys
from services.shared.redis.client import redis_client
from tests.persistence import test_dynamodb_processes as on_dynamodb
from tests.persistence.test_replicas import Process
from tests.support.counts import counts_of
from tests.support.dynamodb_tables import own_tables
from tests.support.full import sized
from tests.support.redis import RedisServer
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

if TYPE_CHECKING:
    from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceAsyncStub

CHANNEL = "chat:terms"
OK = common_pb2.ITEM_STATUS_OK
INVALID = common_pb2.ITEM_STATUS_INVALID
RECHECK = common_pb2.ITEM_STATUS_RECHECK
COUNTS, MEMBERSHIP, ERASES = 1, 2, 4


def item(flags: int = 0, guard: int | None = None, *, key: str = "", channel: str = CHANNEL) -> pb.AppendItem:
    publication_id = uuid.uuid4().bytes
    publication = common_pb2.Publication(data=b"1", id=publication_id).SerializeToString()
    made = pb.AppendItem(
        channel=channel,
        publication=publication,
        key_user="u:ann",
        key=key or publication_id.hex(),
        history_size=1_000,
        history_ttl_s=600,
        terms=pb.AppendTerms(publication_id=publication_id, flags=flags),
    )
    if guard is not None:
        made.terms.guard = guard
    return made


def plain(key: str = "", channel: str = CHANNEL) -> pb.AppendItem:
    made = item(key=key, channel=channel)
    made.publication_id = made.terms.publication_id
    made.ClearField("terms")
    return made


async def append(stub: PersistenceServiceAsyncStub, *items: pb.AppendItem) -> list[pb.AppendResult]:
    """Results in the order of the items."""
    stream = stub.Append(iter([pb.AppendBatch(items=items)]), timeout=60)
    found = {result.item: result async for reply in stream for result in reply.results}
    return [found[place] for place in range(len(items))]


async def read(stub: PersistenceServiceAsyncStub, channel: str = CHANNEL) -> list[pb.StoredPublication]:
    request = pb.ReadRequest(channel=channel, limit=10_000, counts=True)
    pages = stub.Read(
        request, timeout=20, wait_for_ready=True
    )  # gRPC tries again after a while to reach one that was away
    return [one async for page in pages for one in page.publications]


def said(results: Sequence[pb.AppendResult]) -> list[int | str]:
    """Offset of each, or the version that refused it."""
    return [f"recheck {one.mv}" if one.status == RECHECK else one.position.offset for one in results]


@pytest.fixture
async def stub(redis_url: str, tmp_path: Path) -> AsyncIterator[PersistenceServiceAsyncStub]:
    process = Process(redis_url, tmp_path / "log.sqlite3")
    try:
        await process.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
            yield PersistenceServiceStub(channel)
    finally:
        process.close()


async def test_a_replica_says_first_of_all_that_it_takes_terms(stub: PersistenceServiceAsyncStub) -> None:
    replies = [reply async for reply in stub.Append(iter([pb.AppendBatch(items=[plain()])]), timeout=60)]
    assert [reply.takes_terms for reply in replies] == [True, *[False] * (len(replies) - 1)]
    assert replies[0] == pb.AppendResults(takes_terms=True)


async def test_a_guard_is_compared_where_the_offset_is_given_and_a_known_key_has_its_first(
    stub: PersistenceServiceAsyncStub,
) -> None:
    batch = [
        item(MEMBERSHIP, 0, key="create"),  # 1
        item(COUNTS, 1, key="hello"),  # 2
        item(COUNTS, 0),  # refused: of before the creation
        item(MEMBERSHIP | COUNTS, 1),  # 3: it removes eve
        item(COUNTS, 1, key="eve"),  # refused: of before her removal
        item(COUNTS, 1, key="hello"),  # repeated: 2, whatever the guard
        item(),  # 4
    ]
    first = await append(stub, *batch)
    assert said(first) == [1, 2, "recheck 3", 3, "recheck 3", 2, 4]
    assert [one.repeated_key for one in first] == [False] * 5 + [True, False]
    assert said(await append(stub, item(COUNTS, 0, key="create"), item(COUNTS, 3, key="eve"), plain())) == [1, 5, 6]
    rows = await read(stub)
    assert [(one.flags, one.n, one.mv) for one in rows] == [
        (2, 0, 1),
        (1, 1, 1),
        (3, 2, 3),
        (0, 2, 3),
        (1, 3, 3),
        (0, 3, 3),
    ]


async def test_edges_find_the_flags_in_the_publication_and_plain_ones_have_none(
    stub: PersistenceServiceAsyncStub, redis_conn: redis.asyncio.Redis
) -> None:
    async with redis_conn.pubsub() as pubsub:
        await pubsub.subscribe(keys.pub(CHANNEL))
        await append(stub, item(COUNTS | ERASES), item(0, 0), plain())
        heard: list[bytes] = []
        async with asyncio.timeout(30):
            while len(heard) < 3:
                if (message := await pubsub.get_message(timeout=60)) and message["type"] == "message":
                    heard.append(message["data"].split(b" ", 2)[2])
    assert [common_pb2.Publication.FromString(one).flags for one in heard] == [5, 0, 0]
    assert [one.publication for one in await read(stub)] == heard


async def test_a_channel_without_flags_and_guards_is_kept_and_read_as_before(
    stub: PersistenceServiceAsyncStub, redis_conn: redis.asyncio.Redis
) -> None:
    await append(stub, plain(), plain())
    assert not await redis_conn.hexists(keys.meta(CHANNEL), "counts")
    entries = await redis_conn.xrange(keys.log(CHANNEL))
    assert entries
    assert [set(fields) for _, fields in entries] == [{b"i", b"p", b"k", b"n"}] * 2  # type: ignore[arg-type]
    pages = [page async for page in stub.Read(pb.ReadRequest(channel=CHANNEL, limit=9), timeout=60)]
    assert [(one.n, one.mv, one.flags) for page in pages for one in page.publications] == [(0, 0, 0)] * 2
    # It begins to count with the first one that has flags: from the store's 0.
    assert said(await append(stub, item(COUNTS, 0), item(COUNTS, 1))) == [3, "recheck 0"]
    assert [one.n for one in await read(stub)] == [0, 0, 1]


async def test_terms_that_are_wrong_are_refused_and_so_is_an_id_beside_them(stub: PersistenceServiceAsyncStub) -> None:
    beside = item(COUNTS)
    beside.publication_id = beside.terms.publication_id
    short = item(COUNTS)
    short.terms.publication_id = b"short"
    wrong = [beside, short, item(16), item(COUNTS, 2**63)]
    assert [one.status for one in await append(stub, *wrong, item(COUNTS, 0))] == [INVALID] * 4 + [OK]


async def test_a_replica_of_before_refuses_what_has_terms(stub: PersistenceServiceAsyncStub) -> None:
    """It does not know the field.

    What is left of the item has no id, and every version refuses that.
    """
    left = item(COUNTS)
    left.ClearField("terms")
    assert [one.status for one in await append(stub, left, item(COUNTS))] == [INVALID, OK]
    assert len(await read(stub)) == 1


# Two processes, which are killed; Redis is emptied.


@dataclass
class Replica:
    """A process, how to kill and start it again, and its stub."""

    port: int
    restart: Callable[[], Awaitable[None]]
    channel: grpc.aio.Channel = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")

    @property
    def stub(self) -> PersistenceServiceAsyncStub:
        return PersistenceServiceStub(self.channel)


@pytest.fixture(params=["sqlite", "dynamodb"])
async def replicas(
    request: pytest.FixtureRequest, own_redis: RedisServer, tmp_path: Path
) -> AsyncIterator[list[Replica]]:
    made: list[Process | on_dynamodb.Process] = []
    found: list[Replica] = []
    try:
        if request.param == "sqlite":
            for _ in range(2):
                process = Process(own_redis.url, tmp_path / "shared.sqlite3")
                made.append(process)
                await process.start()

                async def again(process: Process = process) -> None:
                    process.kill()
                    await process.start()

                found.append(Replica(process.grpc_port, again))
        else:
            settings = await own_tables(request.getfixturevalue("dynamodb"))
            for _ in range(2):
                other = on_dynamodb.Process(own_redis.url, settings)
                made.append(other)
                await other.until(200)
                found.append(Replica(other.grpc_port, other.restart))
        yield found
        for replica in found:
            await replica.channel.close()
    finally:
        for one in made:
            one.close()


@dataclass
class Publisher:
    """Publishes with whatever guard it believes in, and repeats what is unknown."""

    replicas: list[Replica]
    rng: random.Random
    channels: Sequence[str]
    items: dict[str, pb.AppendItem] = field(default_factory=dict)  # by key
    positions: dict[str, int] = field(default_factory=dict)  # by key
    versions: dict[str, int] = field(default_factory=dict)  # by channel

    async def publish(self) -> None:
        rng, channel = self.rng, self.rng.choice(self.channels)
        believed = self.versions.get(channel, 0)
        guard = rng.choice([None, believed, believed, believed, max(0, believed - 1)])
        key = f"{rng.getrandbits(64):x}"
        self.items[key] = item(rng.choice([0, 1, 1, 1, 2, 3, 4]), guard, key=key, channel=channel)
        result = await self.settled(self.items[key])
        if result.status == RECHECK:
            self.versions[channel] = result.mv
            return
        self.positions[key] = result.position.offset
        if self.items[key].terms.flags & MEMBERSHIP:
            self.versions[channel] = result.position.offset

    async def settled(self, one: pb.AppendItem) -> pb.AppendResult:
        async with asyncio.timeout(60):
            while True:
                try:
                    (result,) = await append(self.rng.choice(self.replicas).stub, one)
                except (grpc.aio.AioRpcError, KeyError):
                    await asyncio.sleep(0.05)
                    continue
                if result.status in (OK, RECHECK):
                    return result
                assert result.status != INVALID
                await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_two_replicas_killed_and_redis_emptied_count_as_one(
    seed: int, replicas: list[Replica], own_redis: RedisServer
) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    channels = [f"chat:terms{number}" for number in range(2)]
    publishers = [Publisher(replicas, random.Random(rng.random()), channels) for _ in range(8)]

    async def publish(publisher: Publisher) -> None:
        for _ in range(sized(25, 200)):
            await publisher.publish()
            await asyncio.sleep(publisher.rng.uniform(0, 0.05))

    async def trouble() -> None:
        async with redis_client(own_redis.url) as client:
            for victim in [0, None, 1, None]:
                await asyncio.sleep(rng.uniform(0.1, 0.4))
                if victim is None:
                    await client.flushall()
                else:
                    await replicas[victim].restart()

    await asyncio.gather(trouble(), *map(publish, publishers))
    items = {key: one for publisher in publishers for key, one in publisher.items.items()}
    positions = {key: at for publisher in publishers for key, at in publisher.positions.items()}
    by_id = {one.terms.publication_id: one for one in items.values()}
    for channel in channels:
        rows = await read(replicas[0].stub, channel)
        assert rows == await read(replicas[1].stub, channel)
        assert [one.offset for one in rows] == list(range(1, len(rows) + 1))
        sent = [by_id[common_pb2.Publication.FromString(one.publication).id] for one in rows]
        assert [one.flags for one in rows] == [one.terms.flags for one in sent]
        assert [(one.n, one.mv) for one in rows] == counts_of([one.terms.flags for one in sent])
        for before, one in zip([0, *(row.mv for row in rows)], sent, strict=False):
            assert not one.terms.HasField("guard") or one.terms.guard == before, "a wrong guard let it pass"
        there = {one.key: row.offset for row, one in zip(rows, sent, strict=True)}
        assert there == {key: at for key, at in positions.items() if items[key].channel == channel}
    for key, at in rng.sample(sorted(positions.items()), 40):
        again = pb.AppendItem.FromString(items[key].SerializeToString())
        again.terms.guard = 10**9
        result = await publishers[0].settled(again)
        assert (result.status, result.position.offset, result.repeated_key) == (OK, at, True)
