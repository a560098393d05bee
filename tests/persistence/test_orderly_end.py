"""Persistence that ends in order notes what Redis has.

The next start knows that nothing is missing.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from services.persistence.adapters.redis.heartbeat import WAITS_S
from services.shared.hotlog import keys
from services.shared.incarnation import calls as incarnation
from services.shared.incarnation.calls import Incarnation, Known
from services.shared.redis.pipeline import RedisPipeline
from tests.persistence.test_store_restored import persistence
from tests.support.redis import RedisServer


async def run_of(server: RedisServer, path: Path, *, in_order: bool = True) -> tuple[Incarnation, float]:
    """Begin and end: the incarnation that it found, and how long that took."""
    began = time.monotonic()
    async with persistence(server.url, path) as one:
        took_s = time.monotonic() - began
        found = one.gate.incarnation
        assert found is not None
        await one.end()
        if in_order:
            await one.maintenance.leave()
    return found, took_s


async def look(edge: RedisPipeline) -> None:
    await edge.run([incarnation.check_call("edge", Known(), "", "")], timeout_s=2.0)


async def look_always(edge: RedisPipeline) -> None:
    while True:
        await look(edge)
        await asyncio.sleep(0.2)


def again(server: RedisServer) -> None:
    server.kill()
    server.start(whole=False)


async def test_after_an_orderly_end_the_generation_is_kept_at_once(own_redis: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    first, _ = await run_of(own_redis, path)
    for _ in range(2):
        again(own_redis)
        found, took_s = await run_of(own_redis, path)
        assert (found.generation, found.run_id != first.run_id) == (first.generation, True)
        assert took_s < WAITS_S, "nobody is waited for"
    found, _ = await run_of(own_redis, path)  # the same run of Redis
    assert found.generation == first.generation


async def test_without_an_orderly_end_nobody_vouches(own_redis: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    first, _ = await run_of(own_redis, path)
    again(own_redis)
    await run_of(own_redis, path, in_order=False)
    again(own_redis)
    found, _ = await run_of(own_redis, path)
    assert found.generation == first.generation + 1


async def test_an_edge_that_is_there_still_is_not_vouched_for(own_redis: RedisServer, tmp_path: Path) -> None:
    """It may write what persistence does not see any more, and is not disturbed."""
    path = tmp_path / "store.sqlite3"
    edge = RedisPipeline(own_redis.url)
    async with persistence(own_redis.url, path) as one:
        first = one.gate.incarnation
        assert first is not None
        await look(edge)
        looking = asyncio.create_task(look_always(edge))
        await one.end()
        await one.maintenance.leave()
        looking.cancel()
    (said,) = await edge.execute([("GET", keys.incarnation())], timeout_s=2.0)
    assert incarnation.parse_incarnation(said) == first
    await edge.aclose()
    again(own_redis)
    found, _ = await run_of(own_redis, path)
    assert found.generation == first.generation + 1


async def test_an_edge_that_died_a_moment_ago_is_not_waited_for_in_vain(own_redis: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    edge = RedisPipeline(own_redis.url)
    async with persistence(own_redis.url, path) as one:
        first = one.gate.incarnation
        assert first is not None
        await look(edge)
        await edge.aclose()
        await one.end()
        await one.maintenance.leave()
    again(own_redis)
    found, took_s = await run_of(own_redis, path)
    assert (found.generation, took_s < WAITS_S) == (first.generation, True)


async def test_an_edge_that_starts_behind_the_end_is_not_let_in(own_redis: RedisServer, tmp_path: Path) -> None:
    first, _ = await run_of(own_redis, tmp_path / "store.sqlite3")
    edge = RedisPipeline(own_redis.url)
    look = incarnation.check_result(
        (await edge.run([incarnation.check_call("edge", Known(), "", "")], timeout_s=2.0))[0]
    )
    assert look.incarnation is not None
    assert (look.incarnation.run_id != look.run_id, look.incarnation.generation) == (True, first.generation)
    await edge.aclose()
