"""The log of `stored` channels where the store can't take one of them.

On a real Redis and DynamoDB.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.domain.model import Publication
from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition, Outcome, TooLarge
from services.persistence.domain.ports import Row
from services.persistence.service import PersistenceServicer
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Busy, Unavailable
from services.shared.hotlog.hotlog import STAMP_BYTES, Item
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import start_grpc_server
from tests.support.dynamodb_faults import DynamoDbFaults
from tests.support.lateness import Lateness
from tests.support.log import append, begin, unstamped
from tests.support.patience import be_patient
from tests.support.retention import no_retention
from tests.support.waiting import until
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1 import persistence_pb2_grpc as rpc

BROKEN, FINE = "chat:broken", "chat:fine"
MAX_ITEM_BYTES = 1_000


def request(channel: str, data: bytes = b"x", key: str = "") -> Request:
    return Request(channel, Item(os.urandom(16), data, "u", key or os.urandom(8).hex()), 1_000, 3_600)


@pytest.fixture
async def store(settings: DynamoDbSettings) -> AsyncIterator[DynamoDbLogStore]:
    db = DynamoDb(settings)
    yield DynamoDbLogStore(db, settings.log_table)
    await db.close()


@pytest.fixture
async def log(
    redis_pipeline: RedisPipeline, store: DynamoDbLogStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Log]:
    be_patient(monkeypatch)
    hot = RedisHotLog(redis_pipeline, lambda: "incarnation")
    made = Log(hot, store, max_unstored=100, max_waiting=1_000, max_batch=64, max_item_bytes=MAX_ITEM_BYTES)
    running = asyncio.create_task(made.run())
    yield made
    await end_task(running)


def offsets(outcomes: list[Outcome]) -> list[int | None]:
    return [outcome.offset if isinstance(outcome, AppendedPosition) else None for outcome in outcomes]


async def stored(store: DynamoDbLogStore, channel: str) -> list[bytes]:
    found = await store.read(channel, since_offset=0, upto=1_000, limit=1_000, reverse=False)
    return [unstamped(publication) for _, publication in found]


async def test_the_publishers_of_a_channel_that_can_not_be_stored_are_told_and_the_others_are_not(
    log: Log, store: DynamoDbLogStore, faults: DynamoDbFaults
) -> None:
    assert offsets(await append(log, [request(BROKEN, b"0"), request(FINE, b"0")])) == [1, 1]
    faults.refused = f"l#{BROKEN}"
    late = request(BROKEN, b"1")
    outcomes = await append(log, [late, request(FINE, b"1"), request(FINE, b"2")])
    assert isinstance(outcomes[0], Unavailable)
    assert offsets(outcomes) == [None, 2, 3]
    assert (await log.open(BROKEN)).top == 1, "it was committed, and is not stored"
    assert (await log.open(FINE)).top == 3
    faults.refused = ""
    assert offsets(await append(log, [late, request(BROKEN, b"2")])) == [2, 3]
    assert await stored(store, BROKEN) == [b"0", b"1", b"2"]


async def test_a_channel_that_is_throttled_holds_up_no_other_and_is_told_within_the_deadline(
    log: Log, store: DynamoDbLogStore, faults: DynamoDbFaults
) -> None:
    """Neither what is in the same request, nor what comes during the retries."""
    assert offsets(await append(log, [request(BROKEN, b"0"), request(FINE, b"0")])) == [1, 1]
    faults.throttled = f"l#{BROKEN}"
    store._deadline_s = 5.0  # noqa: SLF001
    async with Lateness() as late:
        throttled, *fine = begin(log, [request(BROKEN, b"1"), request(FINE, b"1")])
        assert offsets(await asyncio.gather(*fine)) == [2]
        behind = begin(log, [request(BROKEN, b"2")])
        for offset in range(3, 13):
            assert offsets(await append(log, [request(FINE)])) == [offset]
            await log.sweep(0.0, 100)
        assert not throttled.done()
        assert isinstance(await throttled, Unavailable)
    assert late.took_s + late.total_s > 4.9
    assert late.took_s < 5.5
    faults.throttled = ""
    store._deadline_s = 60.0  # noqa: SLF001
    await asyncio.gather(*behind, *begin(log, [request(BROKEN, b"3")]))
    assert await stored(store, BROKEN) == [b"0", b"1", b"2", b"3"]


async def test_a_channel_that_is_throttled_takes_no_more_than_half_of_the_room(
    log: Log, faults: DynamoDbFaults
) -> None:
    await append(log, [request(BROKEN), request(FINE)])
    faults.throttled = f"l#{BROKEN}"
    outcomes = begin(log, [request(BROKEN) for _ in range(1_000)])
    await asyncio.sleep(0)
    assert sum(outcome.done() for outcome in outcomes) == 500
    assert offsets(await append(log, [request(FINE)])) == [2]
    faults.throttled = ""
    assert {type(outcome) for outcome in await asyncio.gather(*outcomes)} == {AppendedPosition, Busy}


async def test_no_channel_of_an_edge_waits_for_one_that_is_throttled(log: Log, faults: DynamoDbFaults) -> None:
    """Over the edge's stream, with many batches of the throttled channel.

    More than may be on their way at a time.
    """
    await append(log, [request(BROKEN), request(FINE)])
    server = await start_grpc_server(
        lambda grpc: rpc.add_PersistenceServiceServicer_to_server(PersistenceServicer(log, no_retention(log)), grpc),
        host="127.0.0.1",
        port=0,
        service_token=None,
        service="persistence",
    )
    replicas = Replicas(f"127.0.0.1:{server.port}", service_token=None, service="edge")
    edge = PersistenceClient(replicas)
    await replicas.start()
    await edge.start()

    async def publish(channel: str) -> int:
        publication = Publication(b"1", id=os.urandom(16))
        key = os.urandom(8).hex()
        result = await edge.append(channel, publication, key_user="", key=key, history_size=9, history_ttl_s=60)
        return result.position.offset

    assert await publish(FINE) == 2
    faults.throttled = f"l#{BROKEN}"
    throttled = []
    for offset in range(3, 23):
        throttled.append(asyncio.create_task(publish(BROKEN)))
        await asyncio.sleep(0)  # a batch of its own
        assert await publish(FINE) == offset
    assert not any(task.done() for task in throttled)
    failed = await asyncio.gather(*throttled, return_exceptions=True)
    assert {type(outcome) for outcome in failed} == {Unavailable}
    assert await publish(FINE) == 23
    await edge.close()
    await replicas.close()
    await server.stop(0)


async def test_a_sweep_finishes_the_others_and_comes_back_to_the_channel_that_failed(
    log: Log, store: DynamoDbLogStore, faults: DynamoDbFaults
) -> None:
    await append(log, [request(BROKEN, b"0"), request(FINE, b"0")])
    faults.refused = "l#chat:"
    assert offsets(await append(log, [request(BROKEN, b"1"), request(FINE, b"1")])) == [None, None]
    faults.refused = f"l#{BROKEN}"
    assert await log.sweep(0.0, 100) == 1
    assert ((await log.open(FINE)).top, (await log.open(BROKEN)).top) == (2, 1)
    faults.refused = ""
    assert await log.sweep(0.0, 100) == 1
    assert (await log.open(BROKEN)).top == 2
    assert await log.sweep(0.0, 100) == 0
    assert await stored(store, BROKEN) == [b"0", b"1"]


async def test_a_sweep_ends_after_three_failures_and_the_next_one_finishes(log: Log, faults: DynamoDbFaults) -> None:
    names = [f"chat:{number}" for number in range(8)]
    await append(log, [request(name) for name in [*names, FINE]])
    faults.refused = "l#chat:"
    await append(log, [request(name) for name in [*names, FINE]])
    faults.refused_requests = 0

    async def is_tried() -> bool:
        """A sweep passes over the channels of a batch that has not quite ended."""
        assert await log.sweep(0.0, 100) == 0
        return faults.refused_requests > 0

    await until(is_tried)
    assert faults.refused_requests <= 3
    faults.refused = ""
    finished = 0

    async def are_finished() -> bool:
        nonlocal finished
        finished += await log.sweep(0.0, 100)
        return finished >= 9

    await until(are_finished)
    assert finished == 9


async def test_a_new_channel_that_can_not_be_opened_does_not_hold_up_the_others(
    log: Log, faults: DynamoDbFaults
) -> None:
    faults.refused = f"c#{BROKEN}"
    outcomes = await append(log, [request(BROKEN), request(FINE)])
    assert isinstance(outcomes[0], Unavailable)
    assert offsets(outcomes) == [None, 1]
    faults.refused = ""
    assert offsets(await append(log, [request(BROKEN)])) == [1]


async def test_a_conflict_that_can_not_be_resolved_now_does_not_fail_the_others(
    log: Log, store: DynamoDbLogStore, faults: DynamoDbFaults
) -> None:
    await append(log, [request(BROKEN, b"0"), request(FINE, b"0")])
    await store.write([Row(BROKEN, 2, os.urandom(16), b"of somebody else" + bytes(STAMP_BYTES), "1:uk")])
    faults.refused = f'"c#{BROKEN}"'
    outcomes = await append(log, [request(BROKEN, b"1"), request(FINE, b"1")])
    assert isinstance(outcomes[0], Unavailable)
    assert offsets(outcomes) == [None, 2]
    faults.refused = ""
    assert offsets(await append(log, [request(BROKEN, b"2")])) == [3]
    assert await stored(store, BROKEN) == [b"0", b"of somebody else", b"2"]


async def test_what_no_item_can_hold_is_refused_before_it_has_a_number(log: Log) -> None:
    outcomes = await append(log, [request(FINE), request(FINE, bytes(MAX_ITEM_BYTES)), request(FINE)])
    assert isinstance(outcomes[1], TooLarge)
    assert offsets(outcomes) == [1, None, 2]


async def test_a_place_holds_so_many_bytes_whatever_the_characters_of_user_and_key(log: Log) -> None:
    user, key = "\U0001f642", "\u00e9" * 3
    room = MAX_ITEM_BYTES - STAMP_BYTES - len((user + key).encode())
    too_large, fits = (
        Request(FINE, Item(os.urandom(16), bytes(size), user, key), 1_000, 3_600) for size in (room + 1, room)
    )
    outcomes = await append(log, [too_large, fits])
    assert isinstance(outcomes[0], TooLarge)
    assert offsets(outcomes) == [None, 1]


async def test_an_edge_is_told_that_it_is_too_large(log: Log) -> None:
    publication = common_pb2.Publication(data=bytes(2_000)).SerializeToString()
    item = pb.AppendItem(
        channel=FINE, publication=publication, publication_id=bytes(16), key="k", history_size=9, history_ttl_s=60
    )

    async def batches() -> AsyncIterator[pb.AppendBatch]:
        yield pb.AppendBatch(items=[item])

    replies = [reply async for reply in PersistenceServicer(log, no_retention(log)).Append(batches(), None)]
    statuses = [result.status for reply in replies for result in reply.results]
    assert statuses == [common_pb2.ITEM_STATUS_INVALID]
