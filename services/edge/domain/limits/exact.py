"""A limit over all edges that asks Redis every time, and so is exact.

In any T seconds a name gets at most `burst + rate × T`. An edge that does not reach Redis allows each name the same by
itself.
"""

from __future__ import annotations

from collections.abc import Callable

from services.edge.domain.limits.ports import SharedRates
from services.edge.domain.limits.rates import Rates
from services.edge.domain.limits.refusals import LimitRefusals
from services.shared.errors import ErrorCode, ThalamusError, Unavailable


class ExactLimit:
    """A bucket per name.

    Args:
        shared: The buckets in Redis.
        limit: Its name, one of `refusals.py`.
        what: What is counted, for people.
        rate: Tokens per second of one name; above 0.
        burst: Tokens that a name may take at once.
        now: Monotonic seconds, for the time without Redis.
        refusals: Counts what is refused.
        max_names: Names that are counted here while Redis is away.
    """

    def __init__(
        self,
        shared: SharedRates,
        *,
        limit: str,
        what: str,
        rate: float,
        burst: int,
        now: Callable[[], float],
        refusals: LimitRefusals,
        max_names: int,
    ) -> None:
        self._shared, self._limit, self._what, self._rate, self._burst = shared, limit, what, rate, burst
        self._refusals = refusals
        self._here = Rates(rate, burst, now, max_names=max_names)

    async def take(self, name: str, count: int = 1, *, counted: int = 0) -> None:
        """Count what belongs together: all of it or nothing.

        `counted`: so many are counted already. The time to wait is that for all of them.

        Raises:
            ThalamusError: 111 with the time after which they are allowed; 106 if they are more than the burst.
        """
        if count > self._burst:
            raise ThalamusError(f"more than {self._burst} {self._what} at once", ErrorCode.LIMIT_EXCEEDED)
        more = count - counted
        if more <= 0:
            return
        try:
            taken = await self._shared.take(
                self._limit, name, rate=self._rate, burst=self._burst, most=more, least=more
            )
            wait_s = 0.0 if taken.tokens else taken.wait_s
        except Unavailable:
            wait_s = self._here.take(name, more)
        if wait_s:
            self._refusals.count(self._limit)
            raise ThalamusError(code=ErrorCode.TOO_MANY_REQUESTS, retry_after_s=wait_s + counted / self._rate)
