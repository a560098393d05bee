"""Clock of the Redis server, as a process knows it between two replies of Redis.

Edges and persistence take the time from Redis, so that all of them have the same one: for the times of publications,
for the lifetimes of tokens, and for the age of idempotency keys, which expire in Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class RedisClock:
    """Unix time of Redis, in seconds.

    Between two replies of Redis it goes on by the monotonic clock, so it does not jump when the clock of this host is
    set. Before the first reply it is the clock of this host.
    """

    __slots__ = ("_monotonic", "_offset_s", "_wall")

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset_s: float | None = None  # Unix time minus monotonic time; None: Redis has not been asked yet

    def sync(self, unix_s: float) -> None:
        """Set the clock to what Redis answered just now."""
        self._offset_s = unix_s - self._monotonic()

    def __call__(self) -> float:
        """Return the present Unix time, in seconds."""
        return self._wall() if self._offset_s is None else self._monotonic() + self._offset_s
