"""How often a user may call an endpoint: a token bucket per user, on each edge."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Response

from services.edge.api.bodies import NO_STORE, over_limit
from services.edge.domain.limits.rates import Rates
from services.shared.errors import ErrorCode, ThalamusError

_USERS = 100_000  # users with a token bucket; the one that took no token for the longest time is dropped first


class UserLimit:
    """Token bucket per user: `burst` calls at once, and `rate` a second."""

    def __init__(self, rate: float, burst: float, now: Callable[[], float], what: str) -> None:
        """`now` gives monotonic seconds; `what` is what there were too many of."""
        self._rates, self._what = Rates(rate, burst, now, max_names=_USERS), what

    def refusal(self, who: str) -> Response | None:
        """Take a token; without one, return the response that says when to come again."""
        wait_s = self._rates.take(who)
        if not wait_s:
            return None
        response = over_limit(
            ThalamusError(f"too many {self._what}", ErrorCode.TOO_MANY_REQUESTS, retry_after_s=wait_s)
        )
        response.headers.update(NO_STORE)
        return response
