"""Retry budget: limits retries to a share of the calls.

So a service in trouble does not get a multiple of its load.
"""

from __future__ import annotations

from services.shared.process.backoff import Backoff

SHARE = 0.8  # retries that one call adds
RESERVE = 100.0  # most retries that can be saved up
BASE_S = 0.025  # longest pause before the first retry, seconds; doubles each time
CAP_S = 0.4  # longest pause before any retry, seconds


class RetryBudget:
    """Number of retries that may be made now.

    Every call adds 0.8 of a retry, up to a reserve of 100; every retry takes one. So over any time there are at most
    100 + 0.8 × calls retries: the load stays below twice the calls, plus the reserve.
    """

    def __init__(self, *, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share, self._reserve = share, reserve
        self._left = reserve

    def deposit(self) -> None:
        """Count a first try of a call."""
        self._left = min(self._reserve, self._left + self._share)

    def withdraw(self) -> bool:
        """Take one retry; False if none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def retry_backoff() -> Backoff:
    """Pauses before the retries of one call: random, up to 25, 50, 100 … 400 ms."""
    return Backoff(BASE_S, CAP_S, jitter=1.0)
