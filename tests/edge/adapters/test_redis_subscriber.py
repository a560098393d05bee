"""The pub/sub connection: confirmed, made anew, and never stuck.

Confirmed before a subscribe returns; never stuck on what was given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from services.edge.adapters.redis import subscriber as redis_subscriber
from services.edge.adapters.redis.subscriber import RedisSubscriber
from services.shared.errors import Unavailable
from tests.support.redis import RedisServer


class Received:
    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.connections: list[bool] = []
        self.news = asyncio.Event()

    def message(self, channel: bytes, payload: bytes) -> None:
        self.messages.append((channel, payload))
        self.news.set()

    def connected(self, again: bool) -> None:
        self.connections.append(again)
        self.news.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.messages) < count:
                self.news.clear()
                await self.news.wait()

    async def until_connections(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.connections) < count:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def received(own_redis: RedisServer) -> AsyncIterator[tuple[Received, RedisSubscriber]]:
    listener = Received()
    subscriber = RedisSubscriber(own_redis.url, on_message=listener.message, on_connected=listener.connected)
    await subscriber.start()
    yield listener, subscriber
    await subscriber.close()


async def publish(server: RedisServer, channel: str, *payloads: str) -> list[int]:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        return [int(await client.publish(channel, payload)) for payload in payloads]


async def test_after_subscribe_everything_is_heard_in_order(
    own_redis: RedisServer, received: tuple[Received, RedisSubscriber]
) -> None:
    listener, subscriber = received
    await subscriber.subscribe("a")
    assert await publish(own_redis, "a", *map(str, range(200))) == [1] * 200
    await listener.until(200)
    assert [payload for _, payload in listener.messages] == [str(number).encode() for number in range(200)]


async def test_a_killed_connection_comes_back_with_all_its_subscriptions_and_says_so(
    own_redis: RedisServer, received: tuple[Received, RedisSubscriber]
) -> None:
    listener, subscriber = received
    for number in range(1_200):
        await subscriber.subscribe(f"c{number}")
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        await client.client_kill_filter(_type="pubsub")
    await listener.until_connections(2)
    assert listener.connections == [False, True]
    for number in (0, 599, 1_199):
        assert await publish(own_redis, f"c{number}", "x") == [1]


async def test_a_subscribe_that_was_given_up_is_asked_anew(
    own_redis: RedisServer, received: tuple[Received, RedisSubscriber]
) -> None:
    listener, subscriber = received
    await listener.until_connections(1)
    own_redis.pause()
    with pytest.raises(Unavailable):
        await subscriber.subscribe("a")
    await subscriber.unsubscribe("a")
    own_redis.resume()
    async with asyncio.timeout(30):
        while True:
            try:
                await subscriber.subscribe("a")
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    assert await publish(own_redis, "a", "x") == [1]


async def test_a_server_that_is_silent_is_left_and_asked_anew(
    own_redis: RedisServer, received: tuple[Received, RedisSubscriber]
) -> None:
    listener, subscriber = received
    await subscriber.subscribe("a")
    own_redis.pause()
    try:
        async with asyncio.timeout(30):
            while subscriber.connected:
                await asyncio.sleep(0.05)
    finally:
        own_redis.resume()
    await listener.until_connections(2)
    assert await publish(own_redis, "a", "x") == [1]


async def test_an_unsubscribed_channel_is_not_heard(
    own_redis: RedisServer, received: tuple[Received, RedisSubscriber]
) -> None:
    _, subscriber = received
    await subscriber.subscribe("a")
    await subscriber.unsubscribe("a")
    await subscriber.subscribe("b")
    assert await publish(own_redis, "a", "x") == [0]


async def test_a_listener_that_fails_costs_a_connection_and_not_the_subscription(own_redis: RedisServer) -> None:
    listener = Received()

    def fails_once(channel: bytes, payload: bytes) -> None:
        if payload == b"bad":
            raise KeyError("a fault of ours")
        listener.message(channel, payload)

    subscriber = RedisSubscriber(own_redis.url, on_message=fails_once, on_connected=listener.connected)
    await subscriber.start()
    await subscriber.subscribe("a")
    await publish(own_redis, "a", "bad")
    await listener.until_connections(2)
    await publish(own_redis, "a", "good")
    await listener.until(1)
    assert listener.messages == [(b"a", b"good")]
    await subscriber.close()


async def test_a_server_that_says_nothing_is_asked_and_then_left(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_subscriber, "PING_S", 0.1)
    monkeypatch.setattr(redis_subscriber, "SILENCE_S", 0.4)
    listener, lost = Received(), asyncio.Event()
    subscriber = RedisSubscriber(
        own_redis.url, on_message=listener.message, on_connected=listener.connected, on_lost=lost.set
    )
    await subscriber.start()
    await listener.until_connections(1)
    await asyncio.sleep(1.0)
    assert not lost.is_set()  # it answers pings
    own_redis.pause()
    async with asyncio.timeout(30):
        await lost.wait()
    own_redis.resume()
    await listener.until_connections(2)
    await subscriber.close()


async def test_after_a_reconnect_nothing_is_subscribed_before_the_caller_allows_it(
    redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    allowed, asked = asyncio.Event(), asyncio.Event()
    received: list[bytes] = []

    async def before_restore() -> None:
        asked.set()
        await allowed.wait()

    subscriber = RedisSubscriber(
        redis_url,
        on_message=lambda _, payload: received.append(payload),
        on_connected=lambda _: None,
        before_restore=before_restore,
    )
    await subscriber.start()
    await subscriber.subscribe("room")
    assert not asked.is_set()  # nothing can have been missed yet
    subscriber.drop()
    async with asyncio.timeout(30):
        await asked.wait()
        assert await redis_conn.publish("room", b"early") == 0
        allowed.set()
        while not await redis_conn.publish("room", b"late"):
            await asyncio.sleep(0.01)
        while not received:
            await asyncio.sleep(0.01)
    assert set(received) == {b"late"}
    await subscriber.close()
