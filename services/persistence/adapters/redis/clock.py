"""The clock of Redis, by which keys expire there: the store counts the age of keys by the same one."""

from __future__ import annotations

import time
from collections.abc import Callable


class RedisClock:
    """Unix seconds. Between two answers of Redis it goes by a clock that nobody sets; first by the wall's."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset: float | None = None

    def sync(self, unix_s: float) -> None:
        """What time it is there now."""
        self._offset = unix_s - self._monotonic()

    def __call__(self) -> float:
        return self._wall() if self._offset is None else self._monotonic() + self._offset
