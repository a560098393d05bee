"""The caps on connections of an edge: per user, and per address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

from services.edge.domain.limits.connections import ConnectionCap
from services.edge.domain.limits.ports import SharedCounts
from services.edge.domain.limits.refusals import CONNECTIONS_PER_ADDRESS, CONNECTIONS_PER_USER, LimitRefusals
from services.edge.domain.settings import Settings
from services.shared.addresses import network_of


class Counted(NamedTuple):
    """A name under which a connection counts, and the cap that it counts towards."""

    cap: ConnectionCap
    name: str


class ConnectionCaps:
    """The caps that are set. Without `shared` there are none over the cluster."""

    def __init__(
        self,
        shared: SharedCounts | None,
        settings: Settings,
        now: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        refusals: LimitRefusals,
    ) -> None:
        def made(limit: str, cap: int) -> ConnectionCap | None:
            if shared is None or not cap:
                return None
            return ConnectionCap(shared, limit=limit, cap=cap, now=now, spawn=spawn, refusals=refusals)

        self.per_user = made(CONNECTIONS_PER_USER, settings.connections_per_user)
        self.per_address = made(CONNECTIONS_PER_ADDRESS, settings.connections_per_address)

    def of(self, user: str, address: str) -> Iterator[Counted]:
        """Return what a connection counts towards; an anonymous user ("") has no cap."""
        if self.per_user is not None and user:
            yield Counted(self.per_user, user)
        if self.per_address is not None:
            yield Counted(self.per_address, network_of(address))

    def tell_again(self) -> None:
        """Tell all numbers again: Redis may have lost some."""
        for cap in (self.per_user, self.per_address):
            if cap is not None:
                cap.tell_again()

    async def run(self) -> None:
        """Run what keeps the numbers in Redis right, until cancelled."""
        await asyncio.gather(*(cap.run() for cap in (self.per_user, self.per_address) if cap is not None))
