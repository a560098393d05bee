"""Leases of edges in a real Redis: who lives, and until when the dead did."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis.asyncio

from services.edge.adapters.redis import edge_lease
from services.edge.adapters.redis.edge_lease import KEPT_S, LEASE_S, EdgeLeases
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.faults import free_port


async def test_a_lease_tells_when_its_edge_was_last_there(redis_pipeline: RedisPipeline) -> None:
    """Its time is that of Redis, which runs on this host."""
    one, other = EdgeLeases(redis_pipeline, "one"), EdgeLeases(redis_pipeline, "other")
    before = time.time()
    renewed_at = await one.renew()
    found = await other.read(["one", "other", "never-lived"])
    assert list(found) == ["one"]
    lease = found["one"]
    assert before - 0.002 <= renewed_at <= time.time()
    assert lease.renewed_at == renewed_at
    assert lease.until == pytest.approx(renewed_at + LEASE_S)
    assert lease.is_good(renewed_at)
    assert lease.is_good(renewed_at + LEASE_S - 0.01)
    assert not lease.is_good(renewed_at + LEASE_S)
    assert (one.is_held, other.is_held) == (True, False)


async def test_a_renewal_is_later_than_the_one_before(redis_pipeline: RedisPipeline) -> None:
    leases = EdgeLeases(redis_pipeline, "one")
    first = await leases.renew()
    await asyncio.sleep(0.005)
    second = await leases.renew()
    assert second > first
    assert (await leases.read(["one"]))["one"].renewed_at == second


async def test_an_edge_that_stops_in_order_has_no_good_lease_and_is_known(redis_pipeline: RedisPipeline) -> None:
    leases = EdgeLeases(redis_pipeline, "one")
    await leases.renew()
    await leases.end()
    lease = (await leases.read(["one"]))["one"]
    assert not lease.is_good(lease.renewed_at)
    assert time.time() - lease.renewed_at < 5
    assert not leases.is_held


async def test_an_ended_lease_is_not_renewed_by_the_task_that_still_runs(
    redis_pipeline: RedisPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_lease, "RENEW_S", 0.01)
    leases = EdgeLeases(redis_pipeline, "one")
    running = asyncio.create_task(leases.run())
    while not leases.is_held:
        await asyncio.sleep(0.005)
    await leases.end()
    async with asyncio.timeout(30):
        await running
    lease = (await leases.read(["one"]))["one"]
    assert lease.until == lease.renewed_at
    assert not leases.is_held


async def test_a_lease_goes_by_itself(redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis) -> None:
    leases = EdgeLeases(redis_pipeline, "one")
    await leases.renew()
    assert (KEPT_S - 5) * 1000 < await redis_conn.pttl(keys.lease("one")) <= KEPT_S * 1000
    await leases.end()
    assert (KEPT_S - 5) * 1000 < await redis_conn.pttl(keys.lease("one")) <= KEPT_S * 1000


async def test_a_lease_that_redis_lost_is_renewed_when_asked(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    leases = EdgeLeases(redis_pipeline, "one")
    running = asyncio.create_task(leases.run())
    try:
        await until_known(leases)
        await redis_conn.delete(keys.lease("one"))
        leases.renew_now()
        async with asyncio.timeout(edge_lease.RENEW_S / 2):
            await until_known(leases)
    finally:
        await end_task(running)


async def until_known(leases: EdgeLeases) -> None:
    while not await leases.read([leases.edge]):
        await asyncio.sleep(0.005)


async def test_what_nobody_can_read_is_no_lease(redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis) -> None:
    await redis_conn.set(keys.lease("one"), "soon")
    await redis_conn.set(keys.lease("other"), "1000 2000 and what a later version adds")
    assert await EdgeLeases(redis_pipeline, "x").read(["one", "other"]) == {"other": (1.0, 2.0)}


async def test_without_redis_no_lease_is_held_and_the_edge_goes_on_trying(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = RedisPipeline(f"redis://127.0.0.1:{free_port()}/0")
    leases = EdgeLeases(pipeline, "one")
    try:
        for asked in (leases.renew(), leases.end(), leases.read(["one"])):
            with pytest.raises(Unavailable):
                await asked
        assert await leases.read([]) == {}
        assert not leases.is_held
        waiting = asyncio.create_task(EdgeLeases(pipeline, "two").run())
        async with asyncio.timeout(30):
            while "the lease of this edge was not renewed" not in caplog.text:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert caplog.text.count("the lease of this edge was not renewed") == 1
        await end_task(waiting)
    finally:
        await pipeline.aclose()
