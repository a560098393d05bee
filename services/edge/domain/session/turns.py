"""Spreads long pieces of work over the rounds of the event loop.

One piece, which may take milliseconds, runs in each round, so that other work gets its turn in between.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Queue of pieces of work: first come, first served."""

    __slots__ = ("_due", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._due = False  # `_next` is scheduled

    async def mine(self) -> None:
        """Wait for a round of the event loop in which no other caller returns from here."""
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
