"""Who may resume, against a model.

Random connects and ends, edges that die and return, and clocks that are set.

The table, the leases and the script are the real ones, on a real Redis. Times are the test's: also those that leases
hold, which Redis writes otherwise.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
import redis.asyncio

from services.edge.adapters.redis.edge_lease import EdgeLeases
from services.edge.adapters.redis.session_table import KEPT_S, RedisSessionTable
from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.access.revocations import Revocation, Revocations, RevokedKind
from services.edge.domain.resume import Resume
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline

RESUME_S = 120.0
AHEAD_S = 5.0  # by which an edge's word may be ahead of the clock
STEPS = 300
START = 1_800_000_000.0
SESSIONS = ("s1", "s2", "")


class Time:
    """The clock of Redis, which all edges have."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Open:
    """A connection: its claims, its token, and the key under which its edge lists it."""

    claims: ConnectionClaims
    token: str
    key: str


@dataclass(eq=False)
class Edge:
    name: str
    leases: EdgeLeases
    table: RedisSessionTable
    resume: Resume
    is_alive: bool = True
    is_frozen: bool = False
    open: list[Open] = field(default_factory=list)


class Model:
    """What the rules say, from the history of all connections.

    For each key and edge: when one was last seen.
    """

    def __init__(self, time: Time) -> None:
        self.time = time
        self.renewed: dict[str, float] = {}  # edge → last renewal
        self.ended: dict[tuple[str, str], float] = {}  # (key, edge) → when its last connection there ended
        self.open: dict[tuple[str, str], int] = {}
        self.closed: dict[str, float] = {}  # key → when a backend last closed a connection

    def last_seen(self, key: str) -> float | None:
        closed, now = self.closed.get(key, 0.0), self.time()
        ends = [at for (of, _), at in self.ended.items() if of == key and at > closed]
        renewals = [self.renewed[edge] for (of, edge), count in self.open.items() if of == key and count]
        return max([*ends, *(at for at in renewals if at > closed or now < at + 15.0)], default=None)

    def may(self, claims: ConnectionClaims, key: str) -> bool:
        seen, now = self.last_seen(key), self.time()
        assert claims.token_expires_at is not None
        return seen is not None and now - RESUME_S <= seen <= now + AHEAD_S and claims.token_expires_at > now - RESUME_S


class World:
    def __init__(self, rng: random.Random, redis_url: str, conn: redis.asyncio.Redis) -> None:
        self.rng, self.url, self.conn = rng, redis_url, conn
        self.time = Time()
        self.model = Model(self.time)
        self.revocations = Revocations()
        self.revoked: set[str] = set()
        self.edges: list[Edge] = []
        self.pipelines: list[RedisPipeline] = []
        self.tokens: list[tuple[ConnectionClaims, str]] = []
        self.outcomes = {True: 0, False: 0}

    async def add_edge(self) -> None:
        pipeline = RedisPipeline(self.url)
        self.pipelines.append(pipeline)
        name = f"edge{len(self.edges) + 1}"
        leases = EdgeLeases(pipeline, name)
        table = RedisSessionTable(pipeline, leases, self.time)
        self.edges.append(Edge(name, leases, table, Resume(table, self.revocations, self.time, RESUME_S)))
        await self.renew(self.edges[-1])

    async def renew(self, edge: Edge) -> None:
        """As renew_lease.lua does, at the time of the test."""
        now = round(self.time() * 1000)
        await self.conn.set(keys.lease(edge.name), f"{now} {now + 15_000}")
        self.model.renewed[edge.name] = now / 1000

    def some(self) -> Edge | None:
        serving = [edge for edge in self.edges if edge.is_alive and not edge.is_frozen]
        return self.rng.choice(serving) if serving else None

    async def written(self) -> None:
        for edge in self.edges:
            await edge.table.close(timeout_s=5.0)

    def connect(self, edge: Edge, claims: ConnectionClaims, token: str) -> None:
        """A connection whose token expires soon, so that it is listed."""
        key = edge.resume.key(claims, token)
        edge.open.append(Open(claims, token, key))
        edge.resume.began(key)
        place = (key, edge.name)
        self.model.open[place] = self.model.open.get(place, 0) + 1
        self.model.ended.pop(place, None)

    def end(self, edge: Edge, one: Open, how: str) -> None:
        """It is lost, a backend closes it, or it has another token now."""
        edge.open.remove(one)
        if how == "closed":
            edge.resume.closed_by_backend(one.key)
            closed_at = math.ceil(self.time() * 1000) / 1000
            self.model.closed[one.key] = max(self.model.closed.get(one.key, 0.0), closed_at)
        may_resume = how == "lost"
        edge.resume.ended(one.key, may_resume=may_resume)
        place = (one.key, edge.name)
        self.model.open[place] -= 1
        if not self.model.open[place] and may_resume:
            self.model.ended[place] = int(self.time() * 1000) / 1000

    async def step(self) -> None:
        rng, edge = self.rng, self.some()
        what = rng.choice(
            (
                "connect",
                "connect",
                "end",
                "end",
                "away",
                "away",
                "resume",
                "resume",
                "resume",
                "die",
                "freeze",
                "set",
                "revoke",
            )
        )
        if what == "away":
            await self.pass_time(rng.choice((0.5, 5, 20, 60, 119, 121)))
        elif what == "set":
            self.time.now += rng.choice((-3, 2, -60, 90))
        elif what == "die" and edge is not None and len(self.edges) < 6:
            edge.is_alive = False
            await self.add_edge()  # another one in its place, with a new id
        elif what == "freeze":
            await self.freeze_or_thaw()
        elif edge is None:
            return
        elif what == "connect":
            self.connect(edge, *self.new_token())
        elif what == "end" and edge.open:
            self.end(edge, rng.choice(edge.open), rng.choice(("lost", "lost", "lost", "lost", "closed", "renewed")))
        elif what == "revoke" and self.tokens and rng.random() < 0.3:
            claims, _ = rng.choice(self.tokens)
            self.revoked.add(claims.token)
            self.revocations.add(Revocation(kind=RevokedKind.TOKEN, id=claims.token, at=START, until=START * 2))
        elif what == "resume" and self.tokens:
            await self.come(edge, *rng.choice(self.tokens[-8:]))

    def new_token(self) -> tuple[ConnectionClaims, str]:
        number, sid = len(self.tokens), self.rng.choice(SESSIONS)
        claims = ConnectionClaims(
            user="u",
            session=sid,
            token=f"j{number}",
            token_expires_at=self.time() + self.rng.choice((-100, -10, 0, 30, 140)),
        )
        self.tokens.append((claims, f"token {number}"))
        return self.tokens[-1]

    async def freeze_or_thaw(self) -> None:
        """A frozen edge renews nothing and serves nobody.

        When it goes on, its connections are still there.
        """
        edge = self.rng.choice(self.edges)
        if edge.is_alive:
            edge.is_frozen = not edge.is_frozen
            if not edge.is_frozen:
                await self.renew(edge)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass; living edges renew their leases every 5 s.

        The last time is up to 5 s ago.
        """
        before = self.time.now
        for edge in self.edges:
            if edge.is_alive and not edge.is_frozen:
                self.time.now = before + max(0.0, seconds - self.rng.uniform(0, 5))
                await self.renew(edge)
        self.time.now = before + seconds

    async def come(self, edge: Edge, claims: ConnectionClaims, token: str) -> None:
        await self.written()
        key = edge.resume.key(claims, token)
        expected = self.model.may(claims, key) and claims.token not in self.revoked
        resumed = await edge.resume.admit(claims, token)
        assert (resumed is not None) is expected, (claims, self.time() - START, self.model.last_seen(key))
        self.outcomes[expected] += 1
        if resumed is not None:
            assert resumed.expires_at == self.time() + RESUME_S
            self.connect(edge, claims, token)

    async def check_bounds(self) -> None:
        await self.written()
        async for key in self.conn.scan_iter("*:session"):
            assert 0 < await self.conn.ttl(key) <= KEPT_S
            assert len((await self.conn.get(key) or b"").splitlines()) <= len(self.edges) + 1

    async def close(self) -> None:
        await self.written()
        for pipeline in self.pipelines:
            await pipeline.aclose()


@pytest.mark.parametrize("seed", range(12))
async def test_who_may_resume_is_what_the_history_of_all_connections_says(
    seed: int, redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    print(f"seed {seed}")
    world = World(random.Random(seed), redis_url, redis_conn)
    try:
        for _ in range(2):
            await world.add_edge()
        for _ in range(STEPS):
            await world.step()
        await world.check_bounds()
        assert min(world.outcomes.values()) >= 3, "the schedule shows nothing"
        print(world.outcomes)
    finally:
        await world.close()
