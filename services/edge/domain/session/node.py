"""All that the sessions of one edge share: settings, ports, maps of clients and users, and the clock."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.channels.hub import Hub
from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.channels.new_channels import NewChannels
from services.edge.domain.channels.publisher import Publisher
from services.edge.domain.ports import Broker, Presence, Store
from services.edge.domain.session.rpc import RpcMethods
from services.edge.domain.session.timers import GRANULE_S, Wheel
from services.edge.domain.session.turns import Turns
from services.edge.domain.settings import Settings
from services.shared.namespaces import Namespaces

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

logger = logging.getLogger(__name__)


class Clock:
    """The two clocks; tests bring their own. The wall clock is that of Redis once it is known, alike on every edge."""

    def __init__(self) -> None:
        self._offset: float | None = None  # Unix seconds less monotonic ones

    def monotonic(self) -> float:
        """Seconds; for deadlines."""
        return time.monotonic()

    def wall(self) -> float:
        """Unix seconds; for tokens and the time of publications."""
        return time.time() if self._offset is None else time.monotonic() + self._offset

    def monotonic_at(self, unix_s: float) -> float:
        """When it was, or will be, that time by the wall clock."""
        return unix_s - self.wall() + self.monotonic()

    def sync(self, unix_s: float) -> None:
        """What time it is now, as Redis says."""
        self._offset = unix_s - time.monotonic()


@dataclass(slots=True)
class Counters:
    """Counted by rules, read by metrics."""

    commands: dict[str, int] = field(default_factory=dict)
    errors: dict[int, int] = field(default_factory=dict)
    closes: dict[int, int] = field(default_factory=dict)
    recoveries: dict[str, int] = field(default_factory=dict)  # by outcome: recovered, not_recovered


class Node:
    """One edge. Owns no socket: sessions come and go through `add` and `remove`."""

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
        rpc: RpcMethods | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.edge_id = edge_id
        self.edge_name = edge_name or edge_id
        self.settings = settings
        self.namespaces = namespaces
        self.presence = presence
        self.verifier = verifier
        self.rpc = rpc or RpcMethods()
        self.clock = clock or Clock()
        self.rng = rng or random.Random()
        self.reader = LogReader(broker, store, settings)
        self.new_channels = NewChannels(self.reader, settings.new_channels_per_minute, self.clock.monotonic)
        self.publisher = Publisher(broker, store, namespaces, settings, self.clock.monotonic)
        self.broker = broker
        self.store = store
        self.hub = Hub(broker, self.reader, settings, self.spawn, self.clock.monotonic, self.clock.wall)
        self.wheel = Wheel(self.clock.monotonic())
        self.turns = Turns()  # of who is given much at a time
        self.counters = Counters()
        self.sessions: set[Session] = set()  # every open connection, also before and after its connect
        self.clients: dict[str, Session] = {}
        self.users: dict[str, dict[str, Session]] = {}
        self.started_at = self.clock.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that outlives its caller; `close` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background work failed", exc_info=error)

    def add(self, session: Session) -> None:
        """Known from now on to whatever is asked of its user or client id."""
        self.clients[session.client] = session
        self.users.setdefault(session.user, {})[session.client] = session

    def remove(self, session: Session) -> None:
        """Unknown: no effect."""
        if self.clients.pop(session.client, None) is None:
            return
        of_user = self.users[session.user]
        del of_user[session.client]
        if not of_user:
            del self.users[session.user]

    async def run(self) -> None:
        """Deadlines and housekeeping, until cancelled."""
        next_check = self.clock.monotonic() + self._next_check_s()
        while True:
            await asyncio.sleep(GRANULE_S)
            now = self.clock.monotonic()
            self.wheel.advance(now)
            self.publisher.admission.tick(now)
            self.hub.close_unused(now)
            if now >= next_check:
                next_check = now + self._next_check_s()
                self.hub.check_tops()

    async def close(self, timeout_s: float) -> None:
        """Let what is under way finish, then cancel what is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _next_check_s(self) -> float:
        return self.settings.top_check_s * self.rng.uniform(0.8, 1.2)
