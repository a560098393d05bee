"""Growing pauses between attempts that fail, with a limit; a success resets them.

`verify` has its own, because the delivery checker knows no code of the server.
"""

from __future__ import annotations

import random
from typing import Protocol

_MODULE_RANDOM = random.Random()


class RandomSource(Protocol):
    """What the jitter is drawn from: `random.Random`, or a seeded one."""

    def uniform(self, a: float, b: float) -> float: ...


class Backoff:
    """Pauses before the next attempts of one caller. It does not wait itself.

    The n-th pause since the last success is `first_s` × `factor`^(n-1), at most `most_s`, less a random part of it: up
    to the share `jitter`. With jitter, callers that failed at the same moment don't come back at the same moment.

    Args:
        first_s: The first pause, seconds.
        most_s: The longest pause, seconds.
        factor: How much longer each pause is than the one before.
        jitter: Share of a pause that is random. 0: none; 0.5: a pause of 1 s is 0.5 to 1 s; 1: 0 to 1 s.
        healthy_after_s: An attempt that lasted so long counts as a success, although it ended; None: none does.
        rng: Source of the jitter.
    """

    __slots__ = ("_factor", "_first_s", "_healthy_after_s", "_jitter", "_most_s", "_next_s", "_rng", "failures")

    def __init__(
        self,
        first_s: float,
        most_s: float,
        *,
        factor: float = 2.0,
        jitter: float = 0.5,
        healthy_after_s: float | None = None,
        rng: RandomSource = _MODULE_RANDOM,
    ) -> None:
        self._first_s, self._most_s, self._factor = first_s, most_s, factor
        self._jitter, self._healthy_after_s, self._rng = jitter, healthy_after_s, rng
        self._next_s = first_s
        self.failures = 0  # pauses since the last success

    def next_s(self, lasted_s: float = 0.0) -> float:
        """Return the seconds to wait now, after an attempt that lasted `lasted_s` seconds."""
        if self._healthy_after_s is not None and lasted_s >= self._healthy_after_s:
            self.reset()
        self.failures += 1
        pause_s = self._next_s
        self._next_s = min(pause_s * self._factor, self._most_s)
        return pause_s - self._rng.uniform(0.0, pause_s * self._jitter) if self._jitter else pause_s

    def reset(self) -> None:
        """Begin with the first pause again: an attempt succeeded."""
        self._next_s = self._first_s
        self.failures = 0
