"""Calls of limits to Redis: short, batched, few while Redis is away.

**Purpose.** A limit asks Redis on the way of a command or a request. It must not hold them up for long if Redis does
not answer: then it decides by itself.

**Rules.**

* Calls of one tick of the event loop leave in one round trip; on a busy edge, those of up to 5 ms. A call takes 0.5 s
  at most.
* Once a round trip has failed, calls fail at once. One question every 0.25 s asks whether Redis is back, and nobody
  waits for it.
* A Redis that refuses (out of memory, no permission, read only) counts as away, too. Only a call can tell whether it
  still does, so every 0.25 s calls go out again until one is refused.
* Nothing is repeated. A call whose reply is lost may have been executed.

**Example.** Redis stops. The calls that are under way wait for 0.5 s and fail. All later ones fail at once, until 0.25
to 0.75 s after Redis is back.

**Trade-off.** They are not in the batches of `broker`: those wait for up to 2.8 s, and are sent again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge
from redis import exceptions

from services.shared.batching.batcher import Batcher
from services.shared.batching.linger import Linger
from services.shared.errors import Unavailable
from services.shared.hotlog.scripts import Call, raise_for_error
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)

TIMEOUT_S = 0.5  # longest wait for Redis, seconds
PROBE_S = 0.25  # between two questions whether Redis is back, seconds
_LINGER_S = 0.005  # longest wait of a busy edge for more calls, seconds; who connects or calls the API waits with them
_MAX_BATCH = 256  # calls in a round trip: with 10 µs each they block Redis for a few milliseconds
_MAX_WAITING = 20_000
_IN_FLIGHT = 4  # round trips at the same time
_LOCAL = Gauge(
    "thalamus_edge_limits_local", "Whether limits of the cluster are kept by each edge alone, without Redis."
)


@dataclass(slots=True, eq=False)
class _Waiting:
    call: Call
    future: asyncio.Future[Any]


class LimitCalls:
    """Script calls of the limits of one edge. Needs a running event loop."""

    def __init__(self, redis: RedisPipeline) -> None:
        self._redis = redis
        self._queue = Batcher[_Waiting](
            self._flush,
            max_items=_MAX_BATCH,
            max_waiting=_MAX_WAITING,
            deadline_s=TIMEOUT_S,
            late=lambda: Unavailable("Redis did not answer in time"),
            linger=Linger(_LINGER_S),
        )
        self._tasks: set[asyncio.Task[None]] = set()  # round trips in flight
        self._probing: asyncio.Task[None] | None = None
        self.is_away = False  # whether calls fail at once
        self._is_local = False  # whether no call has succeeded since one failed

    async def run(self, call: Call) -> Any:
        """Run a script and return its result.

        Raises:
            Unavailable: Redis is away, or refuses the call; the script may have run.
            Busy: too many calls wait.
        """
        if self.is_away:
            raise Unavailable("Redis does not answer")
        waiting = _Waiting(call, asyncio.get_running_loop().create_future())
        self._queue.put(waiting)
        return raise_for_error(await waiting.future)

    async def close(self) -> None:
        """End all calls with `Unavailable`."""
        self.is_away = True
        if self._probing is not None:
            await end_task(self._probing)
        self._queue.close(lambda: Unavailable("the edge ends"))
        for task in list(self._tasks):
            await end_task(task)

    def _flush(self) -> None:
        while len(self._tasks) < _IN_FLIGHT and (batch := self._queue.take()):
            task = asyncio.get_running_loop().create_task(self._round_trip(batch))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._queue.wake()

    async def _round_trip(self, batch: list[_Waiting]) -> None:
        try:
            results = await self._redis.run([waiting.call for waiting in batch], timeout_s=TIMEOUT_S)
        except Unavailable as error:
            self._gone(error)
            results = [error] * len(batch)
        else:
            refusals = [result for result in results if _is_refusal(result)]
            if refusals:
                self._gone(refusals[0])
            else:
                self._back()
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, Unavailable):
                waiting.future.set_exception(Unavailable(str(result)))
            else:
                waiting.future.set_result(result)

    def _gone(self, error: Exception) -> None:
        if self.is_away:
            return
        self.is_away = True
        if not self._is_local:
            self._is_local = True
            _LOCAL.set(1)
            logger.warning("limits are kept by this edge alone, without Redis", extra={"error": str(error)[:200]})
        self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        """Ask until Redis answers."""
        while True:
            await asyncio.sleep(PROBE_S)
            try:
                await self._redis.execute([("TIME",)], timeout_s=TIMEOUT_S)
            except Unavailable:
                continue
            self.is_away = False
            return

    def _back(self) -> None:
        """Note that a call has succeeded."""
        if self._is_local and not self.is_away:
            self._is_local = False
            _LOCAL.set(0)
            logger.info("limits are kept by all edges together again")


def _is_refusal(result: Any) -> bool:
    """Return whether Redis refuses calls.

    A key that holds something else concerns nobody but its name.
    """
    return isinstance(result, exceptions.RedisError) and not str(result).startswith("WRONGTYPE")
