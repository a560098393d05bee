"""Token buckets; the time is passed in."""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens per second, at most `burst` at once; full at the start. A rate of 0 never refuses."""

    __slots__ = ("_at", "_burst", "_rate", "_refused_since", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._tokens = self._burst
        self._at = now
        self._refused_since: float | None = None

    def take(self, now: float) -> bool:
        """Take one token; False where there is none."""
        if self._rate <= 0:
            return True
        if self.left(now) >= 1.0:
            self._tokens -= 1.0
            if self._tokens >= self._burst / 2:
                self._refused_since = None  # it has calmed down
            return True
        if self._refused_since is None:
            self._refused_since = now
        return False

    def left(self, now: float) -> float:
        """How many tokens there are."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return self._tokens

    def refused_for(self, now: float) -> float:
        """Seconds since the refusals began, 0 while there are none; half a bucket of rest ends them."""
        return 0.0 if self._refused_since is None else now - self._refused_since

    def retry_after_s(self) -> float:
        """Seconds until the next token."""
        return max(0.0, (1.0 - self._tokens) / self._rate) if self._rate > 0 else 0.0
