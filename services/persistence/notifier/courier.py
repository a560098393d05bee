"""Sends the letters of one way out.

**Purpose.** A notification goes out as it is at that moment, at least once, and a service that fails holds up no other.

**Rules.** A letter is leased, then persistence is asked what it says now: who has read the message meanwhile, lost the
device or the membership gets nothing, and the letter is done. What a way out takes is done. What it does not know any
more (404, 410, `Unregistered`) removes the device. What it refuses for good is a dead letter at once. Everything else
is tried again, as `webhooks/sending.py` says. What takes back waits until what shows is not under way any more: it
would overtake it, and the device would keep what was deleted meanwhile.

**Trade-off.** Asking costs one call for each try. In return no copy of a message waits in Redis, and nobody is told of
what was deleted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

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
from services.persistence.notifier.ports import Note, Persistence, Way
from services.persistence.notifier.wording import note_of
from services.persistence.webhooks.http import Answer, Outcome
from services.persistence.webhooks.letters import Letter, Letters
from services.persistence.webhooks.sending import Limits, Metrics, Sending, pause_s
from services.shared.errors import ThalamusError
from services.shared.process.log_limit import RateLimitedLog

logger = logging.getLogger(__name__)

_IDLE_S = 0.5  # between two looks at what is due, seconds
_BUSY_S = 0.05  # the same while requests are under way
_LEASE_S = 30.0  # of a letter: longer than asking and sending may take, seconds
_AFTER_S = 1.0  # until it is looked again whether what is to be taken back has arrived, seconds
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
        self._failed = RateLimitedLog(logger, logging.WARNING)
        name = way.platform
        self.sending = Sending(
            letters,
            self._deliver,
            Limits(way.concurrency, _LEASE_S, tries, MAX_DEAD),
            Metrics(WAITING.labels(name), DEAD.labels(name), DIED.labels(name), DROPPED.labels(name)),
            pause,
        )
        for outcome in Outcome:
            REQUESTS.labels(name, outcome)
        for kind in ("message", "dismiss"):
            SENT.labels(name, kind)
        for metric in (SECONDS, UNWANTED, GONE):
            metric.labels(name)

    async def step(self) -> float:
        """Begin to send what is due; return how long to wait before the next step."""
        free = self.sending.free
        if free <= 0:
            await self.sending.wait_for_one(_IDLE_S)
            return 0.0
        claimed = await self.sending.begin()
        if len(claimed.letters) == free:
            return 0.0
        wait_s = _BUSY_S if self.sending.under_way else _IDLE_S
        return wait_s if claimed.next_s is None else min(wait_s, claimed.next_s)

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
        is_final = answer.outcome is Outcome.INVALID
        failed = await self.sending.failed(letter, answer.error, retry_after_s=answer.retry_after_s, is_final=is_final)
        said = "a notification was not taken; it is sent again"
        if failed.is_dead:
            said = "a notification was given up: `thalamus push replay` sends it"
        self._failed(said, way=way, id=letter.id, tries=failed.letter.tries, error=answer.error)
