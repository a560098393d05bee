"""Tickets in a real Redis: good once, for a time, worth nothing to its readers."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
import redis.asyncio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from services.edge.adapters.redis.tickets import RedisTickets
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.faults import free_port

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
RUN = "run.1"  # the incarnation of Redis


def made_by_an_earlier_version(ticket: str) -> tuple[str, bytes]:
    """Key and value, as before tickets named their incarnation."""
    key = hashlib.sha256(b"key " + ticket.encode()).digest()
    sealed = ChaCha20Poly1305(key).encrypt(bytes(12), TOKEN.encode(), None)
    return keys.ticket(hashlib.sha256(b"name " + ticket.encode()).hexdigest()), sealed


async def kept_ticket(connection: redis.asyncio.Redis) -> tuple[bytes, bytes]:
    """Key and value of the only ticket."""
    (key,) = await connection.keys("*:ticket")
    value = await connection.get(key)
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    return key, value


async def test_of_many_who_take_a_ticket_at_once_one_gets_its_token(redis_pipeline: RedisPipeline) -> None:
    tickets = RedisTickets(redis_pipeline, lambda: RUN)
    ticket = await tickets.issue(TOKEN, 30)
    found = await asyncio.gather(*(tickets.take(ticket) for _ in range(20)))
    assert sorted(found, key=bool) == [None] * 19 + [TOKEN]
    assert await tickets.take("another") is None


async def test_a_ticket_ends_with_its_time(redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis) -> None:
    tickets = RedisTickets(redis_pipeline, lambda: RUN)
    ticket = await tickets.issue(TOKEN, 30)
    (key,) = await redis_conn.keys("*:ticket")
    assert 29_000 < await redis_conn.pttl(key) <= 30_000
    await redis_conn.pexpire(key, 1)
    await asyncio.sleep(0.01)
    assert await tickets.take(ticket) is None


async def test_redis_holds_neither_the_ticket_nor_its_token(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    ticket = await RedisTickets(redis_pipeline, lambda: RUN).issue(TOKEN, 30)
    kept = b"".join(await kept_ticket(redis_conn))
    for secret in (ticket, *TOKEN.split(".")):
        assert secret.encode() not in kept


async def test_a_value_that_was_tampered_with_is_no_token(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    tickets = RedisTickets(redis_pipeline, lambda: RUN)
    ticket = await tickets.issue(TOKEN, 30)
    key, value = await kept_ticket(redis_conn)
    await redis_conn.set(key, bytes([value[0] ^ 1]) + value[1:], ex=30)
    assert await tickets.take(ticket) is None


async def test_a_used_ticket_is_not_good_again_in_a_redis_that_does_not_know_of_its_use(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    """As after a failover to a replica that was behind.

    The ticket is there, and the incarnation is another one.
    """
    incarnation = RUN
    tickets = RedisTickets(redis_pipeline, lambda: incarnation)
    ticket = await tickets.issue(TOKEN, 30)
    key, value = await kept_ticket(redis_conn)
    assert await tickets.take(ticket) == TOKEN
    await redis_conn.set(key, value, ex=30)
    incarnation = "run.2"
    assert await tickets.take(ticket) is None
    await redis_conn.set(key, value, ex=30)
    assert await tickets.take(ticket.partition(".")[0]) is None  # without the name of its incarnation it is another one


async def test_a_ticket_of_an_earlier_version_is_good_in_any_incarnation(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    key, sealed = made_by_an_earlier_version("an-older-ticket")
    await redis_conn.set(key, sealed, ex=30)
    assert await RedisTickets(redis_pipeline, lambda: RUN).take("an-older-ticket") == TOKEN


async def test_no_ticket_is_issued_while_redis_may_not_be_used(redis_pipeline: RedisPipeline) -> None:
    with pytest.raises(Unavailable):
        await RedisTickets(redis_pipeline, lambda: "").issue(TOKEN, 30)


async def test_without_redis_the_outcome_is_unavailable() -> None:
    pipeline = RedisPipeline(f"redis://127.0.0.1:{free_port()}/0")
    try:
        with pytest.raises(Unavailable):
            await RedisTickets(pipeline, lambda: RUN).issue(TOKEN, 30)
        with pytest.raises(Unavailable):
            await RedisTickets(pipeline, lambda: RUN).take("a")
    finally:
        await pipeline.aclose()
