"""How often may be repeated: a share of the calls, so that a service in trouble is not given more of it."""

from __future__ import annotations

import random

SHARE = 0.8
RESERVE = 100.0
BASE_S = 0.025
CAP_S = 0.4


class RetryBudget:
    """Every first call adds a share of a repetition, up to the reserve; every repetition takes one whole.

    So over any stretch there are at most `RESERVE` + 0.8 × calls repetitions, below twice the base rate.
    """

    def __init__(self, *, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share, self._reserve = share, reserve
        self._left = reserve

    def deposit(self) -> None:
        """A first call was made."""
        self._left = min(self._reserve, self._left + self._share)

    def withdraw(self) -> bool:
        """Whether one may be repeated now."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def pause_s(attempt: int) -> float:
    """Seconds before repetition `attempt` (from 0): full jitter over 25 ms, 50, 100 … 400."""
    return random.uniform(0, min(CAP_S, BASE_S * 2**attempt))
