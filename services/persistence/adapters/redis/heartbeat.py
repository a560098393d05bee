"""The counter in Redis that the store keeps too, and what Redis is told of its own life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from services.persistence.adapters.redis.neighbours import Neighbours
from services.persistence.domain.other_store import OtherStore, OtherStoreFound
from services.persistence.domain.ports import Heartbeat
from services.shared.errors import Unavailable
from services.shared.hotlog.scripts import raise_for_error
from services.shared.incarnation import calls as incarnation
from services.shared.incarnation.calls import ForeignStore, HeartbeatReply, Incarnation, Known
from services.shared.incarnation.gate import RunTracker
from services.shared.redis.client import check_server, redis_client
from services.shared.redis.pipeline import RedisPipeline

TIMEOUT_S = 2.0
WAITS_S = 4.0  # for edges, in a new run of Redis, before nobody can tell what it lacks


class HeartbeatResult(NamedTuple):
    """What to keep now, and what is said of this run of Redis; None: it waits for edges that have been watching it.

    `was_kept`: "<name of a store> <counter>", which that store had kept before.
    """

    counted: Heartbeat
    incarnation: Incarnation | None
    known: Known
    was_kept: str

    def count_of(self, kept: Heartbeat) -> int:
        """The counter that this store had kept before, as Redis and edges have it; 0: they know nothing of it."""
        name, _, count = self.was_kept.partition(" ")
        return int(count) if name == kept.store + kept.restored and count.isdigit() else 0


class RedisHeartbeat:
    """A connection of its own: it is the one that looks at lives nobody has spoken of yet."""

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_time: Callable[[float], None] = lambda unix_s: None,
    ) -> None:
        """`on_time` hears the clock of Redis with every beat."""
        self._url = url
        self._watch = RunTracker()
        self._redis = RedisPipeline(url, gate=self._watch)
        self._clock, self._on_time = clock, on_time
        self._neighbours = Neighbours(url, clock=clock)
        self._other = OtherStore()
        self._mine = ""  # name of the store that was compared last
        self._checked = ""  # run id of the server that was found to be one that we can use
        self._known = Known()
        self._waits_since: float | None = None

    async def close(self) -> None:
        """End the connection."""
        await self._redis.aclose()

    async def beat(self, kept: Heartbeat, highest: Heartbeat | None = None) -> HeartbeatResult:
        """Count on, compared with what is kept, and with the highest numbers that are known.

        Raises:
            Unavailable: no answer, or the server went while it was asked.
            OtherStoreFound: it has been another store's until now, which may be in use: nothing was done.
            ConfigError: it is too old, refuses our password, or another store is in use there.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._beat(kept, highest or kept)
        except TimeoutError as error:
            self._checked = ""
            raise Unavailable(f"Redis does not answer: nothing in {TIMEOUT_S:g} s") from error
        except Unavailable:
            self._checked = ""
            raise

    def remember(self, known: Known) -> None:
        """This is what Redis had when persistence ended in order, and no edge was there."""
        self._known = known

    async def leave(self, counted: Heartbeat) -> tuple[Heartbeat, Known] | None:
        """End in order: what to keep, and all that Redis had; None: edges are there still.

        Raises:
            Unavailable: no answer.
        """
        known = self._known
        if known.generation != counted.generation:
            return None
        (answer,) = await self._redis.run([incarnation.orderly_end_call(counted.counter, known)], timeout_s=TIMEOUT_S)
        left = incarnation.orderly_end_result(answer, known.generation)
        return (counted._replace(counter=left[0]), left[1]) if left else None

    async def _beat(self, kept: Heartbeat, highest: Heartbeat) -> HeartbeatResult:
        if not self._checked:
            await self._check()
        (time_,) = await self._redis.execute([("TIME",)], timeout_s=TIMEOUT_S)  # connects: its run is known then
        seconds, microseconds = raise_for_error(time_)
        self._on_time(int(seconds) + int(microseconds) / 1e6)
        if self._watch.run_id != self._checked:
            await self._check()
        await self._neighbours.check(highest)
        counted = await self._compare(kept, highest)
        if isinstance(counted, ForeignStore):
            if counted.store != self._mine and not self._other.may_be_replaced(*counted, self._clock()):
                raise OtherStoreFound("Redis was used with another store; waiting whether it still is")
            counted = await self._compare(kept, highest, replaces=counted.store)
            if isinstance(counted, ForeignStore):
                raise OtherStoreFound("Redis is used with another store")
        self._other.forget()
        self._mine = kept.store
        if counted.incarnation is not None:
            self._known, self._waits_since = counted.known, None
        to_keep = kept._replace(counter=counted.counter, generation=counted.generation)
        return HeartbeatResult(to_keep, counted.incarnation, counted.known, counted.was_kept)

    async def _compare(
        self, kept: Heartbeat, highest: Heartbeat, *, replaces: str = ""
    ) -> HeartbeatReply | ForeignStore:
        if self._waits_since is None:
            self._waits_since = self._clock()
        call = incarnation.heartbeat_call(
            highest.counter,
            highest.generation,
            self._known,
            kept=kept.counter,
            store=kept.store,
            restored=kept.restored,
            replaces=replaces,
            waits=self._clock() - self._waits_since < WAITS_S,
        )
        (answer,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        return incarnation.heartbeat_result(answer)

    async def _check(self) -> None:
        async with redis_client(self._url, max_connections=1) as client:
            self._checked = (await check_server(client)).run_id
