"""Tickets in a real Redis: good once, for a time, and worth nothing to whoever reads Redis."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio

from services.edge.adapters.redis.tickets import RedisTickets
from services.shared.errors import Unavailable
from services.shared.redis.pipeline import RedisPipeline
from tests.support.faults import free_port

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
TICKET = "a-ticket-that-nobody-guesses"


async def kept_ticket(connection: redis.asyncio.Redis) -> tuple[bytes, bytes]:
    """Key and value of the only ticket."""
    (key,) = await connection.keys("*:ticket")
    value = await connection.get(key)
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    return key, value


async def test_of_many_who_take_a_ticket_at_once_one_gets_its_token(redis_pipeline: RedisPipeline) -> None:
    tickets = RedisTickets(redis_pipeline)
    await tickets.put(TICKET, TOKEN, 30)
    found = await asyncio.gather(*(tickets.take(TICKET) for _ in range(20)))
    assert sorted(found, key=bool) == [None] * 19 + [TOKEN]
    assert await tickets.take("another") is None


async def test_a_ticket_ends_with_its_time(redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis) -> None:
    tickets = RedisTickets(redis_pipeline)
    await tickets.put(TICKET, TOKEN, 30)
    (key,) = await redis_conn.keys("*:ticket")
    assert 29_000 < await redis_conn.pttl(key) <= 30_000
    await redis_conn.pexpire(key, 1)
    await asyncio.sleep(0.01)
    assert await tickets.take(TICKET) is None


async def test_redis_holds_neither_the_ticket_nor_its_token(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    await RedisTickets(redis_pipeline).put(TICKET, TOKEN, 30)
    kept = b"".join(await kept_ticket(redis_conn))
    for secret in (TICKET, *TOKEN.split(".")):
        assert secret.encode() not in kept


async def test_a_value_that_was_tampered_with_is_no_token(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    tickets = RedisTickets(redis_pipeline)
    await tickets.put(TICKET, TOKEN, 30)
    key, value = await kept_ticket(redis_conn)
    await redis_conn.set(key, bytes([value[0] ^ 1]) + value[1:], ex=30)
    assert await tickets.take(TICKET) is None


async def test_without_redis_the_outcome_is_unavailable() -> None:
    pipeline = RedisPipeline(f"redis://127.0.0.1:{free_port()}/0")
    try:
        with pytest.raises(Unavailable):
            await RedisTickets(pipeline).put(TICKET, TOKEN, 30)
        with pytest.raises(Unavailable):
            await RedisTickets(pipeline).take(TICKET)
    finally:
        await pipeline.aclose()
