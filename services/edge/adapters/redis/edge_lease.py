"""Leases of edges in Redis: which edges live, and when a dead one was last there.

**Purpose.** What an edge writes to Redis about its connections must not outlive it. An edge that is killed removes
nothing. So whatever is written names its edge, and readers look at the lease of that edge.

**Rules.**

1. An edge renews its lease every 5 s. The lease is good for 15 s from each renewal: two renewals may be lost.
2. The key holds the time of the last renewal and the end of the lease, both by the clock of Redis. So the clocks of
   hosts don't matter.
3. The key is kept for 10 min after the last renewal. So readers know when an edge that has died was last there. An edge
   without a key died longer ago, or never lived.
4. An edge that stops in order ends its lease, and the time of the end counts as its last renewal.
5. The id of an edge is new in each of its lives, so no other process renews its lease. The same one may renew it after
   it ran out: an edge that was frozen, or cut off from Redis, goes on where it was.

**Example.** An edge renews at 12:00:00 and is killed at 12:00:04. Until 12:00:15 others take it for alive. From then on
its connections count as ended at 12:00:00, until 12:10:00, when nothing is left of it.

**Trade-offs.** A dead edge is noticed after 10 to 15 s. There is one key for each edge, not one hash of all: keys end
by themselves, and nobody has to remove what dead edges leave.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.process.backoff import Backoff
from services.shared.process.log_limit import RateLimitedLog
from services.shared.redis.pipeline import RedisPipeline

LEASE_S = 15.0  # how long a lease is good after a renewal, seconds
RENEW_S = 5.0  # interval of renewals, seconds
KEPT_S = 600  # how long a lease is known after its last renewal, seconds
_TIMEOUT_S = 2.0  # longest wait for Redis, seconds
_PAUSE_S = (0.25, 2.0)  # first and longest pause after a renewal that failed, seconds
_QUIET_FAILURES = 3  # that are not logged: at the start, Redis may not be ready yet
_RENEW = load(Path(__file__).parent / "renew_lease.lua")
_not_renewed = RateLimitedLog(logging.getLogger(__name__), logging.WARNING, every_s=60.0)


class Lease(NamedTuple):
    """A lease as Redis has it; both times are Unix seconds by the clock of Redis."""

    renewed_at: float
    until: float

    def is_good(self, now: float) -> bool:
        """Return whether its edge counts as alive at `now`."""
        return now < self.until


class EdgeLeases:
    """The lease of this edge, and those of others. `edge` is the id of this edge."""

    def __init__(self, redis: RedisPipeline, edge: str) -> None:
        self.edge = edge
        self._redis = redis
        self._wake = asyncio.Event()
        self._good_until = float("-inf")  # by the clock of the event loop
        self._has_ended = False

    @property
    def is_held(self) -> bool:
        """Whether this edge holds its lease: others take it for alive."""
        return asyncio.get_running_loop().time() < self._good_until

    async def run(self) -> None:
        """Renew the lease every 5 s, sooner after a failure.

        Returns once the lease is ended.
        """
        backoff = Backoff(*_PAUSE_S)
        while not self._has_ended:
            try:
                await self.renew()
                backoff.reset()
                pause_s = RENEW_S
            except Unavailable as error:
                pause_s = backoff.next_s()
                if backoff.failures > _QUIET_FAILURES:
                    _not_renewed("the lease of this edge was not renewed", error=str(error))
            self._wake.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def renew_now(self) -> None:
        """Let `run` renew at once: Redis may have lost the lease."""
        self._wake.set()

    async def renew(self) -> float:
        """Renew the lease; return the time by the clock of Redis, Unix seconds.

        Raises:
            Unavailable: Redis did not answer, or refused. The lease may be renewed.
        """
        asked_at = asyncio.get_running_loop().time()
        renewed_at = await self._set(LEASE_S)
        if not self._has_ended:
            self._good_until = asked_at + LEASE_S
        return renewed_at

    async def end(self) -> None:
        """End the lease, because this edge has no connections any more and stops.

        Raises:
            Unavailable: Redis did not answer, or refused. Then the lease runs out.
        """
        self._has_ended = True
        self._good_until = float("-inf")
        self._wake.set()
        await self._set(0.0)

    async def read(self, edges: Collection[str]) -> dict[str, Lease]:
        """Return the leases of these edges, as far as they are known. One round trip.

        Raises:
            Unavailable: Redis did not answer, or refused.
        """
        if not edges:
            return {}
        replies = await self._redis.execute([("GET", keys.lease(edge)) for edge in edges], timeout_s=_TIMEOUT_S)
        found = {edge: _lease(raise_for_error(reply)) for edge, reply in zip(edges, replies, strict=True)}
        return {edge: lease for edge, lease in found.items() if lease is not None}

    async def _set(self, good_for_s: float) -> float:
        call = Call(_RENEW, [keys.lease(self.edge)], [round(good_for_s * 1000), KEPT_S])
        (reply,) = await self._redis.run([call], timeout_s=_TIMEOUT_S)
        return int(raise_for_error(reply)) / 1000


def _lease(text: bytes | None) -> Lease | None:
    """Read a lease; None if there is none, or nothing that this version can read."""
    if text is None:
        return None
    try:
        renewed_at, until = (int(word) / 1000 for word in bytes(text).split()[:2])
    except ValueError:
        return None
    return Lease(renewed_at, until)
