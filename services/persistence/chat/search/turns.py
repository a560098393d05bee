"""Comparing messages in turns, so that a search does not stop all else.

Purpose. To cut a message up into words takes up to some milliseconds, and a search may have hundreds to compare. All of
that is work of the event loop, which also serves publishes.

Rules.

* All searches of a process compare in slices, one after the other. Between two slices the loop does all else once.
* Effort is counted, not time: about 0.1 µs each. A character is one in a text of ASCII, else ten, as all of the text
  has to be normalised.
* Each search has an amount of effort that it may spend. Who calls looks at what is left, between pages.

Example. Two searches have 51 messages of 32,000 bytes each. They take turns message by message, and a publish waits for
one message at most.

Trade-offs. A single message is never cut: up to 32,000 bytes, which take 3 ms in ASCII, and five times that otherwise.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

SLICE = 32_768  # effort between two turns of all else
_EACH = 100  # whatever it says
_NOT_ASCII = 10
T = TypeVar("T")
R = TypeVar("R")


def effort(text: str) -> int:
    """Return what it takes to compare a text."""
    return _EACH + len(text) * (1 if text.isascii() else _NOT_ASCII)


class Turns:
    """Whose turn it is, among the searches of a process."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._left = SLICE

    async def pick(self, items: Sequence[T], look: Callable[[T], tuple[int, R | None]]) -> tuple[int, list[R]]:
        """Return what `look` makes of items, without None, and the effort of it.

        `look` returns the effort of an item, and what is made of it.
        """
        spent, at = 0, 0
        found: list[R] = []
        while at < len(items):
            async with self._lock:
                if self._left <= 0:
                    await asyncio.sleep(0)  # the lock is held: nobody else compares until all else had its turn
                    self._left = SLICE
                while at < len(items) and self._left > 0:
                    cost, made = look(items[at])
                    at += 1
                    spent += cost
                    self._left -= cost
                    if made is not None:
                        found.append(made)
        return spent, found


class OneEach:
    """Lets each user do one thing at a time.

    So nobody takes all threads that search.
    """

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()  # that have their turn, or wait for it

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for the user's turn, which ends with the block."""
        lock = self._locks.setdefault(user, asyncio.Lock())
        self._users[user] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[user] -= 1
            if not self._users[user]:
                del self._users[user], self._locks[user]


class Work:
    """What one search may compare; `left`: effort, perhaps overspent by a page."""

    def __init__(self, turns: Turns, most: int) -> None:
        self._turns, self.left = turns, most

    async def pick(self, items: Sequence[T], look: Callable[[T], tuple[int, R | None]]) -> list[R]:
        """Spend effort as `Turns.pick` does."""
        spent, found = await self._turns.pick(items, look)
        self.left -= spent
        return found
