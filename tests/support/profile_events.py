"""Edges, auth and persistence; profiles change, anything may die; no time passes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.auth.domain.profile_changes import ProfileChanges
from services.auth.domain.user_ports import ProfileVersion
from services.edge.domain.profiles.announcer import Outlets, ProfileAnnouncer
from services.shared.errors import Unavailable
from services.shared.namespaces import Namespace

CONV = Namespace(name="conv", conversations=True)
CHAT = Namespace(name="chat")
LAG_S = 1.5  # of the list of a user's conversations, at most, seconds


class View:
    """A channel on an edge: as much of `Channel` as is used. `live`: clients."""

    def __init__(self, name: str) -> None:
        self.name, self.namespace = name, CONV if name.startswith("conv") else CHAT
        self.live: set[Client] = set()
        self.became_live = 0

    def __len__(self) -> int:
        return len(self.live)


class Client:
    """An application: reads profiles when it subscribes, then heeds events."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.edge: Edge | None = None
        self.subscriptions: dict[str, object] = {}
        self.wanted: set[str] = set()
        self.knows: dict[str, dict[str, int]] = {}  # by channel: versions by user
        self.events: list[tuple[str, str, int]] = []

    def subscribe(self, world: World, channel: str) -> None:
        assert self.edge is not None
        view = self.edge.channels.setdefault(channel, View(channel))
        view.live.add(self)
        view.became_live += 1
        self.subscriptions[channel] = view
        self.knows[channel] = dict(world.versions)

    def heard(self, channel: str, data: bytes) -> None:
        event = msgspec.json.decode(data)
        assert event.keys() == {"kind", "user", "version"}
        assert event["kind"] == "profile"
        self.events.append((channel, event["user"], event["version"]))
        known = self.knows[channel]
        known[event["user"]] = max(event["version"], known.get(event["user"], 0))


class Edge:
    """One edge: the real announcer over channels in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.channels: dict[str, View] = {}
        self.users: dict[str, dict[str, Client]] = {}
        self.calls: list[list[str]] = []
        self.told: list[tuple[str, str, int]] = []
        self.paused = 0.0
        outlets = Outlets(self.here, self.everywhere)
        parts: dict[str, Any] = {"channels": self.channels, "users": self.users, "memberships": self}
        self.announcer = ProfileAnnouncer(
            **parts, outlets=outlets, is_disabled=world.disabled.__contains__, now=lambda: world.now, pause=self.pause
        )
        self.number, self.asked = 0, world.auths[0]

    async def pause(self, seconds: float) -> None:
        self.paused += seconds

    async def channels_of(self, users: Sequence[str]) -> Mapping[str, Sequence[str]]:
        self.calls.append(list(users))
        if self.world.persistence_away:
            raise Unavailable("persistence is away")
        return {user: self.world.listed(user) for user in users}

    def here(self, channel: str, data: bytes) -> bool:
        if self.world.order.random() < self.world.repairing:
            return False
        view = self.channels[channel]
        event = msgspec.json.decode(data)
        self.told.append((channel, event["user"], event["version"]))
        for client in list(view.live):
            client.heard(channel, data)
        return True

    def everywhere(self, channels: Sequence[tuple[str, Namespace]], data: bytes) -> None:
        for channel, namespace in channels:
            assert namespace is CONV
            for edge in self.world.edges:
                if channel in edge.channels:
                    edge.here(channel, data)

    def connect(self, client: Client) -> None:
        client.edge = self
        self.users.setdefault(client.user, {})[str(id(client))] = client

    def hear_auth(self) -> None:
        if self.asked not in self.world.auths:
            self.asked, self.number = self.world.order.choice(self.world.auths), 0
        found, self.number = self.asked.after(self.number, 1_000)
        for user, version in found:
            self.announcer.changed(user, version)


class World:
    def __init__(self, seed: int, *, users: int = 4, edges: int = 3) -> None:
        self.order, self.now = random.Random(seed), 1_000_000.0
        self.versions: dict[str, int] = {f"u{number}": 0 for number in range(users)}
        self.disabled: set[str] = set()
        self.notes: list[tuple[float, str, int]] = []
        self.members: dict[str, dict[str, float]] = {}  # by channel: members, and since when
        self.persistence_away = False
        self.repairing = 0.0  # how likely a channel is being repaired when it is to be told
        self.auths = [ProfileChanges(self, lambda: self.now) for _ in range(2)]  # type: ignore[arg-type]  # all it uses
        self.edges = [Edge(self) for _ in range(edges)]
        self.clients: list[Client] = []
        self.homeless: list[tuple[float, Client]] = []  # clients of edges that died, and when they come back

    # What auth's store has.

    async def profile_changes(self, since: float, limit: int) -> list[ProfileVersion]:
        found = sorted((note for note in self.notes if note[0] >= since), reverse=True)[:limit]
        return [ProfileVersion(user, version) for _, user, version in found]

    async def forget_profile_changes(self, before: float, limit: int) -> None: ...

    # What persistence has.

    def listed(self, user: str) -> list[str]:
        """As the read model has it, which is behind."""
        lag = self.order.uniform(0, LAG_S)
        return sorted(name for name, members in self.members.items() if members.get(user, self.now) <= self.now - lag)

    # What happens.

    def add(self, user: str, *channels: str) -> Client:
        client = Client(user)
        self.clients.append(client)
        self.order.choice(self.edges).connect(client)
        for channel in channels:
            client.wanted.add(channel)
            client.subscribe(self, channel)
        return client

    def commit(self, user: str) -> int:
        self.versions[user] += 1
        self.notes.append((self.now, user, self.versions[user]))
        return self.versions[user]

    def die(self, edge: Edge) -> None:
        self.edges.remove(edge)
        for client in [one for of_user in edge.users.values() for one in of_user.values()]:
            client.edge, client.subscriptions = None, {}
            self.homeless.append((self.now + self.order.uniform(0.1, 6), client))
        self.edges.append(Edge(self))

    async def tick(self, seconds: float = 0.25) -> None:
        """Let time pass: clients come back, auth looks, edges hear and tell."""
        self.now += seconds
        for back_at, client in list(self.homeless):
            if back_at <= self.now:
                self.homeless.remove((back_at, client))
                self.order.choice(self.edges).connect(client)
                for channel in sorted(client.wanted):
                    client.subscribe(self, channel)
        for auth in self.auths:
            if self.order.random() < 0.4:
                await auth.look()
        for edge in self.edges:
            edge.hear_auth()
            await edge.announcer.step()
