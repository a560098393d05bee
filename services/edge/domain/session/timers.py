"""One wheel for the deadlines of all sessions: cheaper than a timer of the loop for each."""

from __future__ import annotations

import logging
import math
from typing import Protocol

logger = logging.getLogger(__name__)

NEVER = math.inf
GRANULE_S = 0.5  # what is due within it is done together: a wake-up costs more than a ping


class Timed(Protocol):
    """Something with a next deadline on the monotonic clock."""

    deadline: float  # seconds; NEVER: none
    wheel_slot: int  # owned by the wheel; -1: not on it

    def deadline_passed(self, now: float) -> None:
        """Do what is due and set the next deadline."""


class Wheel:
    """Calls `deadline_passed` at most one granule late. Driven by `advance`: the time is passed in."""

    def __init__(self, now: float, granule_s: float = GRANULE_S) -> None:
        self._granule_s = granule_s
        self._slots: dict[int, list[Timed]] = {}
        self._next = math.ceil(now / granule_s)

    def schedule(self, timed: Timed) -> None:
        """Put it where its deadline says; call after every change of the deadline."""
        slots = timed.deadline / self._granule_s
        if slots == NEVER:
            return  # or so far ahead that no number says it; a stale entry finds nothing due
        slot = math.ceil(slots)
        if slot < self._next:
            slot = self._next
        if timed.wheel_slot != -1 and timed.wheel_slot <= slot:
            return  # it will be looked at early enough, and moved on then
        timed.wheel_slot = slot
        self._slots.setdefault(slot, []).append(timed)

    def advance(self, now: float) -> None:
        """Run everything due by now."""
        last = math.ceil(now / self._granule_s)
        while self._next <= last:
            slot = self._next
            self._next += 1
            for timed in self._slots.pop(slot, ()):
                if timed.wheel_slot != slot:
                    continue  # was moved to an earlier slot, which has run
                timed.wheel_slot = -1
                if timed.deadline <= now:
                    try:
                        timed.deadline_passed(now)
                    except Exception:
                        logger.exception("a deadline could not be carried out")  # one of them must not stop the others
                self.schedule(timed)
