"""Log lines that somebody outside can cause: one in a while, which says how many there were."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_EVERY_S = 10.0


class RateLimitedLog:
    """Logs one line at most every `every_s` seconds; the next one says how many were left out, as `left_out`."""

    __slots__ = ("_clock", "_every_s", "_left_out", "_level", "_logger", "_next")

    def __init__(
        self,
        logger: logging.Logger,
        level: int,
        *,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._level = level
        self._every_s = every_s
        self._clock = clock
        self._next = -float("inf")
        self._left_out = 0

    def __call__(self, message: str, *, exc_info: BaseException | None = None, **extra: object) -> None:
        """Log this with these fields, or count it."""
        now = self._clock()
        if now < self._next:
            self._left_out += 1
            return
        self._next = now + self._every_s
        if self._left_out:
            extra["left_out"] = self._left_out
        self._left_out = 0
        self._logger.log(self._level, message, exc_info=exc_info, extra=extra)
