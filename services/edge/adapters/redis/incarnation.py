"""Which life of Redis this edge may use: opened by what persistence found, checked against what this edge has seen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from services.edge.adapters import publication_codec as codec
from services.edge.adapters.redis.acknowledged import AcknowledgedPosition, AcknowledgedPositions
from services.shared.errors import Unavailable
from services.shared.hotlog import hotlog, keys
from services.shared.incarnation import calls
from services.shared.incarnation.calls import CheckReply, Incarnation, Known
from services.shared.incarnation.gate import IncarnationGate, RunTracker
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0
EVERY_S = 0.5  # a generation that begins without a restart of Redis is noticed within this
AWAY_S = 0.1
ALONE_S = 6.0  # persistence has said nothing for so long: a new generation is always right
_CHECKED_AT_ONCE = 500
_FAREWELL_S = 0.5


class IncarnationWatch:
    """Keeps the gate. A connection of its own, that looks at lives nobody may use yet."""

    def __init__(
        self,
        url: str,
        gate: IncarnationGate,
        acknowledged: AcknowledgedPositions,
        *,
        on_change: Callable[[], None],
        on_time: Callable[[float], None],
        on_run: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        """`on_change`: logs may have begun anew without a sign on the pub/sub connection; `on_time`: Unix seconds.

        `on_run`: this is the run of the server to which commands go from now on.
        """
        self._watch = RunTracker()
        self._redis = RedisPipeline(url, gate=self._watch)
        self._gate, self._acknowledged, self._on_change, self._on_time = gate, acknowledged, on_change, on_time
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None
        self._name = os.urandom(6).hex()  # of this edge, among those that watch Redis
        self._was_kept = ""  # what the store had kept, as it was heard of last
        self._run_id = ""  # seen last
        self._said = ""  # why Redis could not be asked, as it was logged last
        self._since = 0.0  # monotonic seconds since when it is seen
        self._checked = ""  # token of the life that the receipts agree with

    async def start(self) -> None:
        """Look in the background."""
        self._task = asyncio.create_task(self._keep())

    async def watch(self) -> None:
        """Until cancelled.

        Raises:
            ConfigError: it is a Redis that can't be used.
        """
        assert self._task is not None
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            await end_task(self._task)
        with contextlib.suppress(Unavailable):  # what this edge acknowledged, others have seen by the next restart
            await self._redis.execute([("HDEL", keys.observers(), self._name)], timeout_s=_FAREWELL_S)
        await self._redis.aclose()

    def look_now(self) -> None:
        """Something does not fit: a log of a later generation, or a channel that was not compared."""
        self._gate.refused.set()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._step(loop.time())
            except Unavailable as error:
                if repr(error) != self._said:
                    self._said = repr(error)
                    logger.warning("Redis does not say which life this is", extra={"error": self._said})
                away = True
            else:
                self._said = ""
                away = not self._gate.is_open
            if away:  # receipts are kept: it may come back without what they are for
                await asyncio.sleep(AWAY_S)
                continue
            self._acknowledged.turn(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._gate.refused.wait()
            self._gate.refused.clear()

    async def _step(self, now: float) -> None:
        look = await self._look()
        run_id, incarnation = look.run_id, look.incarnation
        self._on_time(look.at_ms / 1000)
        if run_id != self._run_id:
            self._run_id, self._since = run_id, now
            self._on_run(run_id)
        if self._gate.incarnation is not None and self._gate.incarnation.run_id != run_id:
            self._gate.close()
        if look.missing:
            logger.error("Redis went back behind what this edge has seen: `hot` logs begin anew")
        if incarnation is None or incarnation.run_id != run_id:
            if now - self._since < ALONE_S:
                return
            logger.warning("nobody compares Redis with the store: `hot` logs begin anew")
            incarnation = await self._renew(
                run_id, max(self._gate.last_generation, incarnation.generation if incarnation else 0), True
            )
        elif incarnation.token != self._checked and not await self._holds(incarnation):
            logger.error("Redis lost what this edge has seen: `hot` logs begin anew")
            incarnation = await self._renew(run_id, incarnation.generation, False)
        self._checked = incarnation.token
        if not 0 < incarnation.open_at_ms - look.at_ms <= calls.PAUSE_MS:  # longer can't be meant: its clock was set
            changed = self._gate.incarnation is None or self._gate.incarnation.token != incarnation.token
            self._gate.open(incarnation, Known(incarnation.generation, look.writes, look.at_ms))
            if changed:
                self._on_change()

    async def _look(self) -> CheckReply:
        """What is said of this run of Redis, by the server itself: the connection may be a new one."""
        call = calls.check_call(
            self._name,
            self._gate.known,
            self._gate.incarnation.run_id if self._gate.incarnation else "",
            self._was_kept,
        )
        (answer,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        look = calls.check_result(answer)
        self._was_kept = look.was_kept
        return look

    async def _renew(self, run_id: str, generation: int, only_other_run: bool) -> Incarnation:
        call = calls.new_generation_call(run_id, generation, only_other_run=only_other_run)
        (said,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        incarnation = calls.parse_incarnation(said if isinstance(said, bytes) else None)
        if incarnation is None:
            raise Unavailable(f"Redis refused a new generation: {said!r}")
        return incarnation

    async def _holds(self, incarnation: Incarnation) -> bool:
        """Whether the logs have what this edge acknowledged or delivered."""
        noted = self._acknowledged.of_generation(incarnation.generation)
        for start in range(0, len(noted), _CHECKED_AT_ONCE):
            some = noted[start : start + _CHECKED_AT_ONCE]
            calls = [
                hotlog.read_call(
                    channel,
                    stored=False,
                    incarnation=incarnation.generation,
                    since_offset=position.offset - 1,
                    limit=1,
                    reverse=False,
                )
                for channel, position in some
            ]
            found = await self._redis.run(calls, timeout_s=TIMEOUT_S)
            if not all(map(_is_there, _acknowledged_of(some), found)):
                return False
        return True


def _acknowledged_of(noted: Sequence[tuple[str, AcknowledgedPosition]]) -> list[AcknowledgedPosition]:
    return [position for _, position in noted]


def _is_there(position: AcknowledgedPosition, found: Any) -> bool:
    page = hotlog.page(found)
    if page is None or page.epoch != position.epoch or page.top < position.offset:
        return False
    if not page.entries or page.entries[0][0] != position.offset:
        return True  # cut since, as the history size says
    return codec.decode(page.entries[0][1], position.offset).id == position.publication_id
