"""Work that takes milliseconds, one piece in each round of the loop: whatever else there is comes in between."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """First come, first served."""

    __slots__ = ("_due", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._due = False  # the next one is already arranged

    async def mine(self) -> None:
        """Return in a round of the loop in which nobody else who waits here does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        if not self._due:
            self._due = True
            loop.call_soon(self._next, loop)
        await future

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                break
        self._due = bool(self._waiting)
        if self._due:
            loop.call_soon(self._next, loop)
