"""Timer wheel for the deadlines of all sessions.

One wheel is cheaper than a timer of the event loop for each session.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

logger = logging.getLogger(__name__)

NEVER = math.inf  # deadline of something that is not due
GRANULE_S = 0.5  # seconds of a slot: what is due within it is done together, as a wake-up costs more than a ping


class Timed(Protocol):
    """Something with a deadline on the monotonic clock."""

    deadline: float  # monotonic seconds; NEVER: none
    wheel_slot: int  # set by the wheel only; -1: it is not on the wheel

    def deadline_passed(self, now: float) -> None:
        """Do what is due and set the next deadline."""


class Wheel:
    """Timer wheel: calls `deadline_passed` at most one granule after a deadline.

    It has no timer itself: the caller calls `advance` and passes the time in.
    """

    def __init__(self, now: float, granule_s: float = GRANULE_S) -> None:
        self._granule_s = granule_s
        self._slots: dict[int, list[Timed]] = {}
        self._next = math.ceil(now / granule_s)

    def schedule(self, timed: Timed) -> None:
        """Put an object on the wheel, or move it to an earlier slot.

        To be called after its deadline has become earlier. A later deadline is noticed when the old slot is reached.
        """
        slots = timed.deadline / self._granule_s
        if slots == NEVER:
            return  # no deadline, or one beyond the range of floats; an old entry on the wheel does no harm
        slot = math.ceil(slots)
        if slot < self._next:
            slot = self._next
        if timed.wheel_slot != -1 and timed.wheel_slot <= slot:
            return  # it is looked at early enough, and moved on then
        timed.wheel_slot = slot
        self._slots.setdefault(slot, []).append(timed)

    def advance(self, now: float) -> None:
        """Call `deadline_passed` of everything that is due at `now`."""
        last = math.ceil(now / self._granule_s)
        while self._next <= last:
            slot = self._next
            self._next += 1
            for timed in self._slots.pop(slot, ()):
                if timed.wheel_slot != slot:
                    continue  # it was moved to an earlier slot, which has run
                timed.wheel_slot = -1
                if timed.deadline <= now:
                    try:
                        timed.deadline_passed(now)
                    except Exception:
                        logger.exception("a deadline could not be executed")  # the others go on
                self.schedule(timed)
