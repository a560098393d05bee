"""Rate limits of many names in this process, in a bounded table.

**Rule.** The generic cell rate algorithm (GCRA). A name has a bucket of `burst` tokens that gains `rate` tokens a
second. Kept is only when the bucket will be full again: a bucket that is full is the same as one that was never used.
So in any T seconds a name gets at most `burst + rate × T` tokens.

**Bound.** At most `max_names` names are kept. Beyond, the one is dropped that took no token for the longest time. Its
bucket is full then; a name has to be among the `max_names` last ones to be limited.

The same algorithm in Redis, for all edges together: `services/edge/adapters/redis/take_tokens.lua`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

_ROUNDING_S = 1e-9  # sums of times are not exact, seconds


class Rates:
    """Buckets by name. `now` returns seconds of a clock that only goes forward.

    Args:
        rate: Tokens per second that a bucket gains; above 0.
        burst: Tokens of a full bucket; less than 1 counts as 1.
    """

    __slots__ = ("_full_at", "_full_s", "_interval_s", "_max_names", "_now")

    def __init__(self, rate: float, burst: float, now: Callable[[], float], *, max_names: int) -> None:
        self._interval_s = 1.0 / rate
        self._full_s = max(burst, 1.0) * self._interval_s  # from an empty bucket to a full one
        self._now, self._max_names = now, max_names
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, name: str, count: int = 1) -> float:
        """Take `count` tokens; return 0, or the seconds until there are so many.

        Then none were taken. More tokens than a bucket holds are never there.
        """
        now = self._now()
        full_at = max(self._full_at.get(name, now), now) + count * self._interval_s
        wait_s = full_at - now - self._full_s
        if wait_s > _ROUNDING_S:
            return wait_s
        if name not in self._full_at and len(self._full_at) >= self._max_names:
            self._full_at.popitem(last=False)
        self._full_at[name] = full_at
        self._full_at.move_to_end(name)
        return 0.0
