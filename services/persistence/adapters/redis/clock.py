"""Clock of the Redis server, on the side of persistence.

Idempotency keys expire in Redis by it, so the store measures the age of keys by the same clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class RedisClock:
    """Unix time of Redis, in seconds.

    Between two answers of Redis it goes on by the monotonic clock. Before the first one it is the clock of this host.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset: float | None = None

    def sync(self, unix_s: float) -> None:
        """Set the clock to what Redis answered just now."""
        self._offset = unix_s - self._monotonic()

    def __call__(self) -> float:
        """Return the present Unix time, in seconds."""
        return self._wall() if self._offset is None else self._monotonic() + self._offset
