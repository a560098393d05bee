"""How long, and how much, Redis keeps of the log of a `stored` channel."""

from __future__ import annotations

import os
from typing import Any

import pytest
import redis.asyncio

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.domain.ports import ChannelState
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import KEY_TTL_S, Batch, Item
from services.shared.redis.pipeline import RedisPipeline

CHANNEL, EPOCH, INCARNATION = "chat:kept", "epoch", "incarnation"
TTL_S = 1_600
LONGEST_S = TTL_S + TTL_S // 16 + 60


class Kept:
    """A channel in Redis whose publications are stored as soon as they are numbered."""

    def __init__(self, pipeline: RedisPipeline, client: redis.asyncio.Redis) -> None:
        self._hot = RedisHotLog(pipeline, lambda: INCARNATION)
        self._client = client

    async def begin(self) -> None:
        await self._hot.init(CHANNEL, ChannelState(EPOCH, 0), 0, [])

    async def publish(self, ttl_s: int = TTL_S, size: int = 5) -> int:
        item = Item(os.urandom(16), b"x", "u", os.urandom(8).hex())
        (appended,) = await self._hot.append([Batch(CHANNEL, size, ttl_s, [item])], 100)
        assert appended is not None
        assert not isinstance(appended, Exception)
        return appended.offsets[0]

    async def commit(self, upto: int, size: int = 5) -> None:
        assert await self._hot.commit([(CHANNEL, EPOCH, upto, size)], INCARNATION) == [upto]

    async def ttl_s(self) -> int:
        return int(await self._client.ttl(keys.log(CHANNEL)))

    async def first(self) -> int:
        found: Any = await self._client.xrange(keys.log(CHANNEL), count=1)
        return int(found[0][0].split(b"-")[0])


@pytest.fixture
async def kept(redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis) -> Kept:
    made = Kept(redis_pipeline, redis_conn)
    await made.begin()
    return made


@pytest.mark.parametrize("left_s", [-1, 5, TTL_S - 1, LONGEST_S + 1, 86_400])
async def test_a_log_is_kept_for_its_time_from_the_last_publish_on(
    left_s: int, kept: Kept, redis_conn: redis.asyncio.Redis
) -> None:
    await kept.publish()
    assert TTL_S <= await kept.ttl_s() <= LONGEST_S
    await (redis_conn.persist(keys.log(CHANNEL)) if left_s < 0 else redis_conn.expire(keys.log(CHANNEL), left_s))
    await kept.publish()
    assert TTL_S <= await kept.ttl_s() <= LONGEST_S


async def test_a_log_with_enough_time_left_is_not_renewed(kept: Kept, redis_conn: redis.asyncio.Redis) -> None:
    await kept.publish()
    await redis_conn.expire(keys.log(CHANNEL), TTL_S + 50)
    await kept.commit(await kept.publish())
    assert await kept.ttl_s() <= TTL_S + 50


async def test_no_log_ends_before_the_keys_that_lead_into_it(kept: Kept) -> None:
    await kept.publish(ttl_s=5)
    assert await kept.ttl_s() > KEY_TTL_S


async def test_what_is_readable_is_cut_to_its_size_now_and_then(kept: Kept) -> None:
    for offset in range(1, 100):
        assert await kept.publish() == offset
        await kept.commit(offset)
        assert offset - 5 - 15 <= await kept.first() <= max(1, offset - 5 + 1)


async def test_many_at_once_are_cut_though_none_of_them_is_a_sixteenth(kept: Kept) -> None:
    for _ in range(39):
        await kept.publish()
    await kept.commit(39)
    assert await kept.first() == 35


async def test_what_is_not_readable_is_not_cut(kept: Kept) -> None:
    for _ in range(40):
        await kept.publish()
    await kept.commit(16)
    assert await kept.first() == 12
