"""Model of a rate limit: a bucket of tokens that counts in fractions."""

from __future__ import annotations

from fractions import Fraction


class Bucket:
    """Gains `rate` tokens a second, holds at most `burst`, and is full at first."""

    def __init__(self, rate: Fraction, burst: int, now: Fraction) -> None:
        self.rate, self.burst = rate, burst
        self.tokens = Fraction(burst)
        self.at = now

    def left(self, now: Fraction) -> Fraction:
        """Return the tokens that are there at this time."""
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.at) * self.rate)
        self.at = now
        return self.tokens

    def take(self, count: int, now: Fraction) -> Fraction:
        """Take tokens and return 0; or take none, and return the seconds to wait."""
        if self.left(now) >= count:
            self.tokens -= count
            return Fraction(0)
        return (count - self.tokens) / self.rate
