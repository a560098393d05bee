"""What persistence does every second: compare Redis with the store, finish what a crash left, say how it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.domain.log import Log
from services.persistence.domain.other_store import OtherStoreFound
from services.persistence.domain.ports import Heartbeat, LogStore
from services.persistence.metrics import INCARNATIONS, SWEPT
from services.shared.errors import Unavailable
from services.shared.incarnation.calls import Incarnation
from services.shared.incarnation.gate import IncarnationGate

logger = logging.getLogger(__name__)

_SWEEP_AGE_S = 1.0
_SWEEP_LIMIT = 200
_TIDY_S = 10.0
_EDGES_LEAVE_S = 3.0  # for edges to leave, in an ordinary stop; one that died counts as there for 2 s
_LOOKS_AGAIN_S = 0.2
_AWAY_S = 0.1  # between looks while Redis or the store is away


class Maintenance:
    """Opens the gate to Redis, and sweeps. `ready` is what readiness says."""

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
        """`remake` is told why the store can't be used; it may make what is missing, and raises nothing."""
        self._remake = remake
        self._heartbeat, self._store, self._log, self._gate = heartbeat, store, log, gate
        self._every_s = every_s
        self._checks = {"redis": False, "store": False}
        self._said: dict[str, str] = {}  # why not, as it was logged last
        self._read: dict[str, int] = {}  # the highest counter that a store was seen to have, by its name
        self._is_new = True  # nothing was asked of Redis yet
        self._counted = Heartbeat(0, 0)  # the highest that Redis said: the store may not have been able to keep it

    def ready(self) -> dict[str, bool]:
        """By dependency."""
        return dict(self._checks)

    def stopping(self) -> None:
        """Not ready any more."""
        self._checks["stopping"] = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not await self._beat():
                await asyncio.sleep(_AWAY_S)
                continue
            await self._sweep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s * random.uniform(0.8, 1.2)):
                    await self._gate.refused.wait()
            self._gate.refused.clear()

    async def leave(self) -> None:
        """Behind `run`, in an ordinary stop: note what Redis has, for the next start to compare.

        Edges may be on their way out, or one has just died: both are waited for a little.
        """
        if self._gate.incarnation is None:
            return
        try:
            async with asyncio.timeout(_EDGES_LEAVE_S):
                while (left := await self._heartbeat.leave(self._counted)) is None:
                    await asyncio.sleep(_LOOKS_AGAIN_S)
            await self._store.keep_ending(*left)
        except TimeoutError:
            logger.info("edges are there still: what Redis has is not noted for the next start")
        except Unavailable as error:
            logger.info("it can't be noted what Redis has", extra={"error": str(error)})

    async def tidy(self) -> None:
        """Finish removals, until cancelled."""
        while True:
            await asyncio.sleep(_TIDY_S * random.uniform(0.8, 1.2))
            try:
                await self._log.tidy()
            except Unavailable as error:
                logger.warning("removed history can't be dropped now", extra={"error": str(error)})

    async def _beat(self) -> bool:
        """Read what is kept first: Redis has counted at least as far since, unless it lost something."""
        try:
            kept = await self._store.heartbeat()
            if self._is_new:
                ending = await self._store.take_ending(kept)
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
            result = await self._heartbeat.beat(kept, kept._replace(counter=counter, generation=generation))
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
            _tell(incarnation, kept)
        self._gate.open(incarnation, result.known)
        try:
            await self._store.keep_heartbeat(counted)
        except Unavailable as error:
            return self._failed("store", error)
        self._set("store", True)
        return True

    async def _is_older(self, count: int, kept: Heartbeat) -> bool:
        """Whether the store has not what it had kept before; what follows from it is begun."""
        self._read = {kept.store + kept.restored: max(count, kept.counter)}
        if count <= kept.counter:
            return False
        again = await self._store.heartbeat()  # others may have kept more since
        if again.counter >= count or (again.store, again.restored) != (kept.store, kept.restored):
            return False
        logger.error(
            "the store is older than it was: all `stored` channels get new epochs",
            extra={"counter": again.counter, "was": count},
        )
        await self._store.begin_anew(again._replace(counter=count))
        return True

    async def _sweep(self) -> None:
        try:
            SWEPT.inc(await self._log.sweep(_SWEEP_AGE_S, _SWEEP_LIMIT))
        except Unavailable as error:
            logger.warning("a sweep was not possible", extra={"error": str(error)})

    def _failed(self, check: str, error: Unavailable) -> bool:
        if self._said.get(check) != str(error):
            self._said[check] = str(error)
            logger.warning("not ready", extra={"check": check, "error": str(error)})
        self._checks[check] = False
        return False

    def _set(self, check: str, value: bool) -> None:
        self._checks[check] = value
        self._said.pop(check, None)


def _tell(incarnation: Incarnation, kept: Heartbeat) -> None:
    """Log what was found: an ordinary start is no warning."""
    found = {"generation": incarnation.generation, "kept_generation": kept.generation, "run_id": incarnation.run_id}
    if not kept.counter:
        logger.info("Redis and this store are used together for the first time", extra=found)
    elif incarnation.generation > kept.generation:
        logger.warning("Redis does not have what it had: logs of `hot` channels begin anew", extra=found)
    else:
        logger.info("Redis has what it had", extra=found)
