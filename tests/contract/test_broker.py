"""What every `Broker` promises.

The in-memory one of the tests is as good as Redis.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import redis.asyncio

from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.model import AppendResult, ClientInfo, Publication, StreamPosition
from services.edge.domain.ports import Broker
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from tests.support.lateness import Lateness
from tests.support.memory import MemoryBroker, MemoryBus
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy

CHANNEL = "live:contract"


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, Publication]] = []
        self.ephemerals: list[tuple[str, Publication]] = []
        self.reconnects = 0

    def publication(self, channel: str, epoch: str, publication: Publication) -> None:
        self.received.append((channel, epoch, publication))

    def ephemeral(self, channel: str, publication: Publication) -> None:
        self.ephemerals.append((channel, publication))

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None: ...

    def updated(self, channel: str, infos: Sequence[ClientInfo]) -> None: ...

    def left(self, channel: str, info: ClientInfo) -> None: ...

    def was_reset(self, channel: str, epoch: str) -> None: ...

    def reconnected(self) -> None:
        self.reconnects += 1

    async def until(self, count: int) -> list[Publication]:
        deadline = time.monotonic() + 30
        while len(self.received) < count:
            assert time.monotonic() < deadline, self.received
            await asyncio.sleep(0.005)
        return [publication for _, _, publication in self.received]


def publication(data: str) -> Publication:
    info = ClientInfo("ann", "client", b'{"n":1}', b"2")
    return Publication(data.encode(), info, {"k": "v"}, os.urandom(16), "somebody", 1_234)


async def append(broker: Broker, data: str, *, key: str = "", user: str = "u", size: int = 100) -> AppendResult:
    key = key or os.urandom(8).hex()
    return await broker.append(CHANNEL, publication(data), key_user=user, key=key, history_size=size, history_ttl_s=60)


class BrokerContract:
    """Inherit, and give `broker` and `listener` fixtures."""

    async def test_offsets_count_from_one_and_all_is_heard_in_order(self, broker: Broker, listener: Listener) -> None:
        await broker.subscribe(CHANNEL)
        results = [await append(broker, str(number)) for number in range(20)]
        assert [result.position.offset for result in results] == list(range(1, 21))
        received = await listener.until(20)
        assert [one.offset for one in received] == list(range(1, 21))
        assert [one.data for one in received] == [str(number).encode() for number in range(20)]
        expected = publication("0")
        assert (received[0].info, received[0].tags, received[0].exclude_client) == (
            expected.info,
            expected.tags,
            expected.exclude_client,
        )
        assert {epoch for _, epoch, _ in listener.received} == {results[0].position.epoch}

    async def test_an_ephemeral_event_is_heard_and_is_in_no_log(self, broker: Broker, listener: Listener) -> None:
        await broker.subscribe(CHANNEL)
        before = await append(broker, "a")
        event = publication("b")
        assert await broker.publish_ephemeral(CHANNEL, event)
        after = await append(broker, "c")
        await listener.until(2)
        (heard,) = [one for channel, one in listener.ephemerals if channel == CHANNEL]
        assert (heard.data, heard.info, heard.offset) == (b"b", event.info, 0)
        assert after.position.offset == before.position.offset + 1
        page = await broker.read(CHANNEL, since_offset=0, limit=9, reverse=False, stored=False, max_bytes=1 << 20)
        assert page is not None
        assert [one.data for one in page.publications] == [b"a", b"c"]

    async def test_many_at_once_have_each_its_offset(self, broker: Broker, listener: Listener) -> None:
        await broker.subscribe(CHANNEL)
        results = await asyncio.gather(*(append(broker, str(number)) for number in range(300)))
        assert sorted(result.position.offset for result in results) == list(range(1, 301))
        assert [one.offset for one in await listener.until(300)] == list(range(1, 301))

    async def test_a_known_key_returns_the_first_position_and_is_not_announced(
        self, broker: Broker, listener: Listener
    ) -> None:
        await broker.subscribe(CHANNEL)
        first = await append(broker, "a", key="k")
        assert await append(broker, "b", key="k") == AppendResult(first.position, True)
        assert (await append(broker, "c", key="k", user="other")).position.offset == 2
        assert [one.data for one in await listener.until(2)] == [b"a", b"c"]

    async def test_a_read_begins_no_log(self, broker: Broker) -> None:
        for _ in range(2):
            page = await broker.read("live:new", since_offset=0, limit=1, reverse=False, stored=False, max_bytes=1)
            assert page is None
        await broker.top("live:new")
        page = await broker.read("live:new", since_offset=0, limit=1, reverse=False, stored=False, max_bytes=1)
        assert page is not None
        assert page.publications == []

    async def test_without_a_key_every_append_is_another(self, broker: Broker) -> None:
        same = publication("a")
        for offset in (1, 2):
            result = await broker.append(CHANNEL, same, key_user="u", key="", history_size=9, history_ttl_s=60)
            assert (result.position.offset, result.repeated_key) == (offset, False)

    async def test_a_top_has_an_epoch_before_anything_was_said_and_keeps_it(self, broker: Broker) -> None:
        top = await broker.top(CHANNEL)
        assert top.offset == 0
        assert top.epoch
        assert (await append(broker, "a")).position == StreamPosition(1, top.epoch)
        assert await broker.top(CHANNEL) == StreamPosition(1, top.epoch)

    async def test_reading_both_ways_within_what_is_kept(self, broker: Broker) -> None:
        assert (
            await broker.read(CHANNEL, since_offset=0, limit=5, reverse=False, stored=False, max_bytes=1 << 20) is None
        )
        for number in range(1, 11):
            await append(broker, str(number), size=6)

        async def offsets(since: int, limit: int, *, reverse: bool) -> list[int]:
            page = await broker.read(
                CHANNEL, since_offset=since, limit=limit, reverse=reverse, stored=False, max_bytes=1 << 20
            )
            assert page is not None
            assert page.top.offset == 10
            return [one.offset for one in page.publications]

        assert await offsets(0, 100, reverse=False) == [5, 6, 7, 8, 9, 10]
        assert await offsets(7, 2, reverse=False) == [8, 9]
        assert await offsets(10, 5, reverse=False) == []
        assert await offsets(0, 3, reverse=True) == [10, 9, 8]
        assert await offsets(7, 2, reverse=True) == [6, 5]
        assert await offsets(99, 2, reverse=True) == [10, 9]

    async def test_removed_history_leaves_the_top(self, broker: Broker) -> None:
        first = await append(broker, "a")
        await broker.remove_history(CHANNEL)
        page = await broker.read(CHANNEL, since_offset=0, limit=5, reverse=False, stored=False, max_bytes=1 << 20)
        assert page is not None
        assert (page.publications, page.top) == ([], first.position)
        assert (await append(broker, "b")).position.offset == 2

    async def test_what_is_published_without_a_log_is_heard_without_offset(
        self, broker: Broker, listener: Listener
    ) -> None:
        await broker.subscribe(CHANNEL)
        await broker.publish(CHANNEL, publication("x"))
        (received,) = await listener.until(1)
        assert (received.offset, received.data) == (0, b"x")

    async def test_after_unsubscribe_nothing_is_heard(self, broker: Broker, listener: Listener) -> None:
        await broker.subscribe(CHANNEL)
        await broker.unsubscribe(CHANNEL)
        await append(broker, "unheard")
        await broker.subscribe("live:other")
        await broker.publish("live:other", publication("heard"))
        assert [one.data for one in await listener.until(1)] == [b"heard"]

    async def test_tops_of_many_channels_come_in_order(self, broker: Broker) -> None:
        first = await append(broker, "a")
        names = [(CHANNEL, False), ("chat:unknown", True), ("live:empty", False)]
        tops = await broker.tops(names)
        assert tops[:2] == [first.position, None]
        assert tops[2] is not None
        assert tops[2].offset == 0
        assert await broker.tops([]) == []

    async def test_a_stored_channel_that_nobody_opened_has_no_top(self, broker: Broker) -> None:
        assert await broker.stored_top("chat:unknown") is None


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def listener(self) -> Listener:
        return Listener()

    @pytest.fixture
    def broker(self, listener: Listener) -> MemoryBroker:
        made = MemoryBroker(MemoryBus())
        made.listener = listener
        return made


class TestRedisBroker(BrokerContract):
    @pytest.fixture
    def listener(self) -> Listener:
        return Listener()

    @pytest.fixture
    async def broker(self, listener: Listener, redis_url: str) -> AsyncIterator[RedisBroker]:
        made = RedisBroker(redis_url)
        await made.start(listener, lambda payload: None)
        yield made
        await made.close()

    async def test_scripts_that_the_server_forgot_are_sent_again(
        self, broker: RedisBroker, redis_conn: redis.asyncio.Redis
    ) -> None:
        await append(broker, "a")
        await redis_conn.script_flush()
        assert (await append(broker, "b")).position.offset == 2


@pytest.mark.parametrize("key", ["k", ""])
async def test_an_append_whose_answer_is_lost_is_repeated_where_it_has_a_key_and_else_its_outcome_is_unknown(
    own_redis: RedisServer, key: str
) -> None:
    listener = Listener()
    async with TcpProxy("127.0.0.1", own_redis.port) as proxy, redis.asyncio.Redis.from_url(own_redis.url) as direct:
        broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}/0")
        await broker.start(listener, lambda payload: None)
        first = await append(broker, "before")
        proxy.delay_s = 0.4
        waiting = asyncio.ensure_future(
            broker.append(CHANNEL, publication("a"), key_user="u", key=key, history_size=9, history_ttl_s=60)
        )
        async with asyncio.timeout(30):
            while await direct.xlen(keys.log(CHANNEL)) < 2:
                await asyncio.sleep(0.005)
        proxy.delay_s = 0.0
        proxy.reset()
        if key:
            assert await waiting == AppendResult(StreamPosition(2, first.position.epoch), True)
        else:
            with pytest.raises(Unavailable):
                await waiting
        assert await direct.xlen(keys.log(CHANNEL)) == 2
        await broker.close()


@pytest.mark.parametrize("key", ["k", ""])
async def test_an_append_that_was_never_sent_is_tried_again(own_redis: RedisServer, key: str) -> None:
    async with TcpProxy("127.0.0.1", own_redis.port) as proxy:
        broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}/0")
        await broker.start(Listener(), lambda payload: None)
        await append(broker, "before")
        proxy.cut()
        while broker.is_ready:
            await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(
            broker.append(CHANNEL, publication("a"), key_user="u", key=key, history_size=9, history_ttl_s=60)
        )
        await asyncio.sleep(0.01)
        proxy.heal()
        result = await waiting
        assert (result.position.offset, result.repeated_key) == (2, False)
        await broker.close()


async def test_a_redis_that_hangs_fails_calls_within_three_seconds_and_then_serves_again(
    own_redis: RedisServer,
) -> None:
    broker = RedisBroker(own_redis.url)
    listener = Listener()
    await broker.start(listener, lambda payload: None)
    await broker.subscribe(CHANNEL)
    await append(broker, "before")
    own_redis.pause()
    async with Lateness() as late:
        with pytest.raises(Unavailable):
            await append(broker, "unknown", key="k")
    assert late.took_s < 3.0
    own_redis.resume()
    deadline = time.monotonic() + 30
    while True:
        try:
            result = await append(broker, "again", key="k")
            break
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    assert result.position.offset == 2  # whichever of the two it was, there is one
    assert (await append(broker, "after")).position.offset == 3
    await broker.close()
