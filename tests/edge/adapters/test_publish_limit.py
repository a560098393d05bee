"""The limit of publications per user over edges that share a real Redis."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.edge.domain.limits.publishes import PublishLimit, slice_of
from services.edge.domain.limits.refusals import PUBLISHES, LimitRefusals
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Durability
from services.shared.redis.pipeline import RedisPipeline
from tests.support.edge import OPEN, SIGNED_IN, Client, Cluster, connected, replace_namespace
from tests.support.limits import START_US, US, TimedRates
from tests.support.live_edge import LiveEdge
from tests.support.redis import RedisServer

SEEDS = range(8)


class Load:
    """Edges with one clock, and when a user was allowed to publish."""

    def __init__(self, redis: RedisPipeline, rate: float, edges: int) -> None:
        self.now_us = START_US
        self.rates = TimedRates(redis, lambda: self.now_us)
        self.refusals = LimitRefusals()
        self.asking: set[asyncio.Task[None]] = set()
        self.limits = [
            PublishLimit(self.rates, rate=rate, now=lambda: self.now_us / US, spawn=self.spawn, refusals=self.refusals)
            for _ in range(edges)
        ]
        self.admitted: list[float] = []  # seconds since the start
        self.hints: list[float] = []

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.asking.add(task)
        task.add_done_callback(self.asking.discard)
        return task

    async def publish(self, edge: int, user: str = "u") -> None:
        limit = self.limits[edge]
        await limit.refill(user)
        try:
            limit.take(user)
        except ThalamusError as error:
            assert error.code is ErrorCode.TOO_MANY_REQUESTS  # noqa: PT017
            self.hints.append(error.retry_after_s)
        else:
            self.admitted.append((self.now_us - START_US) / US)

    async def answered(self) -> None:
        """Let Redis answer what is asked."""
        while self.asking:
            await asyncio.wait(list(self.asking))


def most_over(admitted: list[float], rate: float) -> float:
    """The most that any span of time had beyond `rate` for each second of it."""
    lowest, most = float("inf"), 0.0
    for number, at in enumerate(admitted):
        lowest = min(lowest, number - rate * at)
        most = max(most, number + 1 - rate * at - lowest)
    return most


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_span_of_time_has_more_than_the_limit_and_a_slice_of_each_edge(
    redis_pipeline: RedisPipeline, seed: int
) -> None:
    rng = random.Random(seed)
    rate, edges = rng.choice([3, 20, 100, 400]), rng.choice([1, 2, 3])
    load = Load(redis_pipeline, rate, edges)
    weights = [rng.random() for _ in range(edges)]
    for _ in range(40):  # spells of traffic, some far above the limit, some with nothing
        offered = rate * rng.choice([0, 0.2, 0.9, 1.2, 3])
        for _ in range(int(offered * 0.2) or 1):
            load.now_us += int(US / offered) if offered else US // 5
            await load.publish(rng.choices(range(edges), weights)[0])
            if rng.random() < 0.7:
                await load.answered()
    await load.answered()
    slices = edges * load.limits[0].slice
    case = (seed, rate, edges, len(load.admitted))
    assert most_over(load.admitted, rate) <= rate + slices + 0.01, case
    assert all(0 < hint <= 1 + 1 / rate for hint in load.hints), case
    assert load.refusals.by_limit[PUBLISHES] == len(load.hints)


@pytest.mark.parametrize("overload", [1.0, 1.5, 10.0])
@pytest.mark.parametrize("rate", [5, 50, 500])
async def test_with_all_load_on_one_edge_a_user_gets_the_whole_limit(
    redis_pipeline: RedisPipeline, rate: int, overload: float
) -> None:
    load = Load(redis_pipeline, rate, 2)
    await load.publish(1)  # a slice lies on the other edge, and stays there
    seconds = max(2, 20 // rate)
    offered = int(rate * overload)
    for _ in range(seconds * offered):
        load.now_us += US // offered
        await load.publish(0)
        await load.answered()
    gained = [at for at in load.admitted if at > 1]  # the full bucket of the beginning is spent
    assert len(gained) >= 0.9 * rate * (seconds - 1)
    most_asked = 2 * len(load.admitted) / max(1, load.limits[0].slice // 2) + 50 * seconds
    assert load.rates.asked <= most_asked, "one question for half a slice or more"


async def test_a_user_below_the_limit_is_never_refused_and_waits_only_at_first(redis_pipeline: RedisPipeline) -> None:
    load = Load(redis_pipeline, 100, 2)
    waited = 0
    for number in range(400):
        load.now_us += US // 80
        edge = number % 2
        waited += not load.limits[edge].is_ready("u")
        await load.publish(edge)
        await load.answered()
    assert (load.hints, waited) == ([], 2)


def test_a_slice_is_a_tenth_of_a_second_and_more_of_a_small_limit() -> None:
    assert [slice_of(rate) for rate in (0.1, 1, 2, 4, 10, 50, 100, 1_000)] == [1, 1, 1, 2, 5, 5, 10, 100]


async def test_users_have_buckets_of_their_own(redis_pipeline: RedisPipeline) -> None:
    load = Load(redis_pipeline, 1, 1)
    for user in ("ua", "ub"):
        await load.publish(0, user)
        await load.answered()
        await load.publish(0, user)
    assert (len(load.admitted), len(load.hints)) == (2, 2)


# With sessions, in real time.

RATE = 60
OPTIONS: dict[str, Any] = {"publishes_per_user_per_s": RATE, "commands_per_s": 0.0}


@pytest.fixture
def tokens() -> Cluster:
    return Cluster(default=replace_namespace(OPEN, publish=SIGNED_IN, durability=Durability.STORED))


@pytest.fixture
async def edges(redis_url: str, tokens: Cluster) -> AsyncIterator[list[LiveEdge]]:
    async with AsyncExitStack() as exits:
        yield [await exits.enter_async_context(LiveEdge(tokens, redis_url, **OPTIONS)) for _ in range(2)]


def outcomes(client: Client) -> tuple[int, list[int]]:
    """Publications that were accepted, and the hints of the others, in ms."""
    accepted = sum("publish" in line for line in client.lines)
    errors = [line["error"] for line in client.lines if "error" in line]
    assert all(error["code"] == 111 for error in errors)
    return accepted, [error["retry_after_ms"] for error in errors]


async def hammer(client: Client, until: float) -> None:
    while time.monotonic() < until:
        for _ in range(5):
            await client.post(publish={"channel": "room", "data": 1})
        await asyncio.sleep(0.01)


async def test_two_edges_let_a_user_publish_as_one_would(tokens: Cluster, edges: list[LiveEdge]) -> None:
    clients = [await connected(tokens, edge.node, "ann") for edge in edges]
    started = time.monotonic()
    await asyncio.gather(*(hammer(client, started + 1.5) for client in clients))
    await asyncio.sleep(0.1)
    took_s = time.monotonic() - started
    found = [outcomes(client) for client in clients]
    accepted = sum(number for number, _ in found)
    slices = 2 * slice_of(RATE)
    assert 0.9 * RATE * 1.5 <= accepted <= RATE + RATE * took_s + slices
    assert all(0 < hint <= 1_000 for _, hints in found for hint in hints)
    assert any(hints for _, hints in found)
    other = await connected(tokens, edges[0].node, "bob")
    await other.post(publish={"channel": "room", "data": 1})
    async with asyncio.timeout(30):
        while outcomes(other) != (1, []):
            await asyncio.sleep(0.01)


async def test_without_redis_each_edge_keeps_the_limit_alone(own_redis: RedisServer, tokens: Cluster) -> None:
    async with LiveEdge(tokens, own_redis.url, **OPTIONS) as one, LiveEdge(tokens, own_redis.url, **OPTIONS) as two:
        clients = [await connected(tokens, edge.node, "ann") for edge in (one, two)]
        own_redis.pause()
        try:
            started = time.monotonic()
            await asyncio.gather(*(hammer(client, started + 1.5) for client in clients))
            await asyncio.sleep(0.1)
            took_s = time.monotonic() - started
            for client in clients:
                accepted, hints = outcomes(client)  # 0.5 s go by until Redis is given up
                assert 0.9 * RATE * 0.9 <= accepted <= RATE + RATE * took_s
                assert hints
        finally:
            own_redis.resume()
        async with asyncio.timeout(30):
            while any(edge.broker.limits_are_local for edge in (one, two)):
                await asyncio.sleep(0.02)
        before = sum(outcomes(client)[0] for client in clients)
        started = time.monotonic()
        await asyncio.gather(*(hammer(client, started + 1.0) for client in clients))
        await asyncio.sleep(0.1)
        took_s = time.monotonic() - started
        again = sum(outcomes(client)[0] for client in clients) - before
        assert 0.9 * RATE <= again <= RATE + RATE * took_s + 2 * slice_of(RATE)


async def test_without_the_setting_redis_is_not_asked(redis_url: str, tokens: Cluster) -> None:
    async with LiveEdge(tokens, redis_url) as edge:
        assert edge.node.publish_limit is None
