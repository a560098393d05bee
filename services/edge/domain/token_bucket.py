"""Token bucket that limits a rate; the caller passes the time in."""

from __future__ import annotations


class TokenBucket:
    """Bucket that gains `rate` tokens per second and holds at most `burst`.

    It is full at the start. A rate of 0 never refuses. Times are seconds of a clock that only goes forward.
    """

    __slots__ = ("_at", "_burst", "_rate", "_refused_since", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._tokens = self._burst
        self._at = now
        self._refused_since: float | None = None

    def take(self, now: float) -> bool:
        """Take one token; return False if there is none."""
        if self._rate <= 0:
            return True
        if self.left(now) >= 1.0:
            self._tokens -= 1.0
            if self._tokens >= self._burst / 2:
                self._refused_since = None  # half a bucket is left: the client has slowed down
            return True
        if self._refused_since is None:
            self._refused_since = now
        return False

    def left(self, now: float) -> float:
        """Add the tokens of the time since the last call; return how many there are."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return self._tokens

    def refused_for(self, now: float) -> float:
        """Return for how many seconds the caller has been refused.

        It is 0 before the first refusal. A `take` that leaves at least half a bucket sets it back to 0.
        """
        return 0.0 if self._refused_since is None else now - self._refused_since

    def retry_after_s(self) -> float:
        """Return the seconds until the next token, 0 if there is one or there is no limit."""
        return max(0.0, (1.0 - self._tokens) / self._rate) if self._rate > 0 else 0.0
