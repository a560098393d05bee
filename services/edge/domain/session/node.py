"""State that all sessions of an edge share: settings, adapters, clients, clock."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.edge.domain.access.command_tokens import CommandTokens
from services.edge.domain.access.revocations import Revocations
from services.edge.domain.access.stored_grants import StoredGrants
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.channels.hub import Hub
from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.channels.new_channels import NewChannels
from services.edge.domain.channels.publisher import Publisher
from services.edge.domain.chat.ports import Chat, NoChat
from services.edge.domain.conversations.limits import ChatLimits
from services.edge.domain.hooks.hooks import Hooks
from services.edge.domain.limits.connection_caps import ConnectionCaps
from services.edge.domain.limits.ports import SharedCounts, SharedRates
from services.edge.domain.limits.publishes import PublishLimit
from services.edge.domain.limits.refusals import LimitRefusals
from services.edge.domain.newcomers import Newcomers
from services.edge.domain.ports import Broker, GrantStore, SessionTable, Store
from services.edge.domain.presence_ports import Presence
from services.edge.domain.profiles.announcer import Memberships, NoMemberships, Outlets, ProfileAnnouncer
from services.edge.domain.profiles.reader import ProfileReader, ProfileSource
from services.edge.domain.resume import Resume
from services.edge.domain.session.rpc import RpcMethods
from services.edge.domain.session.timers import GRANULE_S, Wheel
from services.edge.domain.session.turns import Turns
from services.edge.domain.settings import Settings
from services.shared.namespaces import Namespace, Namespaces
from services.shared.redis.clock import RedisClock

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

logger = logging.getLogger(__name__)


class Clock:
    """Monotonic clock and wall clock of an edge; tests pass in their own.

    The wall clock follows the clock of Redis once it is known, so all edges have the same time.
    """

    def __init__(self) -> None:
        self._redis = RedisClock()

    def monotonic(self) -> float:
        """Return monotonic seconds, for deadlines."""
        return time.monotonic()

    def wall(self) -> float:
        """Return Unix seconds, for tokens and the times of publications."""
        return self._redis()

    def monotonic_at(self, unix_s: float) -> float:
        """Convert a time of the wall clock (Unix seconds) to monotonic seconds."""
        return unix_s - self.wall() + self.monotonic()

    def sync(self, unix_s: float) -> None:
        """Set the wall clock to the time that Redis has now, in Unix seconds."""
        self._redis.sync(unix_s)


@dataclass(slots=True)
class Counters:
    """Counters of the domain, read by the metrics."""

    commands: dict[str, int] = field(default_factory=dict)  # by kind
    errors: dict[int, int] = field(default_factory=dict)  # by error code
    closes: dict[int, int] = field(default_factory=dict)  # by close code
    recoveries: dict[str, int] = field(default_factory=dict)  # by outcome: recovered, not_recovered
    limited: LimitRefusals = field(default_factory=LimitRefusals)


class Node:
    """One edge without its sockets: the state of all sessions, and background work."""

    def __init__(
        self,
        *,
        edge_id: str,
        edge_name: str = "",
        settings: Settings,
        namespaces: Namespaces,
        broker: Broker,
        store: Store,
        presence: Presence,
        verifier: TokenVerifier,
        revocations: Revocations | None = None,
        session_table: SessionTable | None = None,  # None: nobody resumes
        chat: Chat | None = None,  # None: there are no conversations
        grants: GrantStore | None = None,
        profiles: ProfileSource | None = None,  # None: nobody has one
        memberships: Memberships | None = None,  # None: nobody is told of changed profiles
        rpc: RpcMethods | None = None,
        hooks: Hooks | None = None,  # those that marked the namespaces; None: there are none
        rates: SharedRates | None = None,  # None: no limit of publications
        counts: SharedCounts | None = None,  # None: connections are counted on this edge alone
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.edge_id = edge_id
        self.edge_name = edge_name or edge_id
        self.settings = settings
        self.namespaces = namespaces
        self.presence = presence
        self.verifier = verifier
        self.revocations = revocations if revocations is not None else Revocations()  # those of the verifier
        self.rpc = rpc or RpcMethods()
        self.hooks = hooks or Hooks()
        self.clock = clock or Clock()
        self.rng = rng or random.Random()
        self.grants = StoredGrants(grants, self.clock.monotonic, self.clock.wall)
        self.profiles = ProfileReader(profiles, self.clock.monotonic, self.revocations.is_disabled)
        self.command_tokens = CommandTokens(verifier, self.revocations, self.clock.wall)
        self.resume = Resume(session_table, self.revocations, self.clock.wall, settings.resume_s)
        self.newcomers = Newcomers(self.clock.monotonic)
        self.reader = LogReader(broker, store, settings)
        self.new_channels = NewChannels(self.reader, settings.new_channels_per_minute, self.clock.monotonic)
        self.chat: Chat = chat or NoChat()
        self.publisher = Publisher(broker, store, namespaces, settings, self.clock.monotonic, chat=self.chat)
        self.broker = broker
        self.store = store
        self.hub = Hub(broker, self.reader, settings, self.spawn, self.clock.monotonic, self.clock.wall)
        self.wheel = Wheel(self.clock.monotonic())
        self.turns = Turns()  # for sending much to one client
        self.counters = Counters()
        self.publish_limit = (
            PublishLimit(
                rates,
                rate=settings.publishes_per_user_per_s,
                now=self.clock.monotonic,
                spawn=self.spawn,
                refusals=self.counters.limited,
            )
            if rates is not None and settings.publishes_per_user_per_s
            else None
        )
        self.chat_limits = ChatLimits(
            rates, settings, now=self.clock.monotonic, spawn=self.spawn, refusals=self.counters.limited
        )
        self.connection_caps = ConnectionCaps(counts, settings, self.clock.monotonic, self.spawn, self.counters.limited)
        self.sessions: set[Session] = set()  # every open connection, connected or not
        self.clients: dict[str, Session] = {}  # by client id, from the connect command on
        self.users: dict[str, dict[str, Session]] = {}  # by user and client id
        self.announcer = ProfileAnnouncer(
            channels=self.hub.channels,
            users=self.users,
            memberships=memberships or NoMemberships(),
            outlets=Outlets(self.hub.tell, self._tell_everywhere),
            is_disabled=self.revocations.is_disabled,
            now=self.clock.monotonic,
        )
        self.profiles.on_changed = self.announcer.changed
        self.started_at = self.clock.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], *, context: Context | None = None) -> asyncio.Task[None]:
        """Run a coroutine as a background task; `close` waits for it.

        `context`: the context of its context variables; None: a copy of the caller's.
        """
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _tell_everywhere(self, channels: Sequence[tuple[str, Namespace]], data: bytes) -> None:
        """Publish an ephemeral event in some channels, in the background."""

        async def publish() -> None:
            await asyncio.gather(*(self.publisher.publish_ephemeral(*channel, data) for channel in channels))

        self.spawn(publish())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background work failed", exc_info=error)

    def add(self, session: Session) -> None:
        """Register a session, so that it is found by its client id and its user."""
        self.clients[session.client] = session
        self.users.setdefault(session.user, {})[session.client] = session

    def remove(self, session: Session) -> None:
        """Remove a session from `clients` and `users`; no effect if it is not there."""
        if self.clients.pop(session.client, None) is None:
            return
        for cap, name in session.counted:
            cap.leave(name)
        session.counted = ()
        of_user = self.users[session.user]
        del of_user[session.client]
        if not of_user:
            del self.users[session.user]

    async def run(self) -> None:
        """Run deadlines and housekeeping every 0.5 s, until cancelled."""
        next_check = self.clock.monotonic() + self._next_check_s()
        while True:
            await asyncio.sleep(GRANULE_S)
            now = self.clock.monotonic()
            self.wheel.advance(now)
            self.publisher.admission.tick(now)
            self.hub.close_unused(now)
            self.hub.presence_events.tick(now)
            if now >= next_check:
                next_check = now + self._next_check_s()
                self.hub.check_tops()

    async def close(self, timeout_s: float) -> None:
        """Wait for background tasks, `timeout_s` seconds at most; then cancel the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _next_check_s(self) -> float:
        return self.settings.top_check_s * self.rng.uniform(0.8, 1.2)
