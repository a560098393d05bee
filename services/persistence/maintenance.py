"""Periodic work of persistence: heartbeat, gate to Redis, sweeps, readiness.

Purpose. Persistence keeps a counter outside Redis, in its store. With it, it decides whether Redis has lost anything,
and opens the gate in front of its connections to Redis. Every second it also finishes what crashed processes left in
`stored` channels.

Rules.

* One heartbeat has three steps: read the counter in the store, count up in Redis, keep the result in the store. In this
  order a Redis that lost nothing is always ahead of what was read, with any number of replicas.
* The highest counter that Redis returned is remembered beside the store's: the store may have failed to keep it.
* The gate opens for an incarnation that the heartbeat has judged. In a new run of Redis that is delayed by up to 4 s,
  until edges have said what they know of it; persistence is not ready meanwhile.
* A store with a lower counter than it is known to have kept is an older copy. All `stored` channels get new epochs.
* At an orderly stop, once no edge is connected (waited for 3 s at most), the store gets a note of what Redis has. With
  it the next start can tell that Redis lost nothing.

Example. The store has 41. Redis counts up to 42: it lost nothing, and the store keeps 42. A Redis restored from an
older copy counts up to 40: its counter is set to 42, the generation goes up, and `hot` channels start over.

Trade-offs. One read and one write of the store per second and replica. A loss that is younger than the last heartbeat
does not show in the counter; the data-loss fence of the edges is for that (see `services/shared/incarnation`). See
docs/decisions/0005, 0020, 0021 and 0022.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable

from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.domain.log import Log
from services.persistence.domain.other_store import OtherStoreFound
from services.persistence.domain.ports import Heartbeat, LogStore
from services.persistence.metrics import ERASURE_OLDEST, INCARNATIONS, SWEPT
from services.shared.errors import Unavailable
from services.shared.incarnation.calls import Incarnation
from services.shared.incarnation.gate import IncarnationGate

logger = logging.getLogger(__name__)

_SWEEP_AGE_S = 1.0  # seconds since a channel was marked: before, its batch may be under way
_SWEEP_LIMIT = 200  # channels of one sweep
_TIDY_S = 10.0  # seconds between looks for removals to finish
_EDGES_LEAVE_S = 3.0  # longest wait for edges to leave, seconds; one that died counts as there for 2 s
_EDGES_CHECK_S = 0.2  # seconds between checks whether edges have left
_AWAY_S = 0.1  # seconds between heartbeats while Redis or the store is away


class Maintenance:
    """Runs heartbeats and sweeps, opens the gate to Redis, reports readiness."""

    def __init__(
        self,
        heartbeat: RedisHeartbeat,
        store: LogStore,
        log: Log,
        gate: IncarnationGate,
        remake: Callable[[Unavailable], Awaitable[None]],
        *,
        every_s: float,
    ) -> None:
        """Create it; `run` and `tidy` do the work.

        `remake` gets the reason when the store can't be used, and may make what is missing; it raises nothing.
        `every_s`: seconds between heartbeats, varied by a fifth at random.
        """
        self._remake = remake
        self._heartbeat, self._store, self._log, self._gate = heartbeat, store, log, gate
        self._every_s = every_s
        self._checks = {"redis": False, "store": False}
        self._said: dict[str, str] = {}  # dependency → why it is not ready, as logged last
        self._read: dict[str, int] = {}  # name and mark of the store → highest counter that it is known to have kept
        self._is_new = True  # the note of the last orderly stop was not taken yet
        self._counted = Heartbeat(0, 0)  # highest that Redis returned: the store may have failed to keep it

    def ready(self) -> dict[str, bool]:
        """Readiness by dependency: Redis and the store."""
        return dict(self._checks)

    def stopping(self) -> None:
        """Report not ready from now on."""
        self._checks["stopping"] = False

    async def run(self) -> None:
        """Send heartbeats and sweep until cancelled.

        A connection that the gate refused makes it look at once.
        """
        while True:
            if not await self._send_heartbeat():
                await asyncio.sleep(_AWAY_S)
                continue
            await self._sweep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s * random.uniform(0.8, 1.2)):
                    await self._gate.refused.wait()
            self._gate.refused.clear()

    async def leave(self) -> None:
        """Note in the store what Redis has, at an orderly stop, after `run` has ended.

        The next start compares Redis with the note. Waits a little for edges that are leaving, or that died just now.
        If some stay, or Redis or the store can't be reached, nothing is noted.
        """
        if self._gate.incarnation is None:
            return
        try:
            async with asyncio.timeout(_EDGES_LEAVE_S):
                while (left := await self._heartbeat.close_run(self._counted)) is None:
                    await asyncio.sleep(_EDGES_CHECK_S)
            await self._store.keep_orderly_end(*left)
        except TimeoutError:
            logger.info("edges are there still: what Redis has is not noted for the next start")
        except Unavailable as error:
            logger.info("it can't be noted what Redis has", extra={"error": str(error)})

    async def tidy(self) -> None:
        """Finish removals of history about every 10 s, until cancelled.

        What they or erasures left in files of the store is deleted as often.
        """
        while True:
            await asyncio.sleep(_TIDY_S * random.uniform(0.8, 1.2))
            try:
                await self._log.tidy()
            except Unavailable as error:
                logger.warning("removed history can't be dropped now", extra={"error": str(error)})
            await self.scrub()

    async def scrub(self) -> None:
        """Delete what is left of erased content in files of the store, if there is any."""
        since = self._store.unscrubbed_since
        ERASURE_OLDEST.labels("store").set(0 if since is None else max(0.0, time.time() - since))
        if since is None:
            return
        try:
            if not await self._store.scrub():
                logger.info("erased content can't be scrubbed from the store now: it is in use")
        except Unavailable as error:
            logger.warning("erased content can't be scrubbed from the store now", extra={"error": str(error)})

    async def _send_heartbeat(self) -> bool:
        """Send one heartbeat; return whether Redis and the store can be used.

        The store is read first: Redis has counted at least as far since, unless it lost something.
        """
        try:
            kept = await self._store.heartbeat()
            if self._is_new:
                ending = await self._store.pop_orderly_end(kept)
                if ending is not None:
                    self._heartbeat.remember(ending)
                self._is_new = False
        except Unavailable as error:
            await self._remake(error)
            return self._failed("store", error)
        try:
            counter, generation = (
                max(kept.counter, self._counted.counter),
                max(kept.generation, self._counted.generation),
            )
            highest = kept._replace(counter=counter, generation=generation)
            self._heartbeat.saw(self._gate.known)
            result = await self._heartbeat.count_and_compare(kept, highest)
        except OtherStoreFound as error:
            self._gate.close()
            return self._failed("redis", error)
        except Unavailable as error:
            return self._failed("redis", error)
        try:
            if await self._is_older(max(result.count_of(kept), self._read.get(kept.store + kept.restored, 0)), kept):
                return self._failed("store", Unavailable("it is older than it was: its channels get new epochs"))
        except Unavailable as error:
            return self._failed("store", error)
        counted, incarnation = result.counted, result.incarnation
        if incarnation is None:
            why = "another run, or another replication id, of Redis: edges say what they know of it"
            return self._failed("redis", Unavailable(why))
        self._counted = counted
        self._set("redis", True)
        if self._gate.incarnation is None or self._gate.incarnation.token != incarnation.token:
            INCARNATIONS.inc()
            _log_verdict(incarnation, kept)
        self._gate.open(incarnation, result.known)
        try:
            await self._store.keep_heartbeat(counted)
        except Unavailable as error:
            return self._failed("store", error)
        self._set("store", True)
        return True

    async def _is_older(self, count: int, kept: Heartbeat) -> bool:
        """Whether the store is an older copy of itself.

        If it is, the epochs of all `stored` channels are changed here.
        """
        self._read = {kept.store + kept.restored: max(count, kept.counter)}
        if count <= kept.counter:
            return False
        again = await self._store.heartbeat()  # other replicas may have kept more since
        if again.counter >= count or (again.store, again.restored) != (kept.store, kept.restored):
            return False
        logger.error(
            "the store is older than it was: all `stored` channels get new epochs",
            extra={"counter": again.counter, "was": count},
        )
        await self._store.begin_new_epochs(again._replace(counter=count))
        return True

    async def _sweep(self) -> None:
        try:
            SWEPT.inc(await self._log.sweep(_SWEEP_AGE_S, _SWEEP_LIMIT))
        except Unavailable as error:
            logger.warning("a sweep was not possible", extra={"error": str(error)})

    def _failed(self, check: str, error: Unavailable) -> bool:
        """Note why a dependency can't be used, log a new reason, and return False."""
        if self._said.get(check) != str(error):
            self._said[check] = str(error)
            logger.warning("not ready", extra={"check": check, "error": str(error)})
        self._checks[check] = False
        return False

    def _set(self, check: str, value: bool) -> None:
        self._checks[check] = value
        self._said.pop(check, None)


def _log_verdict(incarnation: Incarnation, kept: Heartbeat) -> None:
    """Log what the heartbeat found; an ordinary start is no warning."""
    found = {"generation": incarnation.generation, "kept_generation": kept.generation, "run_id": incarnation.run_id}
    if not kept.counter:
        logger.info("Redis and this store are used together for the first time", extra=found)
    elif incarnation.generation > kept.generation:
        logger.warning("Redis does not have what it had: logs of `hot` channels start over", extra=found)
    else:
        logger.info("Redis has what it had", extra=found)
