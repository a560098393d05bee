"""The edge's ports in memory; they pass the same tests/contract as real adapters."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from services.edge.adapters import publication_codec as codec
from services.edge.domain.model import (
    AppendResult,
    ClientInfo,
    HistoryPage,
    PresenceStats,
    Publication,
    StreamPosition,
)
from services.edge.domain.ports import ChannelListener
from services.edge.domain.presence_ports import ChannelsPage, MembersPage, UserOnline
from services.shared.errors import Unavailable
from services.shared.namespaces import ChannelEvent


@dataclass
class MemoryLog:
    epoch: str
    entries: list[Publication] = field(default_factory=list)
    top: int = 0
    keys: dict[tuple[str, str], int] = field(default_factory=dict)


class MemoryBus:
    """The logs and subscriptions that all edges share; `down` makes every call fail."""

    def __init__(self) -> None:
        self.logs: dict[str, MemoryLog] = {}
        self.brokers: list[MemoryBroker] = []
        self.down = False
        self._epochs = itertools.count(1)

    def log(self, channel: str) -> MemoryLog:
        if channel not in self.logs:
            self.logs[channel] = MemoryLog(f"epoch{next(self._epochs)}")
        return self.logs[channel]

    def check(self) -> None:
        if self.down:
            raise Unavailable("down")

    def announce(self, channel: str, epoch: str, publication: Publication) -> None:
        for broker in self.brokers:
            if channel in broker.subscribed and broker.listener is not None and not broker.stalled:
                broker.listener.publication(channel, epoch, copy.copy(publication))

    def ephemeral(self, channel: str, publication: Publication) -> None:
        for broker in self.brokers:
            if channel in broker.subscribed and broker.listener is not None and not broker.stalled:
                broker.listener.ephemeral(channel, copy.copy(publication))

    def joined(self, channel: str, info: ClientInfo) -> None:
        for broker in self.brokers:
            if channel in broker.subscribed and broker.listener is not None:
                broker.listener.joined(channel, [info])

    def updated(self, channel: str, info: ClientInfo) -> None:
        for broker in self.brokers:
            if channel in broker.subscribed and broker.listener is not None:
                broker.listener.updated(channel, [info])

    def left(self, channel: str, info: ClientInfo) -> None:
        for broker in self.brokers:
            if channel in broker.subscribed and broker.listener is not None:
                broker.listener.left(channel, info)

    def reset(self, channel: str, epoch: str) -> None:
        """Begin the log anew, if it is still of this epoch."""
        if self.logs[channel].epoch != epoch:
            return
        self.logs[channel] = log = MemoryLog(f"epoch{next(self._epochs)}")
        for broker in self.brokers:
            if channel in broker.subscribed and broker.listener is not None and not broker.stalled:
                broker.listener.was_reset(channel, log.epoch)

    def append(
        self, channel: str, publication: Publication, key_user: str, key: str, history_size: int
    ) -> AppendResult:
        self.check()
        log = self.log(channel)
        known = log.keys.get((key_user, key)) if key else None
        if known is not None:
            return AppendResult(StreamPosition(known, log.epoch), True)
        log.top += 1
        kept = copy.copy(publication)
        kept.offset = log.top
        log.entries = [*log.entries, kept][-history_size:]
        log.keys[(key_user, key)] = log.top
        self.announce(channel, log.epoch, kept)
        return AppendResult(StreamPosition(log.top, log.epoch), False)

    def read(self, channel: str, since_offset: int, limit: int, reverse: bool, max_bytes: int) -> HistoryPage:
        self.check()
        log = self.log(channel)
        if reverse:
            found = [one for one in reversed(log.entries) if not since_offset or one.offset < since_offset]
        else:
            found = [one for one in log.entries if one.offset > since_offset]
        return HistoryPage(
            [copy.copy(one) for one in _within(found[:limit], max_bytes)], StreamPosition(log.top, log.epoch)
        )


def _within(found: list[Publication], max_bytes: int) -> list[Publication]:
    """The first of them, in so many bytes of the log; the last one may go beyond."""
    for count, publication in enumerate(found):
        if max_bytes < 0:
            return found[:count]
        max_bytes -= len(codec.encode(publication))
    return found


class MemoryBroker:
    """`Broker` of one edge."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.subscribed: set[str] = set()
        self.listener: ChannelListener | None = None
        self.stalled = False  # pub/sub loses everything, without an error
        self.reads = 0
        bus.brokers.append(self)

    async def subscribe(self, channel: str) -> None:
        self.bus.check()
        self.subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        self.subscribed.discard(channel)

    async def publish(self, channel: str, publication: Publication) -> None:
        self.bus.check()
        self.bus.announce(channel, "", publication)

    async def publish_ephemeral(self, channel: str, publication: Publication) -> bool:
        self.bus.check()
        self.bus.ephemeral(channel, publication)
        return True

    async def append(
        self,
        channel: str,
        publication: Publication,
        *,
        key_user: str,
        key: str,
        history_size: int,
        history_ttl_s: int,
        feed: bool = False,
    ) -> AppendResult:
        return self.bus.append(channel, publication, key_user, key, history_size)

    async def top(self, channel: str) -> StreamPosition:
        self.bus.check()
        log = self.bus.log(channel)
        return StreamPosition(log.top, log.epoch)

    async def tops(self, channels: Sequence[tuple[str, bool]]) -> list[StreamPosition | None]:
        return [await (self.stored_top(name) if stored else self.top(name)) for name, stored in channels]

    async def stored_top(self, channel: str) -> StreamPosition | None:
        self.bus.check()
        log = self.bus.logs.get(channel)
        return StreamPosition(log.top, log.epoch) if log else None

    async def read(
        self, channel: str, *, since_offset: int, limit: int, reverse: bool, stored: bool, max_bytes: int
    ) -> HistoryPage | None:
        self.reads += 1
        self.bus.check()
        if channel not in self.bus.logs:
            return None
        return self.bus.read(channel, since_offset, limit, reverse, max_bytes)

    async def reset(self, channel: str, epoch: str) -> None:
        self.bus.check()
        self.bus.reset(channel, epoch)

    async def remove_history(self, channel: str) -> None:
        self.bus.check()
        self.bus.log(channel).entries = []


class MemoryStore:
    """`Store` with the same logs as the bus, like a store that lost nothing."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus

    async def append(
        self,
        channel: str,
        publication: Publication,
        *,
        key_user: str,
        key: str,
        history_size: int,
        history_ttl_s: int,
        feed: bool = False,
        queued: bool = False,
    ) -> AppendResult:
        return self.bus.append(channel, publication, key_user, key, history_size)

    async def has_begun(self, channel: str) -> bool:
        self.bus.check()
        return channel in self.bus.logs

    async def open(self, channel: str) -> StreamPosition:
        self.bus.check()
        log = self.bus.log(channel)
        return StreamPosition(log.top, log.epoch)

    async def read(self, channel: str, *, since_offset: int, limit: int, reverse: bool, max_bytes: int) -> HistoryPage:
        return self.bus.read(channel, since_offset, limit, reverse, max_bytes)

    async def remove_history(self, channel: str) -> None:
        self.bus.check()
        self.bus.log(channel).entries = []


class MemoryPresence:
    """`Presence` shared by all edges; no grace: what leaves is gone."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.members_of: dict[str, dict[str, ClientInfo]] = {}
        self.left: list[tuple[str, str, float]] = []  # channel, client, and how long it stays at most, seconds
        self.down = False
        self._announced: set[tuple[str, str]] = set()
        self._by_user: set[tuple[str, str]] = set()
        self._owners: dict[tuple[str, str], object] = {}
        self.connections: dict[str, dict[str, tuple[int, bool]]] = {}  # user, client: since, away
        self.last_seen: dict[str, int] = {}

    def enter(
        self,
        channel: str,
        info: ClientInfo,
        *,
        owner: object,
        announce: bool,
        grace_s: float,
        by_user: bool = False,
        events: Collection[ChannelEvent] = (),
        updated: bool = False,
    ) -> None:
        if self.down:
            return
        self._owners[channel, info.client] = owner
        roster = self.members_of.setdefault(channel, {})
        before = roster.get(info.client)
        others = by_user and info.user and any(one.user == info.user for one in roster.values())
        roster[info.client] = info
        if not announce:
            return
        self._announced.add((channel, info.client))
        if by_user and info.user:
            self._by_user.add((channel, info.client))
        if before is None and not others:
            self.bus.joined(channel, info)
        elif before is not None and updated and before != info:
            self.bus.updated(channel, info)

    def leave(self, channel: str, client: str, *, owner: object, stays_s: float) -> None:
        if self._owners.get((channel, client)) is not owner:
            return
        del self._owners[channel, client]
        self.left.append((channel, client, stays_s))
        if self.down:
            return
        info = self.members_of.get(channel, {}).pop(client, None)
        if info is not None and (channel, client) in self._announced:
            self._announced.discard((channel, client))
            others = any(one.user == info.user for one in self.members_of[channel].values())
            if not ((channel, client) in self._by_user and others):
                self.bus.left(channel, info)

    def online(
        self, user: str, client: str, *, since_ms: int, away: bool = False, grace_s: float = 0.0, events: bool = False
    ) -> None:
        if user and not self.down:
            self.connections.setdefault(user, {})[client] = (since_ms, away)

    def offline(self, user: str, client: str, *, stays_s: float) -> None:
        if not self.down and self.connections.get(user, {}).pop(client, None) is not None:
            self.last_seen[user] = int(1000 * time.time())

    async def written(self, channel: str, client: str) -> bool:
        return not self.down

    async def members(self, channel: str) -> Sequence[ClientInfo]:
        if self.down:
            raise Unavailable("presence is down")
        return list(self.members_of.get(channel, {}).values())

    async def stats(self, channel: str) -> PresenceStats:
        found = await self.members(channel)
        return PresenceStats(len(found), len({info.user for info in found}))

    async def stats_of(self, channels: Sequence[str]) -> list[PresenceStats]:
        return [await self.stats(channel) for channel in channels]

    async def page(self, channel: str, *, limit: int, cursor: str) -> MembersPage:
        found = sorted(await self.members(channel), key=lambda info: info.client)
        rest = [info for info in found if info.client > cursor]
        return MembersPage(rest[:limit], rest[limit - 1].client if len(rest) > limit else "")

    async def channels_of(self, user: str, *, limit: int, cursor: str) -> ChannelsPage:
        if self.down:
            raise Unavailable("presence is down")
        names = sorted(
            channel
            for channel, roster in self.members_of.items()
            if channel > cursor and any(info.user == user for info in roster.values())
        )
        return ChannelsPage(names[:limit], names[limit - 1] if len(names) > limit else "")

    async def online_of(self, users: Sequence[str]) -> list[UserOnline]:
        if self.down:
            raise Unavailable("presence is down")
        return [self._online(user) for user in users]

    def _online(self, user: str) -> UserOnline:
        found = self.connections.get(user)
        if not found:
            return UserOnline(0, False, 0, self.last_seen.get(user, 0))
        return UserOnline(
            len(found), all(away for _, away in found.values()), min(since for since, _ in found.values()), 0
        )


class MemoryTickets:
    """`Tickets` without time: each is good once."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self._numbers = itertools.count()

    async def issue(self, token: str, ttl_s: int) -> str:
        ticket = f"ticket-{next(self._numbers)}"
        self.kept[ticket] = token
        return ticket

    async def take(self, ticket: str) -> str | None:
        return self.kept.pop(ticket, None)
