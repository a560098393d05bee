"""Deadlines of many futures by one timer, which is cheaper than a timer for each."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from services.shared.errors import Unavailable


class Expiry:
    """Fails futures with `Unavailable` that are not done within `limit_s` seconds."""

    def __init__(self, limit_s: float, why: str) -> None:
        self._limit_s, self._why = limit_s, why
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()  # (deadline, future), earliest first
        self._timer: asyncio.TimerHandle | None = None

    def add(self, future: asyncio.Future[Any], now: float) -> None:
        """Watch a future from `now` on, in seconds of the running loop's clock."""
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((now + self._limit_s, future))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(now + self._limit_s, self._expire)

    def close(self) -> None:
        """Fail all futures that are not done, and stop the timer."""
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(Unavailable(self._why))
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        loop, waiting = asyncio.get_running_loop(), self._waiting
        now = loop.time()
        while waiting and (waiting[0][0] <= now or waiting[0][1].done()):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(Unavailable(self._why))
        self._timer = loop.call_at(waiting[0][0], self._expire) if waiting else None
