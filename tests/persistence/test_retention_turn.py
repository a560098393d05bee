"""One replica at a time removes what is too old: the key in Redis says which."""

from __future__ import annotations

import pytest
import redis.asyncio

from services.persistence.adapters.redis import retention_turn
from services.persistence.adapters.redis.retention_turn import HELD_S, RedisTurn, last_swept
from services.persistence.domain.retention import PAUSE_S, Swept
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline


def now() -> float:
    return 1_700_000_000.4


async def test_one_takes_the_turn_and_the_next_is_due_after_the_pause(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline
) -> None:
    one, other = (RedisTurn(redis_pipeline, now) for _ in range(2))
    assert await last_swept(redis_pipeline) is None
    assert [await one.take(), await other.take(), await one.take()] == [True, False, False]
    assert 0 < await redis_conn.ttl(keys.retention_turn()) <= HELD_S
    await one.end(Swept(7, 1, 900), PAUSE_S)
    assert HELD_S < await redis_conn.ttl(keys.retention_turn()) <= PAUSE_S
    assert await last_swept(redis_pipeline) == (1_700_000_000, Swept(7, 1, 900))
    assert not await other.take()
    await redis_conn.delete(keys.retention_turn())  # as when the pause is over
    assert await other.take()


async def test_who_goes_on_keeps_the_turn_and_who_was_overtaken_is_told(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_turn, "_RENEWED_S", 0.0)
    one, other = (RedisTurn(redis_pipeline, now) for _ in range(2))
    assert await one.take()
    await redis_conn.expire(keys.retention_turn(), 5)
    assert await one.keep()
    assert await redis_conn.ttl(keys.retention_turn()) > 5
    await redis_conn.delete(keys.retention_turn())  # it did not renew it for a minute
    assert not await one.keep()
    assert await other.take()
    assert [await one.keep(), await other.keep()] == [False, True]
