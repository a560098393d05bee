"""Decides which incarnation of Redis this edge may use, and opens the gate for it.

**Purpose.** Redis may come back with less than this edge has acknowledged. Offsets would then be given twice, and
clients would be told that they recovered everything. An incarnation names one data set of Redis: run id of the server,
and generation of its `hot` logs. Persistence compares each new run with the store and writes its verdict to the key
`t:life`. This module reads the verdict, adds what this edge knows itself, and opens or closes the gate that all other
connections of the edge go through.

**Rules.**

1. Look every 0.5 s, at once after `check_now`, and every 0.1 s while the gate is closed or Redis does not answer. A
   look runs `check.lua`, which compares the number of writes to `hot` logs with the highest that this edge has seen
   (data-loss fence), and the number of its own appends with what it was told of them (`own_appends`). If Redis has
   fewer, the script begins a new generation in a run that has a verdict; in a run without one, it leaves a note for
   persistence.
2. When the run id changes, the gate closes until the new run has a verdict. After 6 s without one, the edge begins a
   new generation itself. This is always correct: clients learn that they may have missed something.
3. Before a new incarnation is used, its logs must hold the acknowledged positions of the last 10 to 20 s, with the same
   publication ids. A position that the log has trimmed since counts as present. If one is missing, the edge begins a
   new generation.
4. The gate opens at `open_at`. After a restart that keeps the generation, this is 500 ms after the verdict, so that
   every connected edge can look before anybody writes.
5. When a new incarnation is open, `on_change` has the edge compare its channels with their logs.

**Example.** Redis is killed and loses 0.3 s. The run id is new, so the gate closes. The look notes that this edge has
seen write 1007, while Redis has 1004. Persistence reads the note and writes its verdict: generation 8. The gate opens.
Clients at epoch `7.…` get `recovered: false` instead of a silent gap.

**Trade-offs.** All `hot` logs get a new generation when one position is missing, since others may be missing that
nobody remembers. Without persistence, the edge does not use Redis for 6 s after a restart of Redis. See
docs/decisions/0005 and 0020.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from services.edge.adapters import publication_codec as codec
from services.edge.adapters.redis.acknowledged import AcknowledgedPosition, AcknowledgedPositions
from services.edge.adapters.redis.own_appends import OwnAppends
from services.shared.errors import Unavailable
from services.shared.hotlog import hotlog, keys
from services.shared.hotlog.scripts import Command
from services.shared.incarnation import calls
from services.shared.incarnation.calls import CheckReply, Incarnation, Known
from services.shared.incarnation.gate import IncarnationGate, RunTracker
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0  # longest wait for Redis, seconds
EVERY_S = 0.5  # pause between two looks while the gate is open, seconds
AWAY_S = 0.1  # the same while the gate is closed or Redis does not answer, seconds
NO_VERDICT_S = 6.0  # without a verdict for so long, the edge begins a new generation itself, seconds
_CHECKED_AT_ONCE = 500  # acknowledged positions that are looked up in one round trip
_FAREWELL_S = 0.5  # longest wait for Redis at the end, seconds


class IncarnationWatch:
    """Opens and closes the gate.

    It has a connection of its own, which may ask a Redis that nobody may use yet.
    """

    def __init__(
        self,
        url: str,
        gate: IncarnationGate,
        acknowledged: AcknowledgedPositions,
        appends: OwnAppends,
        *,
        on_change: Callable[[], None],
        on_time: Callable[[float], None],
        on_run: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        """Make the watch; nothing is asked before `start`.

        Args:
            on_change: Called when another incarnation is in use: logs may have started over.
            on_time: Called with the clock of Redis, Unix seconds, after every look.
            on_run: Called with the run id of the server when it has changed.
        """
        self._watch = RunTracker()
        self._redis = RedisPipeline(url, gate=self._watch)
        self._gate, self._acknowledged, self._on_change, self._on_time = gate, acknowledged, on_change, on_time
        self._on_run = on_run
        self._appends = appends
        self._task: asyncio.Task[None] | None = None
        self.name = os.urandom(6).hex()  # name of this edge in Redis
        self._was_kept = ""  # heartbeat count that the store had kept, as Redis said at the last look
        self._run_id = ""  # run id at the last look
        self._said = ""  # last logged reason why Redis could not be asked
        self._since = 0.0  # when `_run_id` was first seen, by the loop's clock
        self._checked = ""  # token of the incarnation that has all acknowledged positions
        self._went_back = ""  # token of the incarnation that gave one number to two appends

    async def start(self) -> None:
        """Start to look, in the background."""
        self._task = asyncio.create_task(self._keep())

    async def watch(self) -> None:
        """Wait until cancelled.

        Raises:
            ConfigError: this Redis can't be used, because it runs in cluster mode.
        """
        assert self._task is not None
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop looking, and take this edge off the list of those that watch Redis."""
        if self._task is not None:
            await end_task(self._task)
        with contextlib.suppress(Unavailable):  # an edge that ends in order must not be missed after the next restart
            farewell: list[Command] = [("HDEL", keys.observers(), self.name), ("DEL", keys.appends(self.name))]
            await self._redis.execute(farewell, timeout_s=_FAREWELL_S)
        await self._redis.aclose()

    def check_now(self) -> None:
        """Look now, because a log is of a later generation or Redis lacks writes."""
        self._gate.refused.set()

    def went_back(self, token: str) -> None:
        """Stop using this incarnation, because it lost an append of this edge.

        A new generation begins at once.
        """
        self._went_back = token
        self._gate.close()
        self.check_now()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._step(loop.time())
            except Unavailable as error:
                if repr(error) != self._said:
                    self._said = repr(error)
                    logger.warning("Redis can't be checked", extra={"error": self._said})
                away = True
            else:
                self._said = ""
                away = not self._gate.is_open
            if away:  # without `turn`, so that acknowledged positions are kept until Redis is back
                await asyncio.sleep(AWAY_S)
                continue
            self._acknowledged.turn(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._gate.refused.wait()
            self._gate.refused.clear()

    async def _step(self, now: float) -> None:
        found = await self._check()
        run_id, incarnation = found.run_id, found.incarnation
        self._on_time(found.at_ms / 1000)
        if run_id != self._run_id:
            self._run_id, self._since = run_id, now
            self._on_run(run_id)
        if self._gate.incarnation is not None and self._gate.incarnation.run_id != run_id:
            self._gate.close()
        if found.missing:
            logger.error("Redis went back behind what this edge has seen: `hot` logs start over")
        if incarnation is None or incarnation.run_id != run_id:
            if now - self._since < NO_VERDICT_S:
                return
            logger.warning("persistence has given no verdict on this run of Redis: `hot` logs start over")
            incarnation = await self._renew(
                run_id, max(self._gate.last_generation, incarnation.generation if incarnation else 0), True
            )
        elif incarnation.token == self._went_back or (
            incarnation.token != self._checked and not await self._holds(incarnation)
        ):
            logger.error("Redis lost what this edge has seen: `hot` logs start over")
            incarnation = await self._renew(run_id, incarnation.generation, False)
        self._checked = incarnation.token
        if incarnation.token == self._went_back:  # found out during this look
            return
        if not 0 < incarnation.open_at_ms - found.at_ms <= calls.PAUSE_MS:  # more means that the clock of Redis was set
            changed = self._gate.incarnation is None or self._gate.incarnation.token != incarnation.token
            self._appends.use(incarnation.token, found.appends)
            self._gate.open(incarnation, Known(incarnation.generation, found.writes, found.at_ms))
            if changed:
                self._on_change()

    async def _check(self) -> CheckReply:
        """Run `check.lua` and return what it found.

        It returns the run id, too: the connection may be new, and lead to another run.
        """
        call = calls.check_call(
            self.name,
            self._gate.known,
            self._gate.incarnation.run_id if self._gate.incarnation else "",
            self._was_kept,
            appends=self._appends.highest,
        )
        (reply,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        found = calls.check_result(reply)
        self._was_kept = found.was_kept
        return found

    async def _renew(self, run_id: str, generation: int, only_other_run: bool) -> Incarnation:
        call = calls.new_generation_call(run_id, generation, only_other_run=only_other_run)
        (said,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        incarnation = calls.parse_incarnation(said if isinstance(said, bytes) else None)
        if incarnation is None:
            raise Unavailable(f"Redis refused a new generation: {said!r}")
        return incarnation

    async def _holds(self, incarnation: Incarnation) -> bool:
        """Whether the logs hold all acknowledged positions of this generation."""
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
        return True  # trimmed since, because of the history size
    return codec.decode(page.entries[0][1], position.offset).id == position.publication_id
