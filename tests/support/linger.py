"""Waiting for more, as somebody wants it who is as busy as the test says."""

from __future__ import annotations

from services.shared.batching.linger import Linger


class BusyThread:
    """Clocks of a thread that is busy for a share of its time, and the pace they make."""

    def __init__(self, longest_s: float) -> None:
        self.now, self.used = 50.0, 7.0
        self.linger = Linger(longest_s, clock=lambda: self.now, cpu=lambda: self.used)

    def work(self, share: float, items: int = 0) -> None:
        """A second of that, in which so much left before."""
        self.linger.began(items)
        self.now += 1.0
        self.used += share

    def wait_after(self, share: float, items: int = 100_000) -> float:
        """What the pace says after it."""
        self.work(share, items)
        self.linger.began(0)
        return self.linger.wait_s()
