"""Ephemeral events are published only while all edges can read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import redis.asyncio

from services.edge.adapters.redis import ephemeral_readers
from services.edge.adapters.redis.broker import RedisBroker
from services.edge.adapters.redis.ephemeral_readers import NO_S, YES_S, EphemeralReaders
from services.edge.domain.control.cluster import Cluster as Operations
from services.edge.domain.model import Publication
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from tests.contract.test_broker import Listener
from tests.support.edge import Cluster

CHANNEL = "conv:room"


class Counted:
    """Receivers of each pub/sub channel, as PUBLISH returns them."""

    def __init__(self, edges: int, readers: int) -> None:
        self.edges, self.readers = edges, readers
        self.now = 0.0
        self.published: list[tuple[str, bytes]] = []
        self.is_down = False
        self.asked = EphemeralReaders(self.publish, lambda: self.now)

    async def publish(self, channel: str, payload: bytes) -> int:
        self.published.append((channel, payload))
        await asyncio.sleep(0)
        if self.is_down:
            raise Unavailable("down")
        return self.edges if channel == keys.control() else self.readers

    async def ask_at(self, now: float) -> bool:
        self.now = now
        return await self.asked.are_all()


@pytest.mark.parametrize(
    ("edges", "readers", "all_read"), [(3, 3, True), (3, 2, False), (3, 0, False), (0, 0, False), (2, 3, True)]
)
async def test_all_read_if_as_many_receive_the_one_as_the_other(edges: int, readers: int, all_read: bool) -> None:
    assert await Counted(edges, readers).asked.are_all() is all_read


async def test_an_answer_is_good_for_a_while_and_a_no_for_a_shorter_one() -> None:
    counted = Counted(2, 1)
    assert not await counted.ask_at(0)
    counted.readers = 2
    assert not await counted.ask_at(NO_S - 0.01)
    assert await counted.ask_at(NO_S)
    counted.readers = 1
    assert await counted.ask_at(NO_S + YES_S - 0.01)
    assert not await counted.ask_at(NO_S + YES_S)
    assert len(counted.published) == 3 * 2


async def test_all_who_ask_at_once_share_one_question_and_no_answer_is_a_no() -> None:
    counted = Counted(1, 1)
    assert await asyncio.gather(*(counted.asked.are_all() for _ in range(50))) == [True] * 50
    assert len(counted.published) == 2
    counted.is_down = True
    assert not await counted.ask_at(YES_S)


def test_the_question_is_a_reply_to_nobody_for_edges_of_every_version() -> None:
    """It goes to all of them, so it must do nothing, and be no cause for a warning."""
    cluster = Cluster()
    operations = Operations(cluster.edge(), None, None)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.edge.domain.control.cluster.logger", None)
        operations.on_control(ephemeral_readers._TO_NOBODY)  # noqa: SLF001


class Edges:
    """Real connections to a real Redis."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.running: list[RedisBroker] = []

    async def start(self, listener: Listener) -> RedisBroker:
        broker = RedisBroker(self.url)
        await broker.start(listener, lambda payload: None)
        self.running.append(broker)
        async with asyncio.timeout(30):
            while not broker.is_ready:
                await asyncio.sleep(0.005)
        return broker


@pytest.fixture
async def edges(redis_url: str) -> AsyncIterator[Edges]:
    made = Edges(redis_url)
    yield made
    for broker in made.running:
        await broker.close()


def heard(listener: Listener) -> list[bytes]:
    return [one.data for channel, one in listener.ephemerals if channel == CHANNEL]


async def until_published(broker: RedisBroker, publication: Publication) -> None:
    async with asyncio.timeout(30):
        while not await broker.publish_ephemeral(CHANNEL, publication):
            await asyncio.sleep(0.02)


async def test_nothing_is_published_beside_an_edge_of_before(
    edges: Edges, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ephemeral_readers, "YES_S", 0.05)
    monkeypatch.setattr(ephemeral_readers, "NO_S", 0.05)
    listeners: Sequence[Listener] = [Listener(), Listener()]
    first, second = [await edges.start(listener) for listener in listeners]
    for broker in (first, second):
        await broker.subscribe(CHANNEL)
    await until_published(first, Publication(b"1"))
    client = redis.asyncio.Redis.from_url(redis_url)
    before = client.pubsub()
    await before.subscribe(keys.control())  # as an edge does that does not know them
    assert (await before.get_message(timeout=60))["type"] == "subscribe"
    await asyncio.sleep(0.06)
    assert not await first.publish_ephemeral(CHANNEL, Publication(b"2"))
    assert not await second.publish_ephemeral(CHANNEL, Publication(b"3"))
    await before.aclose()  # type: ignore[no-untyped-call]
    await client.aclose()
    await until_published(second, Publication(b"4"))
    for listener in listeners:
        async with asyncio.timeout(30):
            while heard(listener)[-1:] != [b"4"]:
                await asyncio.sleep(0.005)
        assert heard(listener) == [b"1", b"4"]
