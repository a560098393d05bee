"""Rate limit for log lines that outsiders can cause."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_EVERY_S = 10.0  # shortest time between two lines, seconds


class RateLimitedLog:
    """Logs at most one line every `every_s` seconds.

    The next line says how many were left out, in the field `left_out`.
    """

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
        """Log the message with these fields, or count it as left out."""
        now = self._clock()
        if now < self._next:
            self._left_out += 1
            return
        self._next = now + self._every_s
        if self._left_out:
            extra["left_out"] = self._left_out
        self._left_out = 0
        self._logger.log(self._level, message, exc_info=exc_info, extra=extra)
