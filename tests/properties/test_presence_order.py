"""What subscribers are told of presence is what happened, in order, on two edges.

Clients enter, update, leave, subscribe, unsubscribe and vanish at random. Watchers on both edges must be told of each
client: a join, then updates, then a leave. A join is never told after the leave of the same stay, and at the end what a
watcher has by setting members by client is what the roster has.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.integration.test_presence import Tab, channels_file, rpc
from tests.support.stack import Stack

SEEDS = range(40 if os.environ.get("FULL") else 3)
STEPS = 60  # of each client
CLIENTS = 6
SETTLED_S = 20.0  # a vanished client stays for the grace of 10 s


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {"EDGE_COMMANDS_PER_S": "10000", "EDGE_COMMANDS_BURST": "10000"}
    with Stack(channels_file=channels_file(tmp_path_factory.mktemp("order")), environment=environment) as running:
        yield running


class Actor:
    """One client that acts at random; its data counts its stays."""

    def __init__(self, place: Stack, rng: random.Random, number: int, channel: str) -> None:
        self.place, self.rng, self.channel = place, rng, channel
        self.number = number
        self.stay = 0

    async def run(self) -> None:
        for number in range(3):  # connections, on any edge
            async with Tab(self.rng.choice(self.place.ws_urls)) as client:
                # Each is of another user: who comes back within the grace takes the place, and is not told of.
                await client.connect(self.place.token(f"u{self.number}-{number}-{self.channel}"))
                await self.act(client)
                if self.rng.random() < 0.3:
                    client.abort()  # it stays for its grace

    async def act(self, client: Tab) -> None:
        is_there = is_subscribed = False
        version = 0
        for _ in range(STEPS // 3):
            what = self.rng.choice(("enter", "update", "leave", "subscribe", "unsubscribe"))
            if what == "enter" or (what == "update" and is_there):
                if not is_there:
                    self.stay += 1
                    version = 0
                version += 1
                is_there = True
                data = {"stay": self.stay, "version": version}
                await rpc(client, what, channel=self.channel, data=data)
            elif what == "leave":
                is_there = False
                await rpc(client, "leave", channel=self.channel)
            elif what == "subscribe" and not is_subscribed:
                is_subscribed = True
                await client.subscribe(self.channel)
            elif what == "unsubscribe" and is_subscribed:
                is_subscribed = False
                await client.call(unsubscribe={"channel": self.channel})
            if self.rng.random() < 0.3:
                await asyncio.sleep(self.rng.random() / 100)


def check_order(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Check what a watcher was told; return the members that it ends with."""
    members: dict[str, Any] = {}
    newest: dict[str, tuple[int, int]] = {}
    for push in events:
        kind = "join" if "join" in push else "leave"
        info = push[kind]["info"]
        client, data = info["client"], info.get("chan_info") or {"stay": 0, "version": 0}
        at = (data["stay"], data["version"])
        if kind == "leave":
            assert client in members, f"a leave without a join: {push}"
            assert members.pop(client) == data, f"a leave with other data than the last join: {push}"
            newest[client] = at
        elif push["join"].get("updated"):
            assert client in members, f"an update of who is not there: {push}"
            assert at >= newest[client], f"an older update: {push}"
            members[client], newest[client] = data, at
        else:
            assert client not in members, f"a second join: {push}"
            assert at > newest.get(client, (-1, 0)), f"a join after the leave of the same stay: {push}"
            members[client], newest[client] = data, at
    return members


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_join_is_never_told_after_the_leave_of_the_same_stay(place: Stack, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    channel = f"stage:{secrets.token_hex(4)}"
    async with AsyncExitStack() as exits:
        watchers = []
        for number, url in enumerate(place.ws_urls):
            watcher = await exits.enter_async_context(Tab(url))
            await watcher.connect(place.token(f"watcher{number}"))
            await watcher.subscribe(channel)
            watchers.append(watcher)
        actors = [Actor(place, random.Random(rng.random()), number, channel) for number in range(CLIENTS)]
        await asyncio.gather(*(actor.run() for actor in actors))
        for watcher in watchers:

            def is_settled(watcher: Tab = watcher) -> bool | None:
                return not check_order(watcher.pushes(channel)) or None

            await watcher.wait_for(is_settled, "everybody's leave", SETTLED_S)
            assert len(watcher.pushes(channel, "join")) > CLIENTS
        assert (await rpc(watchers[0], "members", channel=channel))["members"] == []
        first, second = (watcher.pushes(channel) for watcher in watchers)
        assert first == second, "edges tell the same in the same order"


def by_client(events: list[dict[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Return user and data of those whom a reader has, by client."""
    found: dict[str, tuple[str, Any]] = {}
    for push in events:
        kind = "join" if "join" in push else "leave"
        info = push[kind]["info"]
        if kind == "leave":
            found.pop(info["client"], None)
        elif not info["user"].startswith("watcher"):
            found[info["client"]] = (info["user"], info.get("chan_info"))
    return found


async def come_back_again_and_again(
    place: Stack, exits: AsyncExitStack, rng: random.Random, user: str, channel: str
) -> Tab:
    """Connect several times, break each connection, and return the last one."""
    for number in range(5):
        tab = await exits.enter_async_context(Tab(rng.choice(place.ws_urls)))
        await tab.connect(place.token(user))
        if channel.startswith("room") or rng.random() < 0.5:
            await tab.subscribe(channel)
        data = rng.choice(({"data": 1}, {"data": 2}, {}))
        await rpc(tab, "enter", channel=channel, **data)
        if rng.random() < 0.3:
            await rpc(tab, "update", channel=channel, data=rng.choice((1, 2)))
        if number < 4:
            if rng.random() < 0.8:
                tab.abort()  # it stays for its grace
            else:
                await tab.socket.close()
    return tab


@pytest.mark.parametrize("namespace", ["room", "stage"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_who_sets_members_by_client_ends_with_those_who_are_there(
    place: Stack, seed: int, namespace: str
) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    run = secrets.token_hex(4)
    channel = f"{namespace}:{run}"
    async with AsyncExitStack() as exits:
        watchers = []
        for number, url in enumerate(place.ws_urls):
            watcher = await exits.enter_async_context(Tab(url))
            await watcher.connect(place.token(f"watcher{number}"))
            await watcher.subscribe(channel)
            watchers.append(watcher)
        names = [f"u{number}-{run}" for number in range(4)]
        tabs = await asyncio.gather(
            *(come_back_again_and_again(place, exits, random.Random(rng.random()), name, channel) for name in names)
        )
        while True:  # until nobody is in a grace
            members = (await rpc(watchers[0], "members", channel=channel))["members"]
            expected = sorted(
                (one["user"], str(one.get("chan_info"))) for one in members if not one["user"].startswith("watcher")
            )
            if [user for user, _ in expected] == names:
                break
            await asyncio.sleep(0.2)
        for watcher in watchers:

            def agrees(watcher: Tab = watcher) -> bool | None:
                found = by_client(watcher.pushes(channel))
                return sorted((user, str(data)) for user, data in found.values()) == expected or None

            await watcher.wait_for(agrees, "those who are there", SETTLED_S)
        for tab in tabs:
            await tab.socket.close()
        for watcher in watchers:

            def is_empty(watcher: Tab = watcher) -> bool | None:
                return not by_client(watcher.pushes(channel)) or None

            await watcher.wait_for(is_empty, "everybody's leave", SETTLED_S)
