"""Edges and presence die and hang; then all see what is on the rosters.

Two replicas of presence, three edges, two tabs a user, who change their data meanwhile, in channels that tell by client
and by user. `make test-full` runs it long. Rows F01, F02, F14 and F25 of docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.faults.crowd import CHANNELS, CHANNELS_TOML, HALL, ROOM, TABS, Crowd
from tests.faults.rosters import Rosters, lifecycle, unclosed, until_right, untrue
from tests.support.full import sized
from tests.support.replicas import TwoReplicas
from tests.support.wire_client import WireClient

LEASE_S = sized(6, 12)
SLACK_S = 3.0  # of a busy machine
GONE_S = LEASE_S + 2.0  # the members of an edge that died have left
BACK_S = 5.0  # clients of an edge that stops in order are back
AFTER_OUTAGE_S = LEASE_S + 5.0
USERS = sized(6, 30)
KILLS = sized(2, 12)
OUTAGE_S = sized(3, 60)
EDGES = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoReplicas]:
    folder = tmp_path_factory.mktemp("replicas")
    channels = folder / "channels.toml"
    channels.write_text(CHANNELS_TOML)
    environment = {"PRESENCE_LEASE_TTL_S": str(LEASE_S), "EDGE_CONNECTION_EVENTS": "true", "EDGE_COMMANDS_PER_S": "0"}
    with TwoReplicas(folder, edges=EDGES, environment=environment, channels_file=channels) as running:
        yield running


@pytest.fixture
async def rosters(place: TwoReplicas) -> AsyncIterator[Rosters]:
    async with httpx.AsyncClient(headers={"X-API-Key": place.stack.api_key}, timeout=5) as http:
        yield Rosters(place.stack, http)


class Trouble:
    """What happens to a crowd, chosen by a seed."""

    def __init__(self, place: TwoReplicas, rosters: Rosters, crowd: Crowd, rng: random.Random) -> None:
        self._place, self._rosters, self._crowd, self._rng = place, rosters, crowd, rng
        self.cut_at: dict[str, float] = {}  # client → monotonic seconds when its edge was killed

    async def right(self, within_s: float, *, exactly: bool = False) -> None:
        self._crowd.calm_down(True)
        began = time.monotonic()
        wrong = await until_right(self._rosters, self._crowd, within_s, exactly=exactly)
        assert not wrong, "\n".join(wrong)
        print(f"right after {time.monotonic() - began:.1f} s")
        self._crowd.calm_down(False)

    async def kill_edge(self, *, is_timed: bool = True) -> int:
        edge = self._rng.randrange(EDGES)
        if is_timed:
            self.cut_at |= dict.fromkeys(self._crowd.on(edge), time.monotonic())
        await asyncio.to_thread(self._place.stack.kill9, f"edge-{edge + 1}")
        return edge

    async def start_edge(self, edge: int) -> None:
        await asyncio.to_thread(self._place.stack.start, f"edge-{edge + 1}")

    async def edges_and_replicas_die(self) -> None:
        """F01, and one replica at a time."""
        for _ in range(KILLS):
            edge = await self.kill_edge()
            replica = self._rng.choice(self._place.names)
            await asyncio.sleep(self._rng.uniform(0, 0.5))
            await asyncio.to_thread(self._place.kill9, replica)
            await asyncio.sleep(self._rng.uniform(0, 0.5))
            await asyncio.gather(self.start_edge(edge), asyncio.to_thread(self._place.start, replica))
            await asyncio.sleep(self._rng.uniform(0, 1))

    async def an_edge_stops(self) -> None:
        """F02."""
        edge = self._rng.randrange(EDGES)
        await asyncio.to_thread(self._place.stack.terminate, f"edge-{edge + 1}")
        await self.start_edge(edge)

    async def presence_is_away(self, *, killed: bool) -> None:
        """F14, and an edge dies meanwhile."""
        for name in self._place.names:
            await asyncio.to_thread(self._place.kill9 if killed else self._place.stop, name)
        await asyncio.sleep(OUTAGE_S / 2)
        edge = await self.kill_edge(is_timed=False)
        await asyncio.sleep(OUTAGE_S / 2)
        await self.start_edge(edge)
        for name in self._place.names:
            await asyncio.to_thread(self._place.start if killed else self._place.cont, name)


async def test_what_subscribers_see_equals_the_rosters_in_time(place: TwoReplicas, rosters: Rosters) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    crowd = Crowd(place.stack.ws_urls, {f"u{at}": place.stack.token(f"u{at}") for at in range(USERS)}, seed)
    trouble = Trouble(place, rosters, crowd, rng)
    crowd.start()
    try:
        await trouble.right(20)
        await trouble.edges_and_replicas_die()
        await trouble.right(GONE_S + SLACK_S)
        await trouble.an_edge_stops()
        await trouble.right(BACK_S + SLACK_S)
        first = rng.random() < 0.5
        for killed in (first, not first)[: sized(1, 2)]:
            await trouble.presence_is_away(killed=killed)
            await trouble.right(AFTER_OUTAGE_S + SLACK_S)
        for channel in CHANNELS:
            await asyncio.gather(*(tab.change(channel, last=at) for at, tab in enumerate(crowd.tabs)))
        await trouble.right(SLACK_S, exactly=True)
    finally:
        await crowd.end()
    assert crowd.failed() == []
    await _nobody_is_left(rosters)
    again = _lost_leases(place)
    assert not list(untrue(crowd.subscriptions(), again=again))
    leaves = crowd.first_leaves(ROOM)
    late = {client: leaves[client] - at for client, at in trouble.cut_at.items() if client in leaves}
    assert late
    assert max(late.values()) <= GONE_S + SLACK_S
    events = [event for event in await lifecycle(place.stack.redis_url) if event.channel in ("", *CHANNELS)]
    assert not list(unclosed(events, again=again))
    assert {event.client for event in events if event.channel == ROOM and event.client} >= leaves.keys()
    print(f"{sum(len(one.told) for _, one in crowd.subscriptions())} pushes, {len(events)} events, {again=}")
    print(f"dead clients left after {min(late.values()):.1f} to {max(late.values()):.1f} s")


def _lost_leases(place: TwoReplicas) -> bool:
    """Whether a lease of a living edge ran out.

    A machine may be too busy for heartbeats.
    """
    return any("the lease ran out" in line for edge in range(EDGES) for line in place.stack.lines(f"edge-{edge + 1}"))


async def _nobody_is_left(rosters: Rosters) -> None:
    deadline = time.monotonic() + GONE_S + SLACK_S
    while left := [channel for channel in CHANNELS if await rosters.read(channel)]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.1)


MEMBERS = sized(100, 300)
BACK = MEMBERS // 6


class Watcher(WireClient):
    """Hears all joins and leaves; `mark` says from where on they count."""

    def __init__(self, url: str) -> None:
        super().__init__(url, deadline_s=20)
        self.mark: dict[str, int] = {}

    def since(self, channel: str) -> list[tuple[str, str, str]]:
        """Kind, user and client of each, since `mark`."""
        return [
            (kind, push[kind]["info"]["user"], push[kind]["info"]["client"])
            for push in self.pushes(channel)[self.mark.get(channel, 0) :]
            for kind in ("join", "leave")
            if kind in push
        ]


async def test_F25_an_edge_with_many_members_is_killed(place: TwoReplicas, rosters: Rosters) -> None:
    stack = place.stack
    channels = [channel.replace(":1", ":f25") for channel in (ROOM, HALL, TABS)]
    room, hall, tabs = channels
    async with contextlib.AsyncExitStack() as exits:

        async def come(user: str, edge: int, made: type[Any] = WireClient) -> Any:
            client = await exits.enter_async_context(made(stack.ws_urls[edge]))
            client.deadline_s = 20
            await client.connect(stack.token(user))
            for channel in channels:
                await client.subscribe(channel)
            return client

        watchers = [await come(f"watcher-{edge}", edge, Watcher) for edge in (1, 2)]
        members: dict[int, WireClient] = {}
        for at in range(0, MEMBERS, 20):
            some = range(at, min(at + 20, MEMBERS))
            members |= dict(zip(some, await asyncio.gather(*(come(f"m{number}", 0) for number in some)), strict=True))
        everyone = {member.client_id for member in members.values()} | {one.client_id for one in watchers}
        for watcher in watchers:
            for channel in channels:
                await watcher.wait_for(
                    lambda w=watcher, c=channel: len(w.since(c)) >= MEMBERS + 1 or None, f"all joins in {channel}"
                )
                watcher.mark[channel] = len(watcher.pushes(channel))
        assert set(await rosters.read(room)) == everyone
        await asyncio.to_thread(stack.kill9, "edge-1")
        killed_at = time.monotonic()
        back = await asyncio.gather(*(come(f"m{number}", 1 + number % 2) for number in range(BACK)))
        assert time.monotonic() - killed_at < 0.6 * LEASE_S, "they did not come back in time: the test shows nothing"
        dead = {member.client_id: f"m{number}" for number, member in members.items()}
        for watcher in watchers:
            for channel in (room, hall):
                await watcher.wait_for(
                    lambda w=watcher, c=channel: len(w.since(c)) >= MEMBERS + BACK or None,
                    f"all leaves in {channel}",
                    GONE_S + SLACK_S,
                )
        print(f"all have left after {time.monotonic() - killed_at:.1f} s")
        assert time.monotonic() - killed_at <= GONE_S + SLACK_S
        await asyncio.sleep(1)  # for what comes twice
        joined = {("join", f"m{number}", client.client_id) for number, client in enumerate(back)}
        left = {("leave", user, client) for client, user in dead.items()}
        for watcher in watchers:
            for channel in (room, hall):
                told = watcher.since(channel)
                assert len(told) == len(set(told)), "somebody was told twice"
                assert set(told) == joined | left
            told = watcher.since(tabs)
            assert sorted(user for _, user, _ in told) == sorted(f"m{number}" for number in range(BACK, MEMBERS))
            assert {kind for kind, _, _ in told} == {"leave"}
        assert set(await rosters.read(hall)) == {one.client_id for one in (*back, *watchers)}
        await asyncio.to_thread(stack.start, "edge-1")
    events = [event for event in await lifecycle(stack.redis_url) if event.channel in (room, hall)]
    gone = [(event.channel, event.client) for event in events if event.type == "leave" and event.client in dead]
    assert sorted(gone) == sorted((channel, client) for channel in (room, hall) for client in dead)
