"""Whoever subscribes, unsubscribes, or is ordered to, at whatever moment.

The roster is who is subscribed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from typing import Any

import pytest

from services.edge.domain.control import operations
from services.edge.domain.control.operations import execute
from services.edge.domain.ends import ClientEnd, EndReason
from services.shared.errors import ThalamusError
from services.shared.namespaces import Mode
from tests.properties.manual_loop import ticks
from tests.support.edge import OPEN, Client, Cluster, replace_namespace, settle

CHANNELS = ("a", "b")
USERS = ("ann", "bob")
STEPS = 60


class Delayed:
    """An edge to which every answer of Redis and presence comes turns later."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.cluster = Cluster(default=replace_namespace(OPEN, recovery=Mode.ALLOW, join_leave=Mode.FORCE))
        self.node = self.cluster.edge()
        broker, presence = self.cluster.bus.brokers[0], self.cluster.presence
        subscribe, read = broker.subscribe, broker.read

        async def late_subscribe(channel: str) -> None:
            await self.delay()
            await subscribe(channel)

        async def late_read(*arguments: Any, **options: Any) -> Any:
            await self.delay()
            return await read(*arguments, **options)

        async def late_written(channel: str, client: str) -> bool:
            await self.delay()
            return rng.random() < 0.9

        broker.subscribe, broker.read = late_subscribe, late_read  # type: ignore[method-assign]
        presence.written = late_written  # type: ignore[method-assign]
        self.clients: list[Client] = []
        self._numbers = itertools.count(1)
        self.commands: set[asyncio.Task[None]] = set()

    async def delay(self) -> None:
        await ticks(self.rng.choice((0, 0, 1, 2, 5, 9)))

    async def connect(self, user: str) -> Client:
        client = Client(self.cluster, self.node, client_id=f"{user}{next(self._numbers)}")
        await client.call(connect={"token": self.cluster.token(user)})
        return client

    def command(self, operation: operations.Operation) -> None:
        async def give() -> None:
            with contextlib.suppress(ThalamusError):  # the client was told that it is not subscribed
                await execute(self.node, operation)

        task = asyncio.create_task(give())
        self.commands.add(task)
        task.add_done_callback(self.commands.discard)

    def say(self, client: Client) -> None:
        """A frame of one to three commands."""
        channel = self.rng.choice(CHANNELS)
        subscribe: dict[str, Any] = {"channel": channel}
        if self.rng.random() < 0.3:
            subscribe |= {"recoverable": True, "recover": True, "offset": self.rng.randint(0, 9)}
        commands: list[dict[str, Any]] = [{"unsubscribe": {"channel": channel}}, {"subscribe": subscribe}]
        if self.rng.random() < 0.5:
            commands = [self.rng.choice(commands)]
        elif self.rng.random() < 0.3:
            commands = [*reversed(commands), commands[0]]
        frame = "\n".join(json.dumps({"id": 10 + number, **command}) for number, command in enumerate(commands))
        client.protocol.message(frame.encode(), binary=False)

    async def step(self) -> None:
        rng, action = self.rng, self.rng.random()
        channel, user = rng.choice(CHANNELS), rng.choice(USERS)
        if action < 0.45:
            self.say(rng.choice(self.clients))
        elif action < 0.6:
            self.command(operations.Subscribe(user=user, channel=channel))
        elif action < 0.75:
            self.command(operations.Unsubscribe(user=user, channel=channel))
        elif action < 0.8:
            self.node.hub.was_reset(channel, "another epoch")
        elif action < 0.85:
            at = rng.randrange(len(self.clients))
            gone = self.clients[at]
            if rng.random() < 0.5:
                gone.session.disconnect(EndReason.DISCONNECTED, 3000, "gone")
                await self.delay()
            gone.protocol.closed(rng.choice(list(ClientEnd)))
            self.clients[at] = await self.connect(user)
        await self.delay()

    def off(self) -> list[str]:
        """What differs between the roster and the subscriptions."""
        found = []
        for channel in CHANNELS:
            subscribed = {
                client.session.client
                for client in self.clients
                if not client.session.is_closed and channel in client.session.subscriptions
            }
            roster = set(self.cluster.presence.members_of.get(channel, {}))
            found += [f"{channel}: {one} is missing" for one in sorted(subscribed - roster)]
            found += [f"{channel}: {one} is a ghost" for one in sorted(roster - subscribed)]
        return found


@pytest.mark.parametrize("seed", range(60))
async def test_the_roster_is_who_is_subscribed(seed: int) -> None:
    print(f"seed {seed}")
    world = Delayed(random.Random(seed))
    world.clients = [await world.connect(USERS[number % 2]) for number in range(3)]
    for _ in range(STEPS):
        await world.step()
    await settle()
    await settle()
    assert not world.commands
    assert world.off() == []


PAIR = b'{"id":8,"unsubscribe":{"channel":"a"}}\n{"id":9,"subscribe":{"channel":"a"}}'


@pytest.mark.parametrize("turns", range(12))
async def test_an_order_to_subscribe_that_was_overtaken_takes_no_newer_entry_off_the_roster(turns: int) -> None:
    """It is under way, presence is slow, and the client subscribes anew.

    It unsubscribes and subscribes in one frame.
    """
    world = Delayed(random.Random(turns))
    client = await world.connect("ann")
    entering = asyncio.Event()

    async def slow(channel: str, client: str) -> bool:
        entering.set()
        await ticks(turns)
        return True

    world.cluster.presence.written = slow  # type: ignore[method-assign]
    world.command(operations.Subscribe(user="ann", channel="a"))
    await entering.wait()
    world.clients = [client]
    client.protocol.message(PAIR, binary=False)
    await settle()
    assert "a" in client.session.subscriptions
    assert world.off() == []


@pytest.mark.parametrize("turns", range(6))
async def test_an_order_to_unsubscribe_takes_only_what_it_ended_off_the_roster(turns: int) -> None:
    world = Delayed(random.Random(turns))
    world.clients = [client] = [await world.connect("ann")]
    await client.call(subscribe={"channel": "a"})
    world.command(operations.Unsubscribe(user="ann", channel="a"))
    await ticks(turns)
    client.protocol.message(PAIR, binary=False)
    await settle()
    assert world.off() == []
