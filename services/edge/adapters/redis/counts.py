"""Counts of connections in Redis: `SharedCounts`, by the leases of edges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.edge.adapters.redis.edge_lease import EdgeLeases
from services.edge.adapters.redis.limit_calls import LimitCalls
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load

KEPT_S = 600  # how long a name is kept after it was told last, seconds
_COUNT = load(Path(__file__).parent / "count_connections.lua")


class RedisCounts:
    """Implements `SharedCounts`, see domain/limits/ports.py.

    `clock` is that of Redis, Unix seconds.
    """

    def __init__(self, calls: LimitCalls, leases: EdgeLeases, clock: Callable[[], float]) -> None:
        self._calls, self._leases, self._clock = calls, leases, clock

    @property
    def is_available(self) -> bool:
        return self._leases.is_held and not self._calls.is_away

    async def count(self, limit: str, name: str, *, held: int, wanted: int, cap: int) -> int:
        if not self._leases.is_held:
            raise Unavailable("this edge has no lease: what it tells would not count")
        own, *others = await self._call(limit, name, held, wanted, cap)
        if own < held + wanted and others and (dead := await self._dead(others)):
            own, *_ = await self._call(limit, name, int(own), held + wanted - int(own), cap, *dead)
        return int(own)

    async def _call(self, limit: str, name: str, *arguments: int | str) -> list[Any]:
        held, wanted, cap, *dead = arguments
        call = Call(_COUNT, [keys.limit(limit, name)], [self._leases.edge, held, wanted, cap, KEPT_S * 1_000, *dead])
        found: list[Any] = await self._calls.run(call)
        return found

    async def _dead(self, others: list[bytes]) -> list[str]:
        """Return those of the edges that have no good lease."""
        edges = [other.decode() for other in others]
        leases = await self._leases.read(edges)
        now = self._clock()
        return [edge for edge in edges if edge not in leases or not leases[edge].is_good(now)]
