"""Sends the letters of one endpoint or way out, several at the same time.

**Purpose.** What webhooks and notifications have in common: a letter is sent at least once, under one id, and one that
fails delays no other.

**Rules.** At most `concurrency` letters are under way, each under a lease. A letter that failed is sent again after
1 s, 2 s, 4 s … 5 min, each less a random part, and not before the time that was asked for. After `tries`, or if a
repeat can't help, it is a dead letter. When the process stops, what is under way has some seconds to end; what does not
is due for other processes at once.

What a letter is, and what an answer to it means, is the caller's: `deliver` sends one, and calls `failed` or
`Letters.done`. If it raises, the lease runs out, and the letter is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from prometheus_client import Counter, Gauge

from services.persistence.webhooks.letters import Claimed, Letter, Letters
from services.shared.errors import Unavailable
from services.shared.process.backoff import Backoff, RandomSource
from services.shared.process.cancellation import end_task

logger = logging.getLogger(__name__)

_PAUSES_S = (1.0, 300.0)  # first and longest pause before a letter is sent again
_RANDOM = random.Random()


def pause_s(tries: int, rng: RandomSource = _RANDOM) -> float:
    """Return how long a letter that failed so many times rests, seconds."""
    backoff = Backoff(*_PAUSES_S, rng=rng)
    for _ in range(tries - 1):
        backoff.next_s()
    return backoff.next_s()


class Limits(NamedTuple):
    """How letters are sent.

    `lease_s` is longer than `deliver` may take. `max_dead`: dead letters that are kept.
    """

    concurrency: int
    lease_s: float
    tries: int
    max_dead: int


class Metrics(NamedTuple):
    """Metrics of one endpoint or way out."""

    waiting: Gauge
    dead: Gauge
    given_up: Counter
    dropped: Counter


class Failed(NamedTuple):
    """What became of a letter that failed; `dropped`: old dead ones that made room."""

    letter: Letter
    is_dead: bool
    dropped: int


class Sending:
    """Letters that are being sent. Any number of processes may send at once."""

    def __init__(
        self,
        letters: Letters,
        deliver: Callable[[Letter], Awaitable[None]],
        limits: Limits,
        metrics: Metrics,
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        """Take the parts; sends nothing yet.

        Args:
            letters: Those that wait.
            deliver: Sends a letter once, and keeps what became of it.
            limits: How many, and how often.
            metrics: Where that is counted.
            pause: How long a letter rests after so many failures, seconds.
        """
        self._letters, self._deliver, self._limits, self._metrics = letters, deliver, limits, metrics
        self._pause = pause
        self._one_ended = asyncio.Event()
        self.under_way: dict[asyncio.Task[None], Letter] = {}

    @property
    def free(self) -> int:
        """How many letters more may be sent now."""
        return self._limits.concurrency - len(self.under_way)

    async def begin(self) -> Claimed:
        """Begin to send what is due, as much as there is room for.

        Raises:
            Unavailable: Redis does not answer.
        """
        claimed = await self._letters.claim(self.free, self._limits.lease_s)
        self._metrics.waiting.set(claimed.waiting)
        self._metrics.dead.set(claimed.dead)
        for letter in claimed.letters:
            task = asyncio.create_task(self._run(letter))
            self.under_way[task] = letter
            task.add_done_callback(self._ended)
        return claimed

    async def wait_for_one(self, at_most_s: float) -> None:
        """Wait until a letter that is under way has ended."""
        self._one_ended.clear()
        try:
            async with asyncio.timeout(at_most_s):
                await self._one_ended.wait()
        except TimeoutError:
            pass

    async def failed(self, letter: Letter, error: str, *, retry_after_s: float = 0.0, is_final: bool = False) -> Failed:
        """Let a letter be sent again, or give it up.

        `retry_after_s`: how long to wait, as it was asked for; `is_final`: a repeat can't help.

        Raises:
            Unavailable: Redis does not answer.
        """
        tried = msgspec.structs.replace(letter, tries=letter.tries + 1, error=error)
        if tried.tries < self._limits.tries and not is_final:
            await self._letters.again(tried, max(self._pause(tried.tries), min(retry_after_s, _PAUSES_S[1])))
            return Failed(tried, False, 0)
        dropped = await self._letters.dead(tried, self._limits.max_dead)
        self._metrics.given_up.inc()
        self._metrics.dropped.inc(dropped)
        return Failed(tried, True, dropped)

    async def drain(self, grace_s: float) -> None:
        """Wait for what is under way; let others send what does not end in time."""
        tasks = dict(self.under_way)
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task, letter in tasks.items():
            if not task.done():
                await end_task(task)
                try:
                    await self._letters.again(letter, 0.0)
                except Unavailable:
                    return  # the leases run out by themselves

    async def _run(self, letter: Letter) -> None:
        await self._deliver(letter)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self.under_way[task]
        self._one_ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("sending failed", exc_info=error)
