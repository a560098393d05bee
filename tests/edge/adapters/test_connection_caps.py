"""Caps on connections over edges that share a real Redis."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis.asyncio

from services.edge.adapters.redis.counts import RedisCounts
from services.edge.adapters.redis.edge_lease import EdgeLeases
from services.edge.domain.limits import connections
from services.edge.domain.limits.connections import ConnectionCap
from services.edge.domain.limits.refusals import CONNECTIONS_PER_USER
from services.shared.hotlog import keys
from tests.support.edge import Client, Cluster
from tests.support.lateness import Lateness
from tests.support.limits import LimitEdge
from tests.support.live_edge import LiveEdge
from tests.support.redis import RedisServer
from tests.support.waiting import until

SEEDS = range(10)


class CapEdge(LimitEdge):
    """An edge with a cap for users, and its lease."""

    def __init__(self, url: str, number: int, cap: int) -> None:
        super().__init__(url)
        self.leases = EdgeLeases(self.pipeline, f"edge{number}")
        self.telling: set[asyncio.Task[None]] = set()
        self.cap = ConnectionCap(
            RedisCounts(self.calls, self.leases, time.time),
            limit=CONNECTIONS_PER_USER,
            cap=cap,
            now=time.monotonic,
            spawn=self.spawn,
            refusals=self.refusals,
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.telling.add(task)
        task.add_done_callback(self.telling.discard)
        return task

    async def told(self) -> None:
        """Let Redis hear of everything."""
        while self.telling:
            await asyncio.wait(list(self.telling))


class Caps:
    """Edges that share a Redis and a cap."""

    def __init__(self, exits: AsyncExitStack) -> None:
        self._exits = exits

    async def __call__(self, url: str, edges: int, cap: int) -> list[CapEdge]:
        made = [CapEdge(url, number, cap) for number in range(edges)]
        for edge in made:
            self._exits.push_async_callback(edge.close)
            await edge.leases.renew()
        return made


@pytest.fixture
async def caps() -> AsyncIterator[Caps]:
    async with AsyncExitStack() as exits:
        yield Caps(exits)


def held(edges: list[CapEdge], user: str) -> int:
    return sum(edge.cap.held(user) for edge in edges)


async def race(edges: list[CapEdge], user: str, each: int) -> int:
    """How many are admitted of those that come to every edge at the same moment."""
    return sum(await asyncio.gather(*(edge.cap.enter(user) for edge in edges for _ in range(each))))


@pytest.mark.parametrize("seed", SEEDS)
async def test_there_are_never_more_than_the_cap_and_nobody_is_refused_below_it(
    caps: Caps, redis_url: str, redis_conn: redis.asyncio.Redis, seed: int
) -> None:
    rng = random.Random(seed)
    cap = rng.choice([1, 3, 10])
    edges = await caps(redis_url, rng.choice([1, 2, 3]), cap)
    users = ["ann", "bob", "a user } with: anything"]
    for step in range(60):
        case = (seed, step, cap, len(edges))
        user = rng.choice(users)
        before = held(edges, user)
        if rng.random() < 0.5:  # several come at once, to any edges
            coming = [rng.choice(edges) for _ in range(rng.randint(1, 6))]
            admitted = await asyncio.gather(*(edge.cap.enter(user) for edge in coming))
            assert sum(admitted) == min(len(coming), cap - before), case
        else:
            for edge in rng.sample(edges, len(edges)):
                for _ in range(rng.randint(0, edge.cap.held(user))):
                    edge.cap.leave(user)
            if rng.random() < 0.5:  # some come while others are told to have gone
                edge = rng.choice(edges)
                await edge.cap.enter(user)
            for edge in edges:
                await edge.told()
        assert held(edges, user) <= cap, case
    for edge in edges:
        for user in users:
            for _ in range(edge.cap.held(user)):
                edge.cap.leave(user)
        await edge.told()
    assert await redis_conn.keys("*:limit:*") == []
    assert [len(edge.cap) for edge in edges] == [0] * len(edges)


async def test_what_a_dead_edge_held_counts_until_its_lease_ends(
    caps: Caps, redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    one, two = await caps(redis_url, 2, 4)
    assert await race([one], "ann", 3) == 3
    assert await race([two], "ann", 3) == 1
    now_ms = time.time_ns() // 1_000_000
    await redis_conn.set(keys.lease("edge0"), f"{now_ms} {now_ms + 60_000}")  # its last renewal
    assert await race([two], "ann", 1) == 0
    await redis_conn.set(keys.lease("edge0"), f"{now_ms - 2} {now_ms - 1}")  # and now it is over
    assert await race([two], "ann", 5) == 3
    await redis_conn.delete(keys.lease("edge1"))
    await one.leases.renew()
    one.cap.tell_again()
    assert await race([one], "ann", 5) == 1, "of an edge without a lease nothing counts; its own 3 do"


async def test_an_edge_without_a_lease_counts_for_itself(caps: Caps, redis_url: str) -> None:
    one, two = await caps(redis_url, 2, 2)
    await two.leases.end()
    assert await race([one], "ann", 3) == 2
    assert await race([two], "ann", 3) == 2
    assert two.refusals.by_limit[CONNECTIONS_PER_USER] == 1


async def test_without_redis_each_edge_keeps_the_cap_and_afterwards_all_together(
    caps: Caps, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TICK_S", 0.05)
    edges = await caps(own_redis.url, 2, 5)
    running = [asyncio.create_task(edge.cap.run()) for edge in edges]
    assert await race(edges[:1], "ann", 2) == 2
    own_redis.pause()
    try:
        async with Lateness() as late:
            assert await race(edges, "ann", 8) == 3 + 5
            assert await race(edges, "bob", 8) == 10
        assert late.took_s < 1.5, "0.5 s until Redis is given up"
        for _ in range(3):
            edges[0].cap.leave("bob")
    finally:
        own_redis.resume()
    async with asyncio.timeout(30):
        while any(edge.calls.is_away or edge.cap.is_behind for edge in edges):
            await asyncio.sleep(0.02)
    for edge in edges:
        await edge.told()
    assert await race(edges, "ann", 1) == 0
    assert await race(edges, "bob", 2) == 0  # 2 and 5 are there: more than the cap
    for _ in range(4):
        edges[1].cap.leave("bob")
    await edges[1].told()
    assert await race(edges, "bob", 3) == 2
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_redis_that_lost_everything_is_told_again(
    caps: Caps, redis_url: str, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TICK_S", 0.05)
    edges = await caps(redis_url, 2, 3)
    running = asyncio.create_task(edges[0].cap.run())
    assert await race(edges[:1], "ann", 3) == 3
    await redis_conn.delete(keys.limit(CONNECTIONS_PER_USER, "ann"))
    edges[0].cap.tell_again()
    async with asyncio.timeout(30):
        while not await redis_conn.exists(keys.limit(CONNECTIONS_PER_USER, "ann")):
            await asyncio.sleep(0.02)
    assert await race(edges[1:], "ann", 1) == 0
    assert 590_000 < await redis_conn.pttl(keys.limit(CONNECTIONS_PER_USER, "ann")) <= 600_000
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# With sessions.


async def connecting(tokens: Cluster, edge: LiveEdge, user: str, peer: str) -> Client:
    """A client whose connect command is answered."""
    client = Client(tokens, edge.node)
    client.connection.peer = peer
    await client.post(connect={"token": tokens.token(user, ttl_s=None)} if user else {})
    async with asyncio.timeout(30):
        while not client.lines and client.closed is None:
            await asyncio.sleep(0.005)
    return client


async def test_a_user_and_an_address_have_one_cap_on_two_edges(redis_url: str) -> None:
    tokens = Cluster()
    options: dict[str, Any] = {"connections_per_user": 3, "connections_per_address": 5, "allow_anonymous": True}
    async with LiveEdge(tokens, redis_url, **options) as one, LiveEdge(tokens, redis_url, **options) as two:
        made = await asyncio.gather(
            *(connecting(tokens, edge, "ann", f"192.0.2.{number}") for number in range(4) for edge in (one, two))
        )
        admitted = [client for client in made if client.closed is None]
        assert len(admitted) == 3
        assert {client.closed for client in made if client.closed} == {(3504, "connection limit")}
        assert sum(len(edge.node.clients) for edge in (one, two)) == 3
        await admitted[0].hang_up()

        async def is_let_in() -> bool:
            return (await connecting(tokens, two, "ann", "192.0.2.9")).closed is None

        await until(is_let_in)
        assert (await connecting(tokens, one, "ann", "192.0.2.9")).closed == (3504, "connection limit")

        # An address: users and anonymous clients, of one IPv6 network.
        made = await asyncio.gather(
            *(
                connecting(tokens, edge, f"user{number}" if number % 2 else "", f"2001:db8::{number:x}")
                for number in range(4)
                for edge in (one, two)
            )
        )
        refused = [client for client in made if "error" in client.lines[0]]
        assert len(made) - len(refused) == 5
        for client in refused:
            error = client.lines[0]["error"]
            assert (error["code"], error["temporary"], error["retry_after_ms"]) == (111, True, 2_000)
        assert (await connecting(tokens, one, "eve", "2001:db8:0:1::1")).closed is None


async def test_a_client_that_goes_while_it_is_counted_leaves_nothing(
    redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    tokens = Cluster()
    async with LiveEdge(tokens, redis_url, connections_per_user=3) as edge:
        cap = edge.node.connection_caps.per_user
        assert cap is not None
        client = Client(tokens, edge.node)
        client.send('{"id":1,"connect":{"token":"' + tokens.token("ann", ttl_s=None) + '"}}')
        await client.hang_up()
        async with asyncio.timeout(30):
            while len(cap):
                await asyncio.sleep(0.01)
        assert await redis_conn.keys("*:limit:*") == []
        assert not edge.node.clients
