"""Hands rows to the queue, and says which of them persistence stores itself.

What the store lacks 5 s after it was sent is stored by persistence, and so is all of the channel for the next 30 s: if
no worker works, a busy channel would otherwise wait for 5 s again and again. Then its rows are sent again.

A queue that does not answer a call, within 3 s, is left alone for 30 s: persistence stores the rows of all channels
itself at once. Then one call tries it, and until that is answered the others go on past it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.persistence.domain.draining import Handover
from services.persistence.domain.ports import LogStore, Row
from services.persistence.queue.messages import encode, fits, portions
from services.persistence.queue.metrics import PAST
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

OVERDUE_S = 5.0  # what the store does not have so long after it was sent, persistence stores itself
PAST_S = 30.0  # how long a channel then goes past the queue, before it is tried again, seconds
AWAY_S = 30.0  # how long a queue that does not answer is left alone, seconds
_TRY_S = 5.0  # longest trial of whether it answers again, seconds
_LOOK_S = 0.5  # least time between looks what the store has of a channel, seconds
_MAX_CHANNELS = 200_000


class Queue(Protocol):
    """What persistence needs of a queue; see `SqsQueue`."""

    async def send(self, bodies: Sequence[str]) -> list[bool]:
        """Return which messages were taken; raises `Unavailable` if it does not answer."""


@dataclass(slots=True)
class _Sent:
    """How far a channel was sent.

    `first`: the first offset that the store lacked at the last call. `since`: since when the store has got nothing of
    it. `looked`: when it was looked last. Monotonic seconds.
    """

    epoch: str
    first: int
    upto: int
    since: float
    looked: float


class Outbox:
    """Sends the rows of channels to the queue; see `Sink`."""

    def __init__(self, queue: Queue, store: LogStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue, self._store, self._clock = queue, store, clock
        self._sent: dict[str, _Sent] = {}
        self._away_until = 0.0  # until when all go past the queue; 0: it answers
        self._past_until: dict[str, float] = {}  # by channel that was late: until when it goes past the queue

    async def hand_over(self, channel: str, epoch: str, rows: Sequence[Row]) -> Handover:
        """Send what was not sent; return what is to be stored now.

        Raises:
            Unavailable: the store does not answer.
        """
        first, now = rows[0].offset, self._clock()
        if self._away_until:
            if now < self._away_until:
                PAST.labels("away").inc(len(rows))
                self._sent.pop(channel, None)
                return Handover(rows, False)
            self._away_until = now + _TRY_S  # this call tries it
        if channel in self._past_until:
            if now < self._past_until[channel]:
                PAST.labels("late").inc(len(rows))
                return Handover(rows, False)
            del self._past_until[channel]
        sent = self._sent.get(channel)
        if sent is None or sent.epoch != epoch or sent.upto < first - 1:
            if len(self._sent) >= _MAX_CHANNELS:
                self._sent.clear()
            sent = self._sent[channel] = _Sent(epoch, first, first - 1, now, now)
        if first > sent.first:  # somebody stored something, maybe another replica
            sent.first, sent.since = first, now
        if sent.upto >= first and now - sent.looked >= _LOOK_S:
            sent.looked = now
            state = await self._store.open(channel)
            if state.epoch == epoch and state.top >= first:  # written again, so that the ids are compared
                sent.since = now
                return self._until(channel, rows, min(state.top, rows[-1].offset))
        if now - sent.since >= OVERDUE_S:
            PAST.labels("late").inc(len(rows))
            if len(self._past_until) >= _MAX_CHANNELS:
                self._past_until.clear()
            self._past_until[channel] = now + PAST_S
            return self._until(channel, rows, rows[-1].offset)
        unsent = portions([row for row in rows if row.offset > sent.upto])
        for portion in unsent:
            if not fits(portion):
                PAST.labels("large").inc(portion[-1].offset - first + 1)
                return self._until(channel, rows, portion[-1].offset)
        try:
            all_taken = await self._queue.send([encode(epoch, one) for one in unsent]) if unsent else []
        except Unavailable as error:
            self._away_until = self._clock() + AWAY_S
            logger.warning("the queue does not answer: its rows are stored past it", extra={"error": str(error)})
            PAST.labels("away").inc(len(rows))
            return self._until(channel, rows, rows[-1].offset)
        if unsent:
            self._away_until = 0.0
        for portion, taken in zip(unsent, all_taken, strict=True):
            if not taken:
                break
            sent.upto = portion[-1].offset
        return Handover([], True)

    def _until(self, channel: str, rows: Sequence[Row], upto: int) -> Handover:
        """Have rows up to this offset stored; forget the channel if these are all."""
        now = [row for row in rows if row.offset <= upto]
        sent = self._sent[channel]
        sent.upto = max(sent.upto, upto)
        if len(now) == len(rows):
            del self._sent[channel]
        return Handover(now, len(now) < len(rows))
