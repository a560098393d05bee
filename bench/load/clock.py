"""Time as it travels in messages: always ten digits."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 1_000_000_000  # for 54 minutes from then on: ten digits, and below 2³², so also an id of any protocol here


def clock_from(base_ns: int) -> Callable[[], int]:
    """Return a clock in µs, the same in every process of this machine.

    It shows `FIRST` at `base_ns` of the machine's monotonic clock.
    """
    monotonic_ns = time.monotonic_ns
    offset = FIRST * 1_000 - base_ns

    def clock() -> int:
        return (monotonic_ns() + offset) // 1_000

    return clock
