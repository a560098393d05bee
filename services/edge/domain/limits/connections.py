"""Cap on the connections of one name, a user or an address, over all edges.

**Purpose.** A cap of 100 means 100, whichever edges the connections are on, also when many connect on several edges at
the same moment. What an edge that died has counted must not stay.

**Rules.**

1. Redis has for each name how many connections each edge holds. An edge tells its own number, never a change of it. So
   a call may be repeated, and one whose reply is lost does no harm.
2. A connection is admitted by a script that adds up the numbers of all edges and sets that of this edge, if the sum
   stays within the cap.
3. Of one name there is one call at a time. Connections that come meanwhile share the next one. An end is told at once,
   but nobody waits for it.
4. What an edge told counts as long as its lease (`SharedCounts` knows the leases). Leases are looked at only where
   somebody would be refused.
5. Without Redis an edge admits as many as the cap by itself. Once Redis is back it tells all its numbers. Those
   connections stay, even if they are more than the cap together; new ones are refused until there is room.
6. All numbers are told again every 200 s. So Redis may forget a name after 10 min, and what it has lost comes back.

**Example.** The cap is 3. Edge A holds 2 connections of ann and edge B none; two come to each edge. The first call to
reach Redis gets the place, the other three are refused.

**Trade-off.** Connecting takes a round trip to Redis. Without a cap there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from services.edge.domain.limits.ports import SharedCounts
from services.edge.domain.limits.refusals import LimitRefusals
from services.shared.errors import ThalamusError

REFRESH_S = 200.0  # how often all numbers are told again, seconds
TICK_S = 1.0  # how often `run` looks whether Redis is back, seconds
_FROZEN_S = 5.0  # if `run` was held up for so long, the lease may have run out meanwhile, seconds
_AT_ONCE = 256  # names that are told at the same time
_UNKNOWN = -1


class _Count:
    """Connections of one name on this edge."""

    __slots__ = ("open", "telling", "told", "waiting")

    def __init__(self) -> None:
        self.open = 0
        self.told = 0  # what Redis has of this edge
        self.telling = False
        self.waiting: list[asyncio.Future[bool]] = []


class ConnectionCap:
    """Connections by name.

    Args:
        shared: The numbers of all edges.
        limit: Name of the limit.
        cap: Most connections of one name; above 0.
        now: Monotonic seconds.
        spawn: Runs a coroutine as a background task.
        refusals: Counts what is refused.
    """

    def __init__(
        self,
        shared: SharedCounts,
        *,
        limit: str,
        cap: int,
        now: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        refusals: LimitRefusals,
    ) -> None:
        self._shared, self._limit, self._cap, self._now = shared, limit, cap, now
        self._spawn, self._refusals = spawn, refusals
        self._counts: dict[str, _Count] = {}
        self.is_behind = False  # whether Redis may have other numbers than this edge

    def __len__(self) -> int:
        """How many names this edge has connections of, or has something to tell of."""
        return len(self._counts)

    def held(self, name: str) -> int:
        """Return how many connections of the name this edge has admitted."""
        count = self._counts.get(name)
        return 0 if count is None else count.open

    async def enter(self, name: str) -> bool:
        """Count a connection, if the cap allows it; return whether it does.

        Every one that is counted must be followed by one call of `leave`.
        """
        count = self._counts.setdefault(name, _Count())
        admitted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        count.waiting.append(admitted)
        self._tell(name, count)
        if await admitted:
            return True
        self._refusals.count(self._limit)
        return False

    def leave(self, name: str) -> None:
        """Stop counting a connection."""
        count = self._counts[name]
        count.open -= 1
        self._tell(name, count)

    def tell_again(self) -> None:
        """Tell all numbers again: Redis may have lost some."""
        self.is_behind = True

    async def run(self) -> None:
        """Tell Redis what it may not know, until cancelled."""
        looked_at = refreshed_at = self._now()
        while True:
            await asyncio.sleep(TICK_S)
            now = self._now()
            if now - looked_at > _FROZEN_S or not self._shared.is_available:
                self.is_behind = True
            looked_at = now
            if self._shared.is_available and (self.is_behind or now - refreshed_at >= REFRESH_S):
                refreshed_at, self.is_behind = now, False
                await self._tell_all()

    async def _tell_all(self) -> None:
        names = list(self._counts)
        for start in range(0, len(names), _AT_ONCE):
            for name in names[start : start + _AT_ONCE]:
                if (count := self._counts.get(name)) is not None:
                    count.told = _UNKNOWN
                    self._tell(name, count)
            await asyncio.sleep(0.01)  # seconds; others have their turn

    def _tell(self, name: str, count: _Count) -> None:
        if not count.telling:
            count.telling = True
            self._spawn(self._tell_now(name, count))

    async def _tell_now(self, name: str, count: _Count) -> None:
        """Tell Redis the number, and admit who waits, until there is nothing more to tell."""
        known = True
        try:
            while count.waiting or (known and count.open != count.told):
                asking, count.waiting = count.waiting, []
                held = count.open
                try:
                    own = await self._shared.count(self._limit, name, held=held, wanted=len(asking), cap=self._cap)
                    count.told, known = own, True
                except ThalamusError:
                    count.told, known, self.is_behind = _UNKNOWN, False, True
                    own = max(held, min(held + len(asking), self._cap))
                for place, admitted in enumerate(asking):
                    if not admitted.done():  # else its caller has given up
                        count.open += place < own - held
                        admitted.set_result(place < own - held)
        finally:
            count.telling = False
            if not count.open and not count.told and not count.waiting:
                self._counts.pop(name, None)
