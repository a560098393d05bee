"""How long work that is done in batches waits for more of it.

Not at all in an idle process or where hardly more would come; a little in a busy one that has much of it. How much
comes is what came lately, with the waits of then: who sends one thing at a time is told to wait now, and not then.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_LOOK_S = 0.05  # CPU and rate are looked at so often
_IDLE, _BUSY = 0.1, 0.3  # of a core: waits from the first on, and for as long as may be from the second
_FEW, _MANY = 1.0, 4.0  # items in the longest wait: worth none of it up to the first, all of it from the second on


class Linger:
    """One per thread: it measures the CPU of the one that asks.

    Args:
        longest_s: The longest wait.
        clock: Seconds, from whenever.
        cpu: Seconds of CPU that the calling thread has used.
    """

    def __init__(
        self,
        longest_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._longest_s, self._clock, self._cpu = longest_s, clock, cpu
        self._looked_at, self._used_s = clock(), cpu()
        self._items = 0  # that left since
        self._wait_s = 0.0
        self._next_at = 0.0

    def began(self, items: int) -> None:
        """A batch of so many leaves now."""
        now = self._clock()
        passed_s = now - self._looked_at
        self._items += items
        if passed_s >= _LOOK_S:
            used_s = self._cpu()
            busy = _between((used_s - self._used_s) / passed_s, _IDLE, _BUSY)
            many = _between(self._items / passed_s * self._longest_s, _FEW, _MANY)
            self._looked_at, self._used_s, self._items = now, used_s, 0
            self._wait_s = self._longest_s * busy * many
        self._next_at = now + self._wait_s

    def wait_s(self) -> float:
        """Seconds until the next batch should leave; 0: now."""
        return max(0.0, self._next_at - self._clock())


def _between(value: float, none: float, full: float) -> float:
    """0 up to the first bound, 1 from the second on, in proportion between them."""
    return min(max((value - none) / (full - none), 0.0), 1.0)
