"""How long work that is done in batches waits for more of it: not at all in an idle process, a little in a busy one."""

from __future__ import annotations

import time
from collections.abc import Callable

_LOOK_S = 0.05  # CPU is looked at so often
_IDLE, _BUSY = 0.1, 0.3  # of a core: waits from the first on, and for as long as may be from the second


class Pace:
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
        self._wait_s = 0.0
        self._next_at = 0.0

    def began(self) -> None:
        """A batch leaves now."""
        now = self._clock()
        passed_s = now - self._looked_at
        if passed_s >= _LOOK_S:
            used_s = self._cpu()
            share = (used_s - self._used_s) / passed_s
            self._looked_at, self._used_s = now, used_s
            self._wait_s = self._longest_s * min(max((share - _IDLE) / (_BUSY - _IDLE), 0.0), 1.0)
        self._next_at = now + self._wait_s

    def wait_s(self) -> float:
        """Seconds until the next batch should leave; 0: now."""
        return max(0.0, self._next_at - self._clock())
