"""Redis is full, or takes no writes, between the steps of a `stored` publication.

Heard is what can be read, once.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.domain.ports import ChannelState
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import Batch, Item
from services.shared.redis.pipeline import RedisPipeline
from tests.support.feed import publications_told

CHANNEL, EPOCH = "chat:refused", "epoch"
FULL = ("maxmemory", "1", "0")
NO_REPLICAS = ("min-replicas-to-write", "1", "0")


class Written:
    """A channel in Redis, and what its subscribers hear."""

    def __init__(self, pipeline: RedisPipeline, received: redis.asyncio.client.PubSub) -> None:
        self.incarnation = "incarnation"
        self.hot = RedisHotLog(pipeline, lambda: self.incarnation)
        self._received = received

    async def number(self, author: str | None = None) -> int:
        item = Item(os.urandom(16), b"x", "u", os.urandom(8).hex(), author)
        (appended,) = await self.hot.append([Batch(CHANNEL, 5, 60, [item])], 100)
        assert appended is not None
        assert not isinstance(appended, Exception)
        return appended.offsets[0]

    async def commit(self, upto: int) -> int | Exception:
        (readable,) = await self.hot.commit([(CHANNEL, EPOCH, upto, 5)], "incarnation")
        return readable

    async def received(self) -> list[int]:
        found = []
        while (message := await self._received.get_message(timeout=0.3)) is not None:
            found.append(int(message["data"].split(b" ")[1]))
        return found


@pytest.fixture
async def written(redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis) -> AsyncIterator[Written]:
    async with redis_conn.pubsub() as pubsub:
        await pubsub.subscribe(keys.pub(CHANNEL))
        assert await pubsub.get_message(timeout=60)  # that it is subscribed
        made = Written(redis_pipeline, pubsub)
        await made.hot.init(CHANNEL, ChannelState(EPOCH, 0), 0, [])
        yield made


@pytest.mark.parametrize("author", [None, "ann"], ids=["", "feed"])
@pytest.mark.parametrize("trouble", [FULL, NO_REPLICAS], ids=lambda trouble: trouble[0])
async def test_what_can_not_be_read_is_not_told(
    trouble: tuple[str, str, str], author: str | None, written: Written, redis_conn: redis.asyncio.Redis
) -> None:
    name, bad, good = trouble
    offset = await written.number(author)
    await redis_conn.config_set(name, bad)
    try:
        readable = [await written.commit(offset) for _ in range(3)][-1]
    finally:
        await redis_conn.config_set(name, good)
    expected = [] if isinstance(readable, Exception) else [offset]
    assert await written.received() == expected
    assert [one.number for one in await publications_told(redis_conn)] == (expected if author else [])
    assert await written.commit(offset) == offset
    assert await written.received() == ([offset] if isinstance(readable, Exception) else [])
    assert [one.number for one in await publications_told(redis_conn)] == ([offset] if author else [])


async def test_what_is_stored_becomes_readable_in_a_full_redis(
    written: Written, redis_conn: redis.asyncio.Redis
) -> None:
    """Also in another incarnation: nothing that is there already is kept from readers."""
    offset = await written.number()
    await redis_conn.config_set("maxmemory", "1")
    try:
        assert await written.commit(offset) == offset
        written.incarnation = "another incarnation"
        assert await written.hot.readable(CHANNEL) is None
        assert await written.hot.verify(CHANNEL, ChannelState(EPOCH, offset)) == 1
        assert await written.hot.readable(CHANNEL) == ChannelState(EPOCH, offset)
    finally:
        await redis_conn.config_set("maxmemory", "0")
