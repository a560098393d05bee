"""Limit of the publications of one user, over all edges.

**Purpose.** A user has one bucket in Redis, whichever edges the connections are on. Asking Redis for every publication
would cost a round trip each.

**Rules.**

1. An edge takes tokens from the bucket in slices, and spends them by itself. A slice is a tenth of what the bucket
   gains in a second. Of a small limit it is five tokens, but no more than half a second brings, and at least one.
2. It holds at most one slice of a user. When a fifth of it is left, it asks for more ahead, so publications don't wait.
   Only the first one of a user waits for a round trip, and one that meets an empty slice.
3. If Redis has less than was asked for, the bucket is empty. Then the edge asks again when half a slice is there. What
   comes meanwhile, and finds the slice spent, is refused without a question.
4. An edge that does not reach Redis takes the slices from a bucket of its own, with the same rate.

**Exactness.** Redis gives out at most `burst + rate × T` tokens in T seconds. An edge may spend a slice that it got
before. So a user can publish at most `burst + rate × T` and one slice for each edge. Nothing that a bucket has gained
is lost as long as somebody asks: with all load on one edge a user gets the whole rate.

**Example.** The limit is 100 per second. A user publishes 30 times a second over two edges. Each edge holds up to 10
tokens, and asks about twice a second for 8.

**Trade-off.** A larger slice costs fewer round trips and makes the error larger.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from services.edge.domain.limits.ports import SharedRates
from services.edge.domain.limits.rates import Rates
from services.edge.domain.limits.refusals import PUBLISHES, LimitRefusals
from services.shared.errors import ErrorCode, ThalamusError

_SLICE_S = 0.1  # a slice is what the bucket gains in this time, seconds
_FEW = 5  # tokens of a slice of a small limit: with fewer, nearly every publication would cause a question
_LONGEST_S = 0.5  # in which the bucket gains the slice of a small limit, seconds
_LOW = 0.2  # share of a slice with which more is asked for; enough for round trips of 20 ms at the whole rate
_USERS = 100_000  # users with a slice; the one is dropped that asked for none for the longest time


def slice_of(rate: float) -> int:
    """Return how many tokens a slice has, for a limit of `rate` tokens per second."""
    return max(1, round(max(rate * _SLICE_S, min(_FEW, rate * _LONGEST_S))))


class _Slice:
    """Tokens of one user on this edge."""

    __slots__ = ("ask_at", "asking", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.ask_at = float("-inf")  # monotonic seconds: before, Redis has no more
        self.asking: asyncio.Task[None] | None = None


class PublishLimit:
    """Slices of the users of one edge.

    Args:
        shared: The buckets in Redis.
        rate: Publications per second of one user; above 0.
        now: Monotonic seconds.
        spawn: Runs a coroutine as a background task.
        refusals: Counts what is refused.
        burst: Publications that a user may begin with; 0: as many as in a second.
        limit: Its name, one of `refusals.py`.
    """

    def __init__(
        self,
        shared: SharedRates,
        *,
        rate: float,
        now: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        refusals: LimitRefusals,
        burst: float = 0.0,
        limit: str = PUBLISHES,
    ) -> None:
        self._shared, self._rate, self._now, self._spawn, self._refusals = shared, rate, now, spawn, refusals
        self._burst = max(1.0, burst or rate)
        self._limit = limit
        self.slice = slice_of(rate)
        self._low = int(self.slice * _LOW)
        self._pause_s = max(1, self.slice // 2) / rate  # until half a slice is there
        self._slices: OrderedDict[str, _Slice] = OrderedDict()
        self._here = Rates(rate, self._burst, now, max_names=_USERS)

    def is_ready(self, who: str) -> bool:
        """Return whether `take` can decide at once; if not, await `refill` first."""
        held = self._slices.get(who)
        return held is not None and (held.tokens > 0 or (held.asking is None and self._now() < held.ask_at))

    def take(self, who: str) -> None:
        """Count one publication.

        Raises:
            ThalamusError: 111 with the time after which there may be a token.
        """
        held = self._slices.get(who)
        if held is None or held.tokens <= 0:
            self._refusals.count(self._limit)
            wait_s = self._pause_s if held is None else max(held.ask_at - self._now(), 0.001)
            raise ThalamusError(code=ErrorCode.TOO_MANY_REQUESTS, retry_after_s=wait_s)
        held.tokens -= 1
        if held.tokens <= self._low and held.asking is None and self._now() >= held.ask_at:
            self._ask(who, held)

    async def refill(self, who: str) -> None:
        """Wait until `take` can decide: there are tokens, or Redis has none.

        Each question takes half a second at most. Others of the same user may spend what it brings.
        """
        while not self.is_ready(who):
            held = self._slices.get(who)
            if held is None:
                if len(self._slices) >= _USERS:
                    self._slices.popitem(last=False)
                held = self._slices[who] = _Slice()
            await asyncio.shield(held.asking or self._ask(who, held))

    def _ask(self, who: str, held: _Slice) -> asyncio.Task[None]:
        held.asking = self._spawn(self._fill(who, held))
        return held.asking

    async def _fill(self, who: str, held: _Slice) -> None:
        """Fill a slice as far as there are tokens."""
        try:
            wanted = self.slice - held.tokens
            try:
                taken, wait_s = await self._shared.take(
                    self._limit, who, rate=self._rate, burst=self._burst, most=wanted, least=1
                )
            except ThalamusError:
                taken, wait_s = self._from_here(who, wanted)
            held.tokens += taken
            if taken < wanted:
                held.ask_at = self._now() + max(wait_s, self._pause_s)
            if who in self._slices:
                self._slices.move_to_end(who)
        finally:
            held.asking = None

    def _from_here(self, who: str, wanted: int) -> tuple[int, float]:
        """Take tokens from the bucket of this edge; return them, and the seconds to wait."""
        for taken in range(wanted):
            if wait_s := self._here.take(who):
                return taken, wait_s
        return wanted, 0.0
