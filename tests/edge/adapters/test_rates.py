"""Buckets in a real Redis that two edges share.

Beside a model, in real time, and without Redis.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from fractions import Fraction

import pytest
import redis.asyncio
from prometheus_client import REGISTRY

from services.edge.adapters.redis.limit_calls import PROBE_S
from services.edge.domain.limits.api_calls import ApiCallLimit
from services.edge.domain.limits.refusals import API_CALLS
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.buckets import Bucket
from tests.support.lateness import Lateness
from tests.support.limits import START_US, US, LimitEdge, TimedRates
from tests.support.redis import RedisServer

SEEDS = range(12)


def limit_of(edge: LimitEdge, rate: float, burst: int) -> ApiCallLimit:
    return ApiCallLimit(edge.rates, rate=rate, burst=burst, now=time.monotonic, refusals=edge.refusals)


@pytest.fixture
async def edges(redis_url: str) -> AsyncIterator[list[LimitEdge]]:
    made = [LimitEdge(redis_url), LimitEdge(redis_url)]
    yield made
    for edge in made:
        await edge.close()


@pytest.fixture
async def on_own_redis(own_redis: RedisServer) -> AsyncIterator[list[LimitEdge]]:
    made = [LimitEdge(own_redis.url), LimitEdge(own_redis.url)]
    yield made
    for edge in made:
        await edge.close()


async def wait_s(limit: ApiCallLimit, key: str) -> float:
    """Seconds after which a call is allowed; 0: now."""
    try:
        await limit.take(key)
    except ThalamusError as error:
        return error.retry_after_s if error.code is ErrorCode.TOO_MANY_REQUESTS else -1.0
    return 0.0


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_script_gives_what_a_bucket_has(redis_pipeline: RedisPipeline, seed: int) -> None:
    rng = random.Random(seed)
    rate, burst = rng.choice([1, 3, 7, 250, 10_000]), rng.choice([1, 4, 30])
    now_us = START_US
    rates = TimedRates(redis_pipeline, lambda: now_us)
    model = Bucket(Fraction(rate), burst, Fraction(now_us, US))
    for step in range(300):
        now_us += rng.choice([0, 0, 1, US // rate // 3, US // rate, 3 * US // rate])
        least = rng.randint(1, burst)
        most = rng.randint(least, burst)
        taken = await rates.take("calls", "key", rate=rate, burst=burst, most=most, least=least)
        there = int(model.left(Fraction(now_us, US)) + Fraction(1, 1_000))
        case = (seed, step, rate, burst, most, least, float(model.tokens))
        assert taken.tokens == (min(most, there) if there >= least else 0), case
        if taken.tokens:
            model.tokens -= taken.tokens
        else:
            assert taken.wait_s == pytest.approx(float((least - model.tokens) / rate), abs=2e-5), case


async def test_a_clock_that_goes_back_lets_nobody_wait_for_longer_than_a_bucket_takes(
    redis_pipeline: RedisPipeline,
) -> None:
    now_us = START_US
    rates = TimedRates(redis_pipeline, lambda: now_us)

    async def take() -> tuple[int, float]:
        return await rates.take("calls", "key", rate=2, burst=4, most=4, least=4)

    assert await take() == (4, 0)
    now_us = START_US - 3_600 * US
    assert await take() == (0, 2)
    now_us += 2 * US
    assert await take() == (4, 0)


async def test_two_edges_together_admit_what_one_may(edges: list[LimitEdge], redis_conn: redis.asyncio.Redis) -> None:
    rate, burst = 200.0, 50
    limits = [limit_of(edge, rate, burst) for edge in edges]
    admitted = refused = 0
    started = time.monotonic()
    while time.monotonic() - started < 1.0:
        waits = await asyncio.gather(*(wait_s(limit, "key") for limit in limits for _ in range(10)))
        assert all(0 <= wait <= burst / rate for wait in waits)
        admitted += sum(1 for wait in waits if not wait)
        refused += sum(1 for wait in waits if wait)
    took_s = time.monotonic() - started
    assert burst + 0.8 * rate <= admitted <= burst + rate * took_s + 1
    assert refused == sum(edge.refusals.by_limit[API_CALLS] for edge in edges) > 0
    await limits[0].take("another key")
    for key in await redis_conn.keys("*:limit:*"):
        assert 0 < await redis_conn.pttl(key) <= burst / rate * 1_000 + 1_001


async def test_calls_that_are_made_together_are_allowed_together_or_not_at_all(edges: list[LimitEdge]) -> None:
    limit = limit_of(edges[0], 0.001, 10)
    await limit.take("key", 7)
    with pytest.raises(ThalamusError) as refused:
        await limit.take("key", 4)
    assert refused.value.retry_after_s == pytest.approx(1_000, rel=0.01)
    await limit.take("key", 3)
    with pytest.raises(ThalamusError) as impossible:
        await limit.take("key", 11)
    assert impossible.value.code is ErrorCode.LIMIT_EXCEEDED


async def test_without_redis_each_edge_keeps_the_limit_and_nobody_waits(
    on_own_redis: list[LimitEdge], own_redis: RedisServer
) -> None:
    limits = [limit_of(edge, 0.001, 10) for edge in on_own_redis]

    async def admitted(limit: ApiCallLimit, key: str, calls: int) -> int:
        return (await asyncio.gather(*(wait_s(limit, key) for _ in range(calls)))).count(0.0)

    assert await admitted(limits[0], "a", 15) == 10
    own_redis.pause()
    try:
        async with Lateness() as late:
            assert [await admitted(limit, "b", 30) for limit in limits] == [10, 10]
        assert late.took_s < 2 * 0.5 + 0.5  # each edge waits for 0.5 s once
        async with Lateness() as late:
            assert [await admitted(limit, "c", 30) for limit in limits] == [10, 10]
        assert late.took_s < 0.4
        assert all(edge.calls.is_away for edge in on_own_redis)
    finally:
        own_redis.resume()
    async with asyncio.timeout(30):
        while any(edge.calls.is_away for edge in on_own_redis):
            await asyncio.sleep(0.02)
    assert await admitted(limits[1], "a", 5) == 0  # what was counted before is counted still
    assert await admitted(limits[0], "d", 6) + await admitted(limits[1], "d", 30) == 10


async def test_a_redis_that_refuses_the_script_leaves_the_limit_to_the_edge(
    on_own_redis: list[LimitEdge], own_redis: RedisServer
) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.acl_setuser("default", enabled=True, commands=["-evalsha"])
    with pytest.raises(Unavailable):
        await on_own_redis[0].rates.take("calls", "key", rate=1, burst=1, most=1, least=1)
    limit = limit_of(on_own_redis[0], 0.001, 1)
    await limit.take("key")
    with pytest.raises(ThalamusError) as refused:
        await limit.take("key")
    assert refused.value.code is ErrorCode.TOO_MANY_REQUESTS


@pytest.mark.parametrize("why", ["memory", "rights"])
async def test_a_redis_that_refuses_is_asked_seldom_and_the_gauge_says_so(
    why: str, on_own_redis: list[LimitEdge], own_redis: RedisServer
) -> None:
    edge = on_own_redis[0]
    limit = limit_of(edge, 0.001, 1_000_000)
    with redis.Redis(port=own_redis.port) as client:
        if why == "memory":
            client.config_set("maxmemory", "1")
        else:
            client.acl_setuser("default", enabled=True, commands=["-set"])
        client.config_resetstat()
        started = time.monotonic()
        while (took_s := time.monotonic() - started) < 1.0:
            await limit.take("key")
            assert local() == 1.0  # also while it is asked again
            await asyncio.sleep(0.001)
        asked = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert 2 <= asked <= 3 + took_s / PROBE_S
        if why == "memory":
            client.config_set("maxmemory", "0")
        else:
            client.acl_setuser("default", enabled=True, commands=["+set"])
        async with asyncio.timeout(30):
            while local():
                await limit.take("key")
                await asyncio.sleep(0.02)
        assert not edge.calls.is_away
        key = client.keys("*:limit:*")
        assert len(key) == 1


async def test_a_bucket_that_is_something_else_concerns_only_its_name(edges: list[LimitEdge]) -> None:
    limit = limit_of(edges[0], 1.0, 5)
    await limit.take("key")
    await edges[0].pipeline.execute([("DEL", keys.limit(API_CALLS, "key"))], timeout_s=1)
    await edges[0].pipeline.execute([("HSET", keys.limit(API_CALLS, "key"), "a", "b")], timeout_s=1)
    for _ in range(2):
        await limit.take("key")
        assert (edges[0].calls.is_away, local()) == (False, 0.0)


def local() -> float | None:
    return REGISTRY.get_sample_value("thalamus_edge_limits_local")
