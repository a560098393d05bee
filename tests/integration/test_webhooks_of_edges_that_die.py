"""Edges and the dispatcher are killed, the backend fails; the history is true.

Every connection that was told as opened is told as closed once, within the lease and 15 s. What the backend keeps,
sorted by number and without repeats, is what the streams hold, the dead letters that were replayed included.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.webhooks.letters import Letters
from services.shared.feed.events import decode
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.full import sized
from tests.support.stack import Stack
from tests.support.waiting import until
from tests.support.webhook_receiver import Manner, Request, WebhookReceiver, at_random
from tests.support.webhooks import SECRET, webhooks_file
from tests.support.wire_client import WireClient

KILLS = sized(3, 20)
LEASE_S = sized(4, 12)
CLOSED_WITHIN_S = LEASE_S + 15.0
USERS = 8
ENVIRONMENT = {"EDGE_CONNECTION_EVENTS": "true", "PRESENCE_LEASE_TTL_S": str(LEASE_S)}
TRIES = 2
Choose = Callable[[Request], Manner]
Told = tuple[int, str, str]  # number, type, client


async def told(client: redis.asyncio.Redis) -> dict[str, list[Told]]:
    """What the streams hold of connections: by user, in order."""
    found: dict[str, list[Told]] = defaultdict(list)
    for shard in range(keys.FEED_SHARDS):
        entries: Any = await client.xrange(keys.lifecycle(shard))
        for entry_id, fields in entries:
            event = decode(f"events{shard}", entry_id.decode(), fields)
            assert event is not None
            if not event.channel:
                found[event.user].append((event.number, event.type.value, event.client))
    return {user: sorted(events) for user, events in found.items()}


def received(receiver: WebhookReceiver) -> dict[str, list[Told]]:
    """The same, of what the receiver kept."""
    return {
        user: [(event["number"], event["type"], event["client"]) for event in events if "channel" not in event]
        for user, events in receiver.history().items()
    }


def one_dies(receiver: WebhookReceiver, others: Choose) -> Choose:
    """Return a choice: the gap is taken, the first letter with a connection dies."""
    doomed: list[str] = []

    def choose(request: Request) -> Manner:
        if request.events[0]["type"] == "gap":
            return Manner.TAKE
        if not doomed:
            doomed.append(request.id)
        tries = sum(one.id == request.id for one in receiver.requests)
        return Manner.FAIL if request.id in doomed and tries < TRIES else others(request)

    return choose


class Clients:
    """Clients that come, and leave or are cut off."""

    def __init__(self, stack: Stack, rng: random.Random) -> None:
        self._stack, self._rng = stack, rng
        self._open: dict[str, list[WireClient]] = {"edge-1": [], "edge-2": []}
        self.cut_at: dict[str, float] = {}  # client → Unix seconds when its edge was killed

    async def come(self, edge: str) -> None:
        client = WireClient(self._stack.ws_urls[int(edge[-1]) - 1])
        await client.__aenter__()
        await client.connect(self._stack.token(f"u{self._rng.randrange(USERS)}"))
        self._open[edge].append(client)

    async def leave(self, edge: str) -> None:
        if self._open[edge]:
            await self._open[edge].pop(self._rng.randrange(len(self._open[edge]))).__aexit__(None, None, None)

    async def kill(self, edge: str) -> None:
        cut, self._open[edge] = self._open[edge], []
        await asyncio.to_thread(self._stack.kill9, edge)
        self.cut_at |= {client.client_id: time.time() for client in cut}
        await self._end(cut)

    async def all_leave(self) -> None:
        for clients in self._open.values():
            await self._end(clients)

    async def _end(self, clients: list[WireClient]) -> None:
        for client in clients:
            with contextlib.suppress(Exception):
                await client.__aexit__(None, None, None)


@pytest.mark.slow
async def test_every_open_is_closed_once_and_the_history_is_true(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with WebhookReceiver(SECRET) as receiver:
        receiver.choose = one_dies(receiver, at_random(rng, {Manner.FAIL: 0.1, Manner.HANG: 0.02}))
        file = webhooks_file(tmp_path, receiver.url, timeout_s=1.0, tries=TRIES)
        stack = Stack(edges=2, environment=ENVIRONMENT, webhooks_file=file)
        await asyncio.to_thread(stack.__enter__)
        try:
            await _happen(stack, receiver, rng)
        finally:
            await asyncio.to_thread(stack.__exit__, None, None, None)


async def _happen(stack: Stack, receiver: WebhookReceiver, rng: random.Random) -> None:
    """Kill, wait, and compare what was told with what was received."""
    await until(lambda: receiver.events, 30)
    clients = Clients(stack, rng)
    for _ in range(KILLS):
        edge = rng.choice(("edge-1", "edge-2"))
        for _ in range(12):
            await clients.come(rng.choice(("edge-1", "edge-2")))
            if rng.random() < 0.3:
                await clients.leave(rng.choice(("edge-1", "edge-2")))
            await asyncio.sleep(rng.uniform(0, 0.1))
        await asyncio.sleep(rng.uniform(0, 1))
        await clients.kill(edge)
        if rng.random() < 0.5:
            await asyncio.to_thread(stack.kill9, "webhooks")
        await asyncio.to_thread(stack.start, edge)
        await asyncio.to_thread(stack.start, "webhooks")
    await clients.all_leave()
    last_cut = max(clients.cut_at.values(), default=time.time())

    async with redis.asyncio.Redis.from_url(stack.redis_url) as client:
        while left := set[str]().union(*map(_open, (true := await told(client)).values())):
            assert time.time() < last_cut + CLOSED_WITHIN_S, left
            await asyncio.sleep(0.1)
        pipeline = RedisPipeline(stack.redis_url)
        letters = Letters(pipeline, "crm")
        dead = 0
        async with asyncio.timeout(60):
            while received(receiver) != true or (await letters.claim(0, 1)).waiting:
                for letter, _ in await letters.dead_ones():
                    dead += await letters.revive(letter)
                await asyncio.sleep(0.1)
        await pipeline.aclose()
        assert await told(client) == true, "something was closed twice"

    for user, events in true.items():
        opened, closed = (Counter(one for _, kind, one in events if kind == name) for name in ("connect", "disconnect"))
        assert opened == closed, user
        assert set(opened.values()) <= {1}, user
    _check_times(receiver, clients.cut_at)
    assert receiver.wrong == []
    assert dead, "no letter died"
    print(
        f"{len(receiver.events)} events, {len(receiver.requests)} requests, {receiver.repeats} repeats, {dead} replayed"
    )


def _open(events: list[Told]) -> set[str]:
    """The clients that were opened and not closed."""
    return {one for _, kind, one in events if kind == "connect"} - {
        one for _, kind, one in events if kind == "disconnect"
    }


def _check_times(receiver: WebhookReceiver, cut_at: dict[str, float]) -> None:
    """What an edge that died left open was told as closed in time."""
    closed: dict[str, dict[str, Any]] = {
        event["client"]: event for event in receiver.events.values() if event["type"] == "disconnect"
    }
    late = {
        client: closed[client]["time"] / 1000 - moment
        for client, moment in cut_at.items()
        if client in closed and closed[client]["time"] / 1000 - moment > CLOSED_WITHIN_S
    }
    assert late == {}
    assert cut_at.keys() & closed.keys(), "no client was cut off: the test shows nothing"
