"""Sends the letters of one way out.

**Purpose.** A notification goes out as it is at that moment, at least once, and a service that fails holds up no other.

**Rules.** A letter is leased, then persistence is asked what it says now: who has read the message meanwhile, lost the
device or the membership gets nothing, and the letter is done. What a way out takes is done. What it does not know any
more (404, 410, `Unregistered`) removes the device. What it refuses for good is a dead letter at once. Everything else
is tried again after 1 s, 2 s, 4 s … 5 min, each less a random part, and not before the time that was asked for; after
`tries` it is a dead letter. What takes back waits until what shows is not under way any more: it would overtake it, and
the device would keep what was deleted meanwhile.

**Trade-off.** Asking costs one call for each try. In return no copy of a message waits in Redis, and nobody is told of
what was deleted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.letter import Errand, errand_of
from services.persistence.notifier.metrics import (
    DEAD,
    DIED,
    DROPPED,
    GONE,
    REQUESTS,
    SECONDS,
    SENT,
    UNWANTED,
    WAITING,
)
from services.persistence.notifier.ports import Answer, Note, Outcome, Persistence, Way
from services.persistence.notifier.wording import note_of
from services.persistence.webhooks.dispatcher import pause_s
from services.persistence.webhooks.letters import Letter, Letters
from services.shared.errors import ThalamusError, Unavailable
from services.shared.process.cancellation import end_task
from services.shared.process.log_limit import RateLimitedLog

logger = logging.getLogger(__name__)

_IDLE_S = 0.5  # between two looks at what is due, seconds
_BUSY_S = 0.05  # the same while requests are under way
_LEASE_S = 30.0  # of a letter: longer than asking and sending may take, seconds
_AFTER_S = 1.0  # until it is looked again whether what is to be taken back has arrived, seconds
_MAX_PAUSE_S = 300.0
TRIES = 10
MAX_DEAD = 1_000


class Courier:
    """Sends letters. Any number of processes may do so at once."""

    def __init__(
        self,
        way: Way,
        letters: Letters,
        persistence: Persistence,
        preview_of: Callable[[str], str],
        *,
        pause: Callable[[int], float] = pause_s,
        tries: int = TRIES,
    ) -> None:
        """Take the parts.

        Args:
            way: The way out.
            letters: Those that wait for it.
            persistence: Says what a letter says.
            preview_of: Returns the setting `preview` for a channel.
            pause: How long a letter rests after so many failures, seconds.
            tries: After how many a letter is dead.
        """
        self._way, self._letters, self._persistence, self._preview_of = way, letters, persistence, preview_of
        self._pause, self._tries = pause, tries
        self._under_way: dict[asyncio.Task[None], Letter] = {}
        self._failed = RateLimitedLog(logger, logging.WARNING)
        name = way.platform
        for outcome in Outcome:
            REQUESTS.labels(name, outcome)
        for kind in ("message", "dismiss"):
            SENT.labels(name, kind)
        for metric in (SECONDS, UNWANTED, WAITING, DEAD, DIED, DROPPED, GONE):
            metric.labels(name)

    async def step(self) -> float:
        """Begin to send what is due; return how long to wait before the next step."""
        free = self._way.concurrency - len(self._under_way)
        if free <= 0:
            await asyncio.wait(self._under_way, timeout=_IDLE_S, return_when=asyncio.FIRST_COMPLETED)
            return 0.0
        claimed = await self._letters.claim(free, _LEASE_S)
        WAITING.labels(self._way.platform).set(claimed.waiting)
        DEAD.labels(self._way.platform).set(claimed.dead)
        for letter in claimed.letters:
            task = asyncio.create_task(self._deliver(letter))
            self._under_way[task] = letter
            task.add_done_callback(self._ended)
        if len(claimed.letters) == free:
            return 0.0
        wait_s = _BUSY_S if self._under_way else _IDLE_S
        return wait_s if claimed.next_s is None else min(wait_s, claimed.next_s)

    async def drain(self, grace_s: float) -> None:
        """Wait for what is under way; let others send what does not end in time."""
        tasks = dict(self._under_way)
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task, letter in tasks.items():
            if not task.done():
                await end_task(task)
                try:
                    await self._letters.again(letter, 0.0)
                except Unavailable:
                    return  # the leases run out by themselves

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("sending failed", exc_info=error)

    async def _deliver(self, letter: Letter) -> None:
        """Send a letter once, and keep what became of it."""
        way = self._way.platform
        try:
            errand = errand_of(letter)
            if errand.kind == "dismiss" and await self._letters.has(errand.message_id):
                await self._letters.again(letter, _AFTER_S)
                return
            note, device = await self._said(errand)
            if note is None:
                UNWANTED.labels(way).inc()
                await self._letters.done(letter)
                return
            began = time.monotonic()
            answer = await self._way.send(letter.id, note, device)
            SECONDS.labels(way).observe(time.monotonic() - began)
            REQUESTS.labels(way, answer.outcome).inc()
            await self._keep(letter, errand, answer)
        except ThalamusError as error:  # the lease runs out, and it is sent again
            self._failed("a notification can't be sent now; it will be", way=way, error=str(error))

    async def _said(self, errand: Errand) -> tuple[Note | None, Device | None]:
        """Return what to send now, and to which device; None: nothing."""
        if errand.kind == "dismiss":
            device, badge = await self._persistence.device(errand.user, errand.address)
            if errand.address and device is None:
                return None, None
            return msgspec.structs.replace(note_of(errand, None, ""), badge=badge), device
        shown = await self._persistence.show(errand.channel, errand.epoch, errand.offset, errand.user, errand.address)
        if shown is None:
            return None, None
        return note_of(errand, shown, self._preview_of(errand.channel)), shown.device

    async def _keep(self, letter: Letter, errand: Errand, answer: Answer) -> None:
        way = self._way.platform
        if answer.outcome is Outcome.TAKEN:
            SENT.labels(way, errand.kind).inc()
            await self._letters.done(letter)
            return
        if answer.outcome is Outcome.GONE:
            GONE.labels(way).inc()
            await self._persistence.gone(errand.user, errand.address)
            await self._letters.done(letter)
            return
        failed = msgspec.structs.replace(letter, tries=letter.tries + 1, error=answer.error)
        told: dict[str, Any] = {"way": way, "id": letter.id, "tries": failed.tries, "error": answer.error}
        if failed.tries < self._tries and answer.outcome is not Outcome.INVALID:
            await self._letters.again(failed, max(self._pause(failed.tries), min(answer.retry_after_s, _MAX_PAUSE_S)))
            self._failed("a notification was not taken; it is sent again", **told)
            return
        DIED.labels(way).inc()
        DROPPED.labels(way).inc(await self._letters.dead(failed, MAX_DEAD))
        self._failed("a notification was given up: `thalamus push replay` sends it", **told)
