"""Orders in a real Redis: what is kept, for how long, and what is told."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio

from services.edge.adapters.redis import command_log as redis_orders
from services.edge.adapters.redis.command_log import RedisControlLog
from services.edge.domain.model import ControlCommand, ControlCommandId
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.faults import free_port


@pytest.fixture
def orders(redis_pipeline: RedisPipeline) -> RedisControlLog:
    return RedisControlLog(redis_pipeline)


async def test_orders_are_read_in_pages_each_with_the_one_before_it(orders: RedisControlLog) -> None:
    assert await orders.read((0, 0)) == ([], (0, 0), True)
    for number in range(250):
        assert await orders.give(b"%d" % number) == 0  # nobody listens
    found: list[bytes] = []
    since: ControlCommandId = (0, 0)
    for is_last in (False, True):
        page = await orders.read(since)
        assert page.is_last is is_last
        for order in page.orders:
            assert order.previous == since < order.id
            since = order.id
            found.append(order.payload)
    assert page.newest == since
    assert found == [b"%d" % number for number in range(250)]


async def test_what_is_told_is_what_is_kept(orders: RedisControlLog, redis_conn: redis.asyncio.Redis) -> None:
    async with redis_conn.pubsub() as listener:
        await listener.subscribe(keys.control())
        await listener.get_message(timeout=2)
        for payload in (b'{"op":"one two"}', b"\x00\xff\n"):
            assert await orders.give(payload) == 1
        told: list[ControlCommand] = []
        async with asyncio.timeout(2):
            while len(told) < 2:
                message = await listener.get_message(ignore_subscribe_messages=True, timeout=1)
                told += [redis_orders.heard(message["data"])] if message else []
    assert told == (await orders.read((0, 0))).orders
    assert [order.payload for order in told] == [b'{"op":"one two"}', b"\x00\xff\n"]


async def test_what_is_older_than_a_minute_goes_with_the_next_order(
    orders: RedisControlLog, redis_conn: redis.asyncio.Redis
) -> None:
    now_s, _ = await redis_conn.time()
    for number in range(250):  # Redis drops nodes of a hundred entries
        fields = {"previous": "0-0", "order": "old"}
        await redis_conn.xadd(keys.orders(), fields, id=f"{(now_s - 120) * 1000 + number}-0")  # type: ignore[arg-type]
    await orders.give(b"new")
    page = await orders.read((0, 0))
    assert page.orders[-1].payload == b"new"
    assert len(page.orders) <= 101


async def test_an_entry_that_is_no_order_does_not_stop_who_follows(
    orders: RedisControlLog, redis_conn: redis.asyncio.Redis
) -> None:
    await redis_conn.xadd(keys.orders(), {"something": "else"})
    await redis_conn.xadd(keys.orders(), {"previous": "nonsense", "order": "x"})
    await orders.give(b"order")
    page = await orders.read((0, 0))
    assert [order.payload for order in page.orders] == [b"", b"", b"order"]


@pytest.mark.parametrize("payload", [b"o", b"o1-0 0-0", b"ox-0 0-0 {}", b"o1-0  {}"])
def test_what_is_told_and_is_no_order_is_said_to_be_none(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any of them: it is counted and dropped
        redis_orders.heard(payload)


async def test_a_redis_that_is_away_is_unavailable() -> None:
    pipeline = RedisPipeline(f"redis://127.0.0.1:{free_port()}/0")
    orders = RedisControlLog(pipeline)
    for call in (orders.give(b"x"), orders.read((0, 0))):
        with pytest.raises(Unavailable):
            await call
    await pipeline.aclose()
