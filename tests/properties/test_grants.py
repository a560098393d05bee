"""Stored grants on two edges beside a model: random changes, cuts, reconnects.

After each change both edges permit exactly what the model does: at once where they are connected, and within 5 s after
a cut. A subscription lasts exactly as long as the model permits it.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from services.auth.domain.grants import UserGrants
from services.edge.domain.access.grants import NEVER, Operation
from services.edge.domain.control import granter
from services.shared.namespaces import Namespace, Permission
from tests.support.edge import Client, Cluster
from tests.support.grants import MemoryGrants
from tests.support.live_edge import LiveEdge
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy

SEEDS = [int(os.environ["GRANTS_SEED"])] if "GRANTS_SEED" in os.environ else [1, 2, 3]
STEPS = 30
WITHIN_S = 5.0
GRANT = frozenset({Permission.GRANT})
PRIVATE = Namespace(name="private", presence=True, subscribe=GRANT, publish=GRANT, history=GRANT, presence_read=GRANT)
USERS = ("ann", "bob")
CHANNELS = ("private:a", "private:b")
PATTERNS = {"private:a": {"private:a"}, "private:b": {"private:b"}, "private:*": set(CHANNELS)}
OPERATIONS = (Operation.SUBSCRIBE, Operation.PUBLISH, Operation.HISTORY, Operation.PRESENCE)
REQUESTS: dict[Operation, dict[str, Any]] = {
    Operation.PUBLISH: {"publish": {"data": 1}},
    Operation.HISTORY: {"history": {"limit": 1}},
    Operation.PRESENCE: {"presence_stats": {}},
}


class Model:
    """What is granted: (user, pattern, operation) → until when."""

    def __init__(self) -> None:
        self.granted: dict[tuple[str, str, Operation], float] = {}

    def permits(self, user: str, channel: str, operation: Operation, now: float) -> bool:
        return any(
            until > now and channel in PATTERNS[pattern]
            for (who, pattern, what), until in self.granted.items()
            if (who, what) == (user, operation)
        )


class Side:
    """One edge, and a client of each user on it."""

    def __init__(self, edge: LiveEdge) -> None:
        self.edge = edge
        self.clients: dict[str, Client] = {}
        self.subscribed: dict[str, set[str]] = {user: set() for user in USERS}

    async def reconnect(self, user: str) -> None:
        if user in self.clients:
            await self.clients[user].hang_up()
        self.clients[user] = await self.edge.client(user)
        self.subscribed[user].clear()

    async def code(self, user: str, name: str, channel: str, **members: Any) -> int:
        client = self.clients[user]
        number = await client.post(**{name: {"channel": channel, **members}})
        async with asyncio.timeout(WITHIN_S):
            while True:
                for line in client.lines:
                    if line.get("id") == number:
                        return int(line.get("error", {}).get("code", 0))
                await asyncio.sleep(0.002)

    async def try_subscribe(self, user: str, channel: str) -> bool:
        if channel in self.clients[user].session.subscriptions:
            return True
        return await self.code(user, "subscribe", channel) == 0

    async def permitted(self) -> set[tuple[str, str, Operation]]:
        """Everything that the edge permits, by trying it."""
        found = set()
        for user in USERS:
            for channel in CHANNELS:
                if await self.try_subscribe(user, channel):
                    found.add((user, channel, Operation.SUBSCRIBE))
                for operation, request in REQUESTS.items():
                    ((name, members),) = request.items()
                    code = await self.code(user, name, channel, **members)
                    assert code in (0, 103), code
                    if not code:
                        found.add((user, channel, operation))
        return found

    def live(self) -> set[tuple[str, str]]:
        return {(user, channel) for user in USERS for channel in self.clients[user].session.subscriptions}


async def until_same(side: Side, model: Model, within_s: float, what: str) -> None:
    """Wait until the edge permits exactly what the model does."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        now = side.edge.node.clock.wall()
        expected = {
            (user, channel, operation)
            for user in USERS
            for channel in CHANNELS
            for operation in OPERATIONS
            if model.permits(user, channel, operation, now)
        }
        over = {pair for pair in side.live() if (*pair, Operation.SUBSCRIBE) not in expected}
        found = await side.permitted() if not over else None
        if found == expected:
            return
        assert asyncio.get_running_loop().time() < deadline, (what, over, found, expected)
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("seed", SEEDS)
async def test_both_edges_permit_what_the_model_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granter, "_SETTLED_S", 0.5)
    print(f"GRANTS_SEED={seed}")
    rng = random.Random(seed)
    server = RedisServer()
    server.start()
    tokens, model = Cluster(private=PRIVATE), Model()
    try:
        async with (
            TcpProxy("127.0.0.1", server.port) as proxy,
            LiveEdge(tokens, server.url) as whole,
            LiveEdge(tokens, f"redis://127.0.0.1:{proxy.port}/0") as other,
        ):
            tokens.grants.rules = UserGrants(MemoryGrants(), whole.node.clock.wall)
            sides = [Side(whole), Side(other)]
            for side in sides:
                for user in USERS:
                    await side.reconnect(user)
            is_cut = False
            for step in range(STEPS):
                kind = rng.choice(("give", "give", "take", "take", "expire", "reconnect", "cut"))
                user, pattern = rng.choice(USERS), rng.choice(list(PATTERNS))
                operations = rng.sample(OPERATIONS, rng.randint(1, 4))
                changer = whole if is_cut else rng.choice((whole, other))
                what = f"seed {seed}, step {step}: {kind} {user} {pattern} {operations}"
                if kind in ("give", "expire"):
                    until = NEVER if kind == "give" else changer.node.clock.wall() + 0.4
                    await changer.granter.give(user, [pattern], operations, until)
                    model.granted |= {(user, pattern, operation): until for operation in operations}
                elif kind == "take":
                    await changer.granter.take(user, [pattern], operations)
                    for operation in operations:
                        model.granted.pop((user, pattern, operation), None)
                elif kind == "reconnect":
                    await rng.choice(sides).reconnect(user)
                elif is_cut:
                    proxy.heal()
                    is_cut = False
                    async with asyncio.timeout(15):
                        while not other.broker.is_ready:
                            await asyncio.sleep(0.01)
                    await until_same(sides[1], model, WITHIN_S, what)
                else:
                    proxy.cut()
                    is_cut = True
                if kind == "expire":
                    await asyncio.sleep(0.5)
                # What was given for a time is looked at up to 0.5 s after its end; all else has been by now.
                await until_same(sides[0], model, 1.0 if kind == "expire" else 0.3, what)
                if not is_cut:
                    await until_same(sides[1], model, WITHIN_S if kind == "cut" else 1.0, what)
    finally:
        server.kill()
