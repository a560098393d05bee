"""What alerts stand on is counted where it happens."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from services.edge.adapters.redis.self_check import MISSED, PubSubSelfCheck
from services.edge.domain.model import Publication
from services.edge.metrics import NodeCollector
from services.edge.transport.metrics import TransportCounters
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.log import Log, Request
from services.persistence.metrics import INCARNATIONS
from services.shared.errors import Busy, Unavailable
from services.shared.hotlog.hotlog import Item
from services.shared.namespaces import Durability
from services.shared.process.cancellation import end_task
from services.shared.process.internal_http import start_internal_http
from services.shared.process.metrics import RenamedCounter
from services.shared.redis.pipeline import RedisPipeline
from tests.support.edge import JSON, OPEN, PROTOBUF, Client, Cluster
from tests.support.faults import free_port
from tests.support.log import append, begin

PUBLICATION = Request("chat:room", Item(b"i" * 16, b"p", "", "key"), 10, 60)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def nowhere() -> str:
    """The address of a Redis that is not there."""
    return f"redis://127.0.0.1:{free_port()}/0"


def log_on(redis_url: str, folder: Path, *, max_waiting: int) -> tuple[Log, SqliteLogStore]:
    store = SqliteLogStore(folder / "log.sqlite3")
    hot = RedisHotLog(RedisPipeline(redis_url))
    return Log(hot, store, max_unstored=10, max_waiting=max_waiting, max_batch=10), store


async def test_a_check_of_readiness_that_fails_is_0() -> None:
    checks = {"redis": True, "store": False}
    server = await start_internal_http("127.0.0.1", 0, ready=lambda: checks)
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{server.port}/metrics")).text
    await server.close()
    assert 'thalamus_ready{check="redis"} 1.0' in text
    assert 'thalamus_ready{check="store"} 0.0' in text


async def test_delivery_is_measured_from_the_time_of_the_publication() -> None:
    unlogged = replace(OPEN, durability=Durability.NONE)
    cluster = Cluster(default=unlogged)
    node = cluster.edge()
    await node.hub.open("room", unlogged)
    before = value("thalamus_edge_delivery_seconds_sum"), value("thalamus_edge_delivery_seconds_count")
    for late_ms in (2_000, -500):  # a clock that is ahead is no negative time
        node.hub.publication("room", "", Publication(data=b"1", time_ms=int(cluster.clock.unix * 1000) - late_ms))
    after = value("thalamus_edge_delivery_seconds_sum"), value("thalamus_edge_delivery_seconds_count")
    assert after[0] - before[0] == pytest.approx(2.0)
    assert after[1] - before[1] == 2


async def test_an_acknowledgement_is_counted_by_what_it_means_and_a_refusal_is_none() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await client.reply(connect={"token": cluster.token("ann")})
    await client.reply(subscribe={"channel": "room"})
    before = value("thalamus_edge_ack_seconds_count", durability="hot")
    assert "error" not in await client.reply(publish={"channel": "room", "data": 1})
    assert "error" in await client.reply(publish={"channel": "room", "data": "x" * 100_000})
    assert value("thalamus_edge_ack_seconds_count", durability="hot") == before + 1


async def test_what_the_log_can_not_take_is_counted_by_why(tmp_path: Path, nowhere: str) -> None:
    busy = value("thalamus_persistence_unstored_total", reason="busy")
    unavailable = value("thalamus_persistence_unstored_total", reason="unavailable")
    log, store = log_on(nowhere, tmp_path, max_waiting=1)
    running = asyncio.create_task(log.run())
    outcomes = await append(log, [PUBLICATION, PUBLICATION, PUBLICATION])
    assert isinstance(outcomes[0], Unavailable)
    assert isinstance(outcomes[1], Busy)
    assert isinstance(outcomes[2], Busy)
    await end_task(running)
    await store.close()
    assert value("thalamus_persistence_unstored_total", reason="unavailable") == unavailable + 1
    assert value("thalamus_persistence_unstored_total", reason="busy") == busy + 2


async def test_what_waits_for_a_batch_is_told(tmp_path: Path, nowhere: str) -> None:
    log, store = log_on(nowhere, tmp_path, max_waiting=10)
    waiting = asyncio.gather(*begin(log, [PUBLICATION] * 3))
    assert value("thalamus_persistence_waiting") == 3
    running = asyncio.create_task(log.run())
    await waiting
    assert value("thalamus_persistence_waiting") == 0
    await end_task(running)
    await store.close()


def test_the_codes_with_which_backends_end_connections_are_one_label() -> None:
    node = Cluster().edge()
    node.counters.closes = {3008: 2, 4000: 1, 4999: 3}
    transport = TransportCounters(frozenset({3008}))
    for code in (3008, 4000, 4999, 1009):
        transport.closed_by_server(code)
    (closes,) = [
        family for family in NodeCollector(node, frozenset({3008})).collect() if family.name == "thalamus_edge_closes"
    ]
    assert {sample.labels["code"]: sample.value for sample in closes.samples} == {"3008": 2, "other": 4}
    assert transport.closes == {("3008", "server"): 1, ("other", "server"): 2, ("1009", "server"): 1}


async def test_sessions_are_counted_by_what_their_clients_speak() -> None:
    cluster = Cluster()
    node = cluster.edge()
    collector = NodeCollector(node, frozenset())

    def counted() -> dict[str, float]:
        (family,) = [one for one in collector.collect() if one.name == "thalamus_edge_protocol_sessions"]
        return {sample.labels["protocol"]: sample.value for sample in family.samples}

    assert counted() == {}
    clients = [Client(cluster, node, client_id=str(n), encoding=PROTOBUF if n else JSON) for n in range(3)]
    for client in clients:
        await client.call(connect={"token": cluster.token("alice")})
    assert counted() == {"centrifugal-json": 1, "centrifugal-protobuf": 2}
    for client in clients[1:]:
        await client.hang_up()
    assert counted() == {"centrifugal-json": 1, "centrifugal-protobuf": 0}


async def test_a_stalled_pub_sub_is_counted_under_the_new_and_the_old_name() -> None:
    names = ("thalamus_edge_pubsub_stalled_total", "thalamus_edge_deaf_total")
    before = [value(name) for name in names]

    async def accept_and_lose(channel: str, payload: bytes) -> None: ...

    self_check = PubSubSelfCheck(accept_and_lose, lambda: None)
    for _ in range(MISSED + 1):
        await self_check.probe()
    assert [value(name) for name in names] == [count + 1 for count in before]


async def test_an_incarnation_of_redis_is_counted_under_the_new_and_the_old_name() -> None:
    names = ("thalamus_persistence_redis_incarnations_total", "thalamus_persistence_redis_lives_total")
    before = [value(name) for name in names]
    INCARNATIONS.inc()
    assert [value(name) for name in names] == [count + 1 for count in before]


@pytest.mark.parametrize("amount", [0, 1, 7])
def test_both_names_of_a_renamed_counter_have_the_same_value(amount: int) -> None:
    registry = CollectorRegistry()
    counter = RenamedCounter("thalamus_new", "What is counted.", old_name="thalamus_old", registry=registry)
    for _ in range(amount):
        counter.inc()
    assert registry.get_sample_value("thalamus_new_total") == amount
    assert registry.get_sample_value("thalamus_old_total") == amount
