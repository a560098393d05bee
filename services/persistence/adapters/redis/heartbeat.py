"""Heartbeat in Redis: counts up, checks the server, and judges its present run.

The rules stand in `services/shared/incarnation`, the order of steps in `services/persistence/maintenance.py`.
"""

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

TIMEOUT_S = 2.0  # longest heartbeat, seconds
WAITS_S = 4.0  # longest wait for edges in a new run, seconds; then `hot` logs start over


class HeartbeatResult(NamedTuple):
    """Result of one heartbeat.

    `counted`: what the store should keep now.
    `incarnation`: None while the heartbeat waits for edges that watched this run of Redis.
    `was_kept`: "<store> <counter>", which that store had kept before, as Redis knows it.
    """

    counted: Heartbeat
    incarnation: Incarnation | None
    known: Known
    was_kept: str

    def count_of(self, kept: Heartbeat) -> int:
        """Counter that this store is known to have kept; 0: nothing is known of it."""
        name, _, count = self.was_kept.partition(" ")
        return int(count) if name == kept.store + kept.restored and count.isdigit() else 0


class RedisHeartbeat:
    """Sends the heartbeat over a connection of its own.

    Only this connection is used in an incarnation that nobody has judged yet.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_time: Callable[[float], None] = lambda unix_s: None,
    ) -> None:
        """Create it; connects when it is used.

        `clock`: monotonic seconds. `on_time` gets the Unix time of Redis with every heartbeat.
        """
        self._url = url
        self._watch = RunTracker()
        self._redis = RedisPipeline(url, gate=self._watch)
        self._clock, self._on_time = clock, on_time
        self._neighbours = Neighbours(url, clock=clock)
        self._other = OtherStore()
        self._mine = ""  # name of our store, as of the last heartbeat
        self._checked = ""  # run id of the server that was checked; "": none
        self._known = Known()
        self._waits_since: float | None = None

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    async def count_and_compare(self, kept: Heartbeat, highest: Heartbeat | None = None) -> HeartbeatResult:
        """Count up in Redis, compared with what the store has and with the highest known.

        Raises:
            Unavailable: no reply, or the server changed meanwhile.
            OtherStoreFound: Redis was used with another store, which may be in use; nothing was done.
            ConfigError: the server is too old, refuses the password, or is in use with another store.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._count_and_compare(kept, highest or kept)
        except TimeoutError as error:
            self._checked = ""
            raise Unavailable(f"Redis does not answer: nothing in {TIMEOUT_S:g} s") from error
        except Unavailable:
            self._checked = ""
            raise

    def remember(self, known: Known) -> None:
        """Take over the note of the last orderly stop: all that Redis had, without edges."""
        self._known = known

    def saw(self, known: Known) -> None:
        """Take over what else this process has seen of Redis since the last heartbeat."""
        if known.generation == self._known.generation and known.writes > self._known.writes:
            self._known = self._known._replace(writes=known.writes)

    async def close_run(self, counted: Heartbeat) -> tuple[Heartbeat, Known] | None:
        """Close this run of Redis in order; return what the store should keep.

        None if edges are still there, or if this is not the Redis that was judged: then nothing was done.

        Raises:
            Unavailable: no reply.
        """
        known = self._known
        if known.generation != counted.generation:
            return None
        (reply,) = await self._redis.run([incarnation.orderly_end_call(counted.counter, known)], timeout_s=TIMEOUT_S)
        left = incarnation.orderly_end_result(reply, known.generation)
        return (counted._replace(counter=left[0]), left[1]) if left else None

    async def _count_and_compare(self, kept: Heartbeat, highest: Heartbeat) -> HeartbeatResult:
        if not self._checked:
            await self._check()
        (time_,) = await self._redis.execute([("TIME",)], timeout_s=TIMEOUT_S)  # connects, so the run id is known
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
        """Run the heartbeat script; it waits for edges for 4 s at most."""
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
        (reply,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        return incarnation.heartbeat_result(reply)

    async def _check(self) -> None:
        """Check that the server can be used, and remember its run id."""
        async with redis_client(self._url, max_connections=1) as client:
            self._checked = (await check_server(client)).run_id
