"""Random lives of one channel on two edges: pub/sub loses, repeats and reorders; clients come, go and recover.

Real rules and the real JSON dialect; Redis in memory, whose answers take as many turns of the loop as the schedule
says.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from services.edge.domain.model import Publication
from services.shared.namespaces import Durability, Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace
from tests.support.memory import MemoryBroker

CHANNEL = "a"
EDGES = 2
CLIENTS = 4


class SlowBroker:
    """A `MemoryBroker` whose calls take turns of the loop, before and after they take effect, as a network does."""

    def __init__(self, broker: MemoryBroker, turns: list[int]) -> None:
        self._broker = broker
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._broker, name)
        if name not in ("subscribe", "read", "top", "tops", "reset"):
            return attribute

        async def call(*arguments: Any, **options: Any) -> Any:
            for _ in range(self._next()):
                await asyncio.sleep(0)
            result = await attribute(*arguments, **options)
            for _ in range(self._next()):
                await asyncio.sleep(0)
            return result

        return call

    def _next(self) -> int:
        self._turns.append(turns := self._turns.pop(0))
        return turns


@dataclass
class Follower:
    """One client over all its connections, and what its application saw."""

    user: str
    client: Client | None = None
    epoch: str = ""
    offset: int = 0
    ever: bool = False
    read: int = 0  # lines of the present connection that were looked at
    asked: int = 0  # id of the subscribe under way


@dataclass
class World:
    """Two edges, one log, four clients."""

    turns: list[int]
    history_size: int
    cluster: Cluster = field(init=False)
    followers: list[Follower] = field(init=False)
    logs: dict[str, list[str]] = field(default_factory=dict)  # epoch → data by offset
    held: list[tuple[int, str, Publication]] = field(default_factory=list)  # announcements that come later
    count: int = 0

    async def begin(self) -> None:
        namespace = replace_namespace(
            OPEN,
            durability=Durability.HOT,
            recovery=Mode.FORCE,
            history=frozenset({Permission.AUTHENTICATED}),
            history_size=self.history_size,
            presence=False,
            join_leave=Mode.OFF,
        )
        self.cluster = Cluster(default=namespace)
        for _ in range(EDGES):
            node = self.cluster.edge(
                commands_per_s=0, ring_size=3, gap_buffer_size=2, recovery_limit=12, channels_per_client=4
            )
            slow = SlowBroker(self.cluster.bus.brokers[-1], self.turns)
            node.broker = node.reader._broker = node.hub._broker = slow
        self.followers = [Follower(f"user{number}") for number in range(CLIENTS)]
        self.publisher = await connected(self.cluster, self.cluster.nodes[0], "publisher")

    # Actions.

    async def publish(self, fates: Sequence[str]) -> None:
        """One publication; `fates`: what becomes of its announcement on each edge."""
        bus = self.cluster.bus
        log = bus.log(CHANNEL)
        self.count += 1
        data = f"m{self.count}"
        log.top += 1
        kept = Publication(json.dumps(data).encode(), None, {}, b"", "", 0)
        kept.offset = log.top
        log.entries = [*log.entries, kept][-self.history_size :]
        self.logs.setdefault(log.epoch, []).append(data)
        for index, fate in enumerate(fates):
            if fate == "later":
                self.held.append((index, log.epoch, kept))
            for _ in range({"lost": 0, "later": 0, "once": 1, "twice": 2}[fate]):
                self._announce(index, log.epoch, kept)

    def _announce(self, index: int, epoch: str, publication: Publication) -> None:
        broker = self.cluster.bus.brokers[index]
        if CHANNEL in broker.subscribed and broker.listener is not None:
            broker.listener.publication(CHANNEL, epoch, copy.copy(publication))

    async def release(self, newest_first: bool) -> None:
        """What was held back arrives, perhaps out of order."""
        for index, epoch, publication in reversed(self.held) if newest_first else list(self.held):
            self._announce(index, epoch, publication)
        self.held.clear()

    async def come(self, who: int, edge: int) -> None:
        """Connect to an edge and subscribe, recovering if it was here before."""
        follower = self.followers[who]
        if follower.client is not None:
            return
        client = Client(self.cluster, self.cluster.nodes[edge], client_id=f"{follower.user}-{self.count}-{edge}")
        follower.client, follower.read = client, 0
        token = self.cluster.token(follower.user)
        self._send(client, {"id": 1, "connect": {"token": token}})
        follower.asked = 1
        self._subscribe(follower)

    def _subscribe(self, follower: Follower) -> None:
        assert follower.client is not None
        request: dict[str, Any] = {"channel": CHANNEL}
        if follower.ever:
            request |= {"recover": True, "offset": follower.offset, "epoch": follower.epoch}
        follower.asked += 1
        self._send(follower.client, {"id": follower.asked, "subscribe": request})

    @staticmethod
    def _send(client: Client, command: dict[str, Any]) -> None:
        client.session.message(json.dumps(command).encode(), binary=False)

    async def go(self, who: int) -> None:
        """Its connection breaks."""
        follower = self.followers[who]
        if follower.client is not None:
            self.look(follower)
            follower.client.session.closed(clean=False)
            follower.client = None

    async def check_tops(self, edge: int) -> None:
        hub = self.cluster.nodes[edge].hub
        hub.check_tops()

    async def reconnected(self, edge: int) -> None:
        self.cluster.nodes[edge].hub.reconnected()

    async def unused(self, edge: int) -> None:
        """Channels nobody listens to are closed."""
        self.cluster.clock.now += 2.0
        self.cluster.nodes[edge].hub.close_unused(self.cluster.clock.now)

    async def begin_anew(self, said: bool) -> None:
        """The log lost something and has a new epoch; the notice may be lost as well."""
        bus = self.cluster.bus
        log = bus.log(CHANNEL)
        brokers, bus.brokers = bus.brokers, bus.brokers if said else []
        bus.reset(CHANNEL, log.epoch)
        bus.brokers = brokers

    async def wait(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    # What must hold.

    def look(self, follower: Follower) -> None:
        """Everything that came since: each offset once, in order, of one epoch, or the client was told."""
        client = follower.client
        if client is None:
            return
        lines = client.lines
        new, follower.read = lines[follower.read :], len(lines)
        for line in new:
            if "subscribe" in line:
                self._subscribed(follower, line["subscribe"])
            elif line.get("id") == follower.asked and "error" in line:
                assert line["error"].get("temporary"), line
            elif "pub" in (push := line.get("push", {})):
                self._delivered(follower, push["pub"])
            elif "unsubscribe" in push:
                assert push["unsubscribe"]["code"] == 2500, push
                self._subscribe(follower)  # as an SDK does

    def _subscribed(self, follower: Follower, result: dict[str, Any]) -> None:
        if result.get("recovered"):
            assert follower.ever
            assert result["epoch"] == follower.epoch, "recovered across an epoch"
        else:
            assert not result.get("publications"), "a part was recovered"
            follower.offset = result.get("offset", 0)
        follower.ever, follower.epoch = True, result["epoch"]
        for publication in result.get("publications", ()):
            self._delivered(follower, publication)

    def _delivered(self, follower: Follower, publication: dict[str, Any]) -> None:
        offset = publication["offset"]
        assert offset == follower.offset + 1, f"{follower.user} has {follower.offset}, gets {offset}"
        assert publication["data"] == self.logs[follower.epoch][offset - 1], "another publication at this place"
        follower.offset = offset

    async def finish(self) -> None:
        """Pub/sub works again and tops are compared: who is there has everything."""
        self.held.clear()
        await self.publish(["lost"] * EDGES)
        for who in range(CLIENTS):
            await self.come(who, who % EDGES)
        for _ in range(5):
            for node in self.cluster.nodes:
                node.hub.check_tops()
            await self.wait(60)
            for follower in self.followers:
                self.look(follower)
        await asyncio.sleep(0.012)  # a repair that tries again
        await self.wait(100)
        log = self.cluster.bus.log(CHANNEL)
        for follower in self.followers:
            self.look(follower)
            assert (follower.epoch, follower.offset) == (log.epoch, log.top), f"{follower.user} was left behind"
        for node in self.cluster.nodes:
            view = node.hub.channels.get(CHANNEL)
            if view is None or view.log is None:
                continue  # nobody is there
            assert len(view.log._ring) <= 3
            assert len(view.log._buffer) <= 2


fate = st.sampled_from(["once", "once", "once", "lost", "twice", "later"])
who = st.integers(0, CLIENTS - 1)
edge = st.integers(0, EDGES - 1)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.lists(fate, min_size=EDGES, max_size=EDGES)),
        st.tuples(st.just("publish"), st.lists(fate, min_size=EDGES, max_size=EDGES)),
        st.tuples(st.just("come"), who, edge),
        st.tuples(st.just("come"), who, edge),
        st.tuples(st.just("go"), who),
        st.tuples(st.just("wait"), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.integers(1, 12)),
        st.tuples(st.just("release"), st.booleans()),
        st.tuples(st.just("check_tops"), edge),
        st.tuples(st.just("reconnected"), edge),
        st.tuples(st.just("unused"), edge),
        st.tuples(st.just("begin_anew"), st.booleans()),
    ),
    min_size=4,
    max_size=40,
)
schedules = st.tuples(st.lists(st.integers(0, 6), min_size=3, max_size=9), st.sampled_from([3, 6, 100]), actions)


async def live(schedule: tuple[list[int], int, Sequence[tuple[Any, ...]]]) -> None:
    """One schedule."""
    turns, history_size, steps = schedule
    world = World(list(turns), history_size)
    await world.begin()
    for name, *arguments in steps:
        await getattr(world, name)(*arguments)
        for follower in world.followers:
            world.look(follower)
    await world.finish()
    for node in world.cluster.nodes:
        await node.close(0.0)
