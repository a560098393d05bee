"""The session table in a real Redis: batches, bounds, refusals.

tests/properties/test_session_table.py compares it with a model.
"""

from __future__ import annotations

import asyncio
import time

import pytest
import redis.asyncio

from services.edge.adapters.redis import session_table
from services.edge.adapters.redis.edge_lease import EdgeLeases
from services.edge.adapters.redis.session_table import KEPT_S, RedisSessionTable
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.faults import free_port
from tests.support.redis import RedisServer


def of_edge(pipeline: RedisPipeline, edge: str) -> RedisSessionTable:
    return RedisSessionTable(pipeline, EdgeLeases(pipeline, edge), time.time)


async def until_written(table: RedisSessionTable) -> None:
    await table.close(timeout_s=10.0)


async def test_changes_of_one_moment_are_one_batch_and_of_one_key_the_last_counts(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    table = of_edge(redis_pipeline, "e1")
    table.opened("before")
    await until_written(table)  # Redis knows the script
    calls = await script_calls(redis_conn)
    for number in range(session_table._BATCH + 44):  # noqa: SLF001
        table.opened(f"k{number}")
        table.ended(f"k{number}", 1_000.5)
    await until_written(table)
    assert await script_calls(redis_conn) - calls == session_table._BATCH + 44  # noqa: SLF001
    assert await redis_conn.get(keys.session("k7")) == b"e1 1000500"


async def script_calls(conn: redis.asyncio.Redis) -> int:
    stats = await conn.info("commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


async def test_each_edge_has_a_line_and_the_entry_ends(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    one, two = of_edge(redis_pipeline, "e1"), of_edge(redis_pipeline, "e12")
    one.opened("k")
    await until_written(one)
    two.ended("k", 2.0)
    await until_written(two)
    assert await redis_conn.get(keys.session("k")) == b"e1 0\ne12 2000"
    assert (KEPT_S - 5) * 1000 < await redis_conn.pttl(keys.session("k")) <= KEPT_S * 1000
    one.removed("k")
    await until_written(one)
    assert await redis_conn.get(keys.session("k")) == b"e12 2000"
    two.removed("k")
    await until_written(two)
    assert await redis_conn.exists(keys.session("k")) == 0


async def test_what_ended_before_a_backend_closed_one_counts_no_more(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    one, two = of_edge(redis_pipeline, "e1"), of_edge(redis_pipeline, "e2")
    one.ended("k", 5.0)
    await until_written(one)
    two.opened("k")
    two.closed("k", 5.5)
    two.removed("k")
    assert await two.last_seen("k") is None  # before Redis has it
    assert await one.last_seen("k") == 5.0
    await until_written(two)
    assert await redis_conn.get(keys.session("k")) == b"e1 5000\n- x5500"
    one.closed("k", 4.0)  # told late: the later one counts, and the line of the edge stays
    await until_written(one)
    assert await redis_conn.get(keys.session("k")) == b"e1 5000\n- x5500"
    for table in (one, two):
        assert await table.last_seen("k") is None
    one.ended("k", 5.6)
    await until_written(one)
    assert await two.last_seen("k") == 5.6


async def test_of_what_is_open_only_edges_that_live_count_once_a_backend_closed_one(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    one, two, now = of_edge(redis_pipeline, "e1"), of_edge(redis_pipeline, "e2"), time.time()
    one.opened("k")
    await until_written(one)
    two.closed("k", now - 20)
    await until_written(two)
    for renewed_at, until, seen in ((now - 21, now + 9, True), (now - 19, now - 4, True), (now - 21, now - 6, False)):
        await redis_conn.set(keys.lease("e1"), f"{int(renewed_at * 1000)} {int(until * 1000)}")
        assert await two.last_seen("k") == (int(renewed_at * 1000) / 1000 if seen else None)


async def test_an_earlier_version_leaves_out_when_a_backend_closed_one() -> None:
    """It takes for a line of an edge what has a number as its second word."""
    words = b"- x5500".split()
    assert not words[1].isdigit()
    assert session_table._parsed(b"- 5500\n- x\n- x1y\n") == ({"-": b"5500"}, 0.0)  # noqa: SLF001


async def test_an_entry_keeps_the_edges_that_wrote_last(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis
) -> None:
    for number in range(40):
        table = of_edge(redis_pipeline, f"e{number}")
        table.ended("k", number)
        await until_written(table)
        if not number:
            table.closed("k", 0.0005)
            await until_written(table)
    *lines, closed = (await redis_conn.get(keys.session("k")) or b"").splitlines()
    assert closed == b"- x1"  # it is none of them
    assert lines == [b"e%d %d" % (number, number * 1000) for number in range(8, 40)]


async def test_what_nobody_can_read_is_left_out(redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis) -> None:
    table = of_edge(redis_pipeline, "e1")
    await redis_conn.set(keys.session("k"), b"x\n\xff 5000\ne2 soon\ne3 4000 and what a later version adds\n")
    assert await table.last_seen("k") == 4.0
    await redis_conn.set(keys.session("k"), b"nothing")
    assert await table.last_seen("k") is None
    await redis_conn.hset(keys.session("other"), "a", "b")
    with pytest.raises(Unavailable):
        await table.last_seen("other")


async def test_an_edge_knows_what_it_has_not_written_yet(redis_pipeline: RedisPipeline) -> None:
    table = of_edge(redis_pipeline, "e1")
    table.ended("k", 9.0)
    assert await table.last_seen("k") == 9.0
    table.removed("k")
    assert await table.last_seen("k") is None
    await until_written(table)


async def test_what_redis_does_not_take_is_written_when_it_is_back(own_redis: RedisServer) -> None:
    pipeline = RedisPipeline(own_redis.url)
    table = of_edge(pipeline, "e1")
    own_redis.kill()
    for number in range(300):
        table.opened(f"k{number}")
    await asyncio.sleep(0.3)
    table.ended("k0", 5.0)
    own_redis.start()
    await until_written(table)
    async with redis.asyncio.Redis.from_url(own_redis.url) as conn:
        assert await conn.get(keys.session("k0")) == b"e1 5000"
        assert await conn.get(keys.session("k299")) == b"e1 0"
    await pipeline.aclose()


async def test_what_waits_for_redis_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_table, "_MOST_PENDING", 10)
    pipeline = RedisPipeline(f"redis://127.0.0.1:{free_port()}/0")
    table = of_edge(pipeline, "e1")
    for number in range(50):
        table.opened(f"k{number}")
    assert list(table._pending) == [f"k{number}" for number in range(40, 50)]  # noqa: SLF001
    await table.close(timeout_s=0.05)
    await pipeline.aclose()


async def test_a_user_of_redis_without_the_right_costs_nothing_but_resuming(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once; what was refused is not tried again."""
    async with redis.asyncio.Redis.from_url(own_redis.url) as conn:
        await conn.acl_setuser("poor", enabled=True, passwords=["+p"], keys=["*"], commands=["+ping", "+info"])
    pipeline = RedisPipeline(own_redis.url.replace("redis://", "redis://poor:p@"))
    table = of_edge(pipeline, "e1")
    for _ in range(2):
        table.opened("k")
        await until_written(table)
    assert not table._pending  # noqa: SLF001
    assert caplog.text.count("refuses entries of the session table") == 1
    with pytest.raises(Unavailable):
        await table.last_seen("k")
    await pipeline.aclose()


async def test_without_redis_a_lookup_fails_and_the_next_ones_at_once(own_redis: RedisServer) -> None:
    pipeline = RedisPipeline(own_redis.url)
    table, loop = of_edge(pipeline, "e1"), asyncio.get_running_loop()
    assert await table.last_seen("k") is None
    own_redis.pause()
    for most_s in (1.5, 0.1):
        started = loop.time()
        with pytest.raises(Unavailable):
            await table.last_seen("k")
        assert loop.time() - started < most_s
    own_redis.resume()
    await pipeline.aclose()
