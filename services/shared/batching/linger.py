"""Decides how long a batch waits for more items before it is sent (linger).

**Purpose.** A batch costs a round trip and CPU on both sides, whatever is in it. Under load it pays to wait a few
milliseconds for more items. In an idle process waiting only adds latency.

**Rules.** The wait is a share of `longest_s`, the product of two factors between 0 and 1, measured every 50 ms at most:

    busy   CPU use of the calling thread:               0 up to 10 % of a core, 1 from 30 % on
    many   items that would arrive in the longest wait: 0 up to 1, 1 from 4 on

Between its bounds a factor grows linearly. The wait counts from the start of the batch before: a batch after a long
pause leaves at once.

**Example.** `longest_s` is 15 ms. A process uses 25 % of a core (busy = 0.75) and sends 200 items/s, which is 3 in
15 ms (many = 0.67). Batches then start at least 7.5 ms apart. At 50 items/s, less than one in 15 ms, nothing waits.

**Trade-offs.** The rate is that of the recent past, which the waits themselves lower. A caller that sends each item
only after the last reply waits while its rate is high, then does not wait for a while, and so on.

Decision: docs/decisions/0010, with the measured cost per publication.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_CHECK_S = 0.05  # shortest time between two measurements of CPU and rate, seconds
_IDLE, _BUSY = 0.1, 0.3  # shares of a core: no wait below the first, the longest from the second on
_FEW, _MANY = 1.0, 4.0  # items in the longest wait: no wait up to the first, the longest from the second on


class Linger:
    """Measures load and rate and returns the wait. One per thread.

    It measures the CPU time of the thread that calls it.

    Args:
        longest_s: The longest wait, seconds.
        clock: Returns seconds of any monotonic clock.
        cpu: Returns the CPU seconds that the calling thread has used.
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
        self._items = 0  # items sent since then
        self._wait_s = 0.0
        self._next_at = 0.0

    def began(self, items: int) -> None:
        """Note that a batch of this many items starts now."""
        now = self._clock()
        passed_s = now - self._looked_at
        self._items += items
        if passed_s >= _CHECK_S:
            used_s = self._cpu()
            busy = _between((used_s - self._used_s) / passed_s, _IDLE, _BUSY)
            many = _between(self._items / passed_s * self._longest_s, _FEW, _MANY)
            self._looked_at, self._used_s, self._items = now, used_s, 0
            self._wait_s = self._longest_s * busy * many
        self._next_at = now + self._wait_s

    def wait_s(self) -> float:
        """Return the seconds until the next batch should start; 0 means now."""
        return max(0.0, self._next_at - self._clock())


def _between(value: float, none: float, full: float) -> float:
    """Return 0 up to the bound `none`, 1 from `full` on, and linear in between."""
    return min(max((value - none) / (full - none), 0.0), 1.0)
