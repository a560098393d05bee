"""Which life of Redis this edge may use: opened by what persistence found, checked against what this edge has seen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from services.edge.adapters import publication_codec as codec
from services.edge.adapters.redis.acknowledged import Receipt, Receipts
from services.shared.errors import Unavailable
from services.shared.hotlog import hotlog, keys
from services.shared.incarnation import calls as lives
from services.shared.incarnation.calls import Known, Life, Look
from services.shared.incarnation.gate import LifeGate, RunWatch
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0
EVERY_S = 0.5  # a generation that begins without a restart of Redis is noticed within this
AWAY_S = 0.1
ALONE_S = 6.0  # persistence has said nothing for so long: a new generation is always right
_CHECKED_AT_ONCE = 500
_FAREWELL_S = 0.5


class LifeWatch:
    """Keeps the gate. A connection of its own, that looks at lives nobody may use yet."""

    def __init__(
        self,
        url: str,
        gate: LifeGate,
        receipts: Receipts,
        *,
        on_change: Callable[[], None],
        on_time: Callable[[float], None],
        on_run: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        """`on_change`: logs may have begun anew without a sign on the pub/sub connection; `on_time`: Unix seconds.

        `on_run`: this is the run of the server to which commands go from now on.
        """
        self._watch = RunWatch()
        self._redis = RedisPipeline(url, gate=self._watch)
        self._gate, self._receipts, self._on_change, self._on_time = gate, receipts, on_change, on_time
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
            self._receipts.turn(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._gate.refused.wait()
            self._gate.refused.clear()

    async def _step(self, now: float) -> None:
        look = await self._look()
        run_id, life = look.run_id, look.life
        self._on_time(look.at_ms / 1000)
        if run_id != self._run_id:
            self._run_id, self._since = run_id, now
            self._on_run(run_id)
        if self._gate.life is not None and self._gate.life.run_id != run_id:
            self._gate.close()
        if look.missing:
            logger.error("Redis went back behind what this edge has seen: `hot` logs begin anew")
        if life is None or life.run_id != run_id:
            if now - self._since < ALONE_S:
                return
            logger.warning("nobody compares Redis with the store: `hot` logs begin anew")
            life = await self._renew(run_id, max(self._gate.last_generation, life.generation if life else 0), True)
        elif life.token != self._checked and not await self._holds(life):
            logger.error("Redis lost what this edge has seen: `hot` logs begin anew")
            life = await self._renew(run_id, life.generation, False)
        self._checked = life.token
        if not 0 < life.open_at_ms - look.at_ms <= lives.PAUSE_MS:  # longer can't be meant: its clock was set
            changed = self._gate.life is None or self._gate.life.token != life.token
            self._gate.open(life, Known(life.generation, look.writes, look.at_ms))
            if changed:
                self._on_change()

    async def _look(self) -> Look:
        """What is said of this run of Redis, by the server itself: the connection may be a new one."""
        call = lives.look_call(
            self._name, self._gate.known, self._gate.life.run_id if self._gate.life else "", self._was_kept
        )
        (answer,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        look = lives.look(answer)
        self._was_kept = look.was_kept
        return look

    async def _renew(self, run_id: str, generation: int, only_other_run: bool) -> Life:
        call = lives.renew_call(run_id, generation, only_other_run=only_other_run)
        (said,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        life = lives.parse(said if isinstance(said, bytes) else None)
        if life is None:
            raise Unavailable(f"Redis refused a new generation: {said!r}")
        return life

    async def _holds(self, life: Life) -> bool:
        """Whether the logs have what this edge acknowledged or delivered."""
        noted = self._receipts.of_generation(life.generation)
        for start in range(0, len(noted), _CHECKED_AT_ONCE):
            some = noted[start : start + _CHECKED_AT_ONCE]
            calls = [
                hotlog.read_call(
                    channel, stored=False, life=life.generation, since_offset=receipt.offset - 1, limit=1, reverse=False
                )
                for channel, receipt in some
            ]
            found = await self._redis.run(calls, timeout_s=TIMEOUT_S)
            if not all(map(_is_there, _receipts_of(some), found)):
                return False
        return True


def _receipts_of(noted: Sequence[tuple[str, Receipt]]) -> list[Receipt]:
    return [receipt for _, receipt in noted]


def _is_there(receipt: Receipt, found: Any) -> bool:
    page = hotlog.page(found)
    if page is None or page.epoch != receipt.epoch or page.top < receipt.offset:
        return False
    if not page.entries or page.entries[0][0] != receipt.offset:
        return True  # cut since, as the history size says
    return codec.decode(page.entries[0][1], receipt.offset).id == receipt.publication_id
