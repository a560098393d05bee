"""Badges: how much is unread in all conversations of a user.

**Purpose.** Each notification has the badge, as of when it is sent. A user has many devices, and conversations without
an end; neither may make persistence work without a bound.

**Rules.**

1. A badge is counted after it was asked for. So it has whatever was written before the question.
2. One count of a user is under way at a time. All who ask meanwhile share the next one. So a notification for 25
   devices is counted twice at most.
3. Users with more than 1,000 conversations have no badge, and neither has one whose count takes too long. The answer is
   None then: a device shows the number of before, and never a wrong one.

**Example.** The letters of ten devices ask at once: one count. An eleventh asks while it runs: a second one.

**Trade-off.** A count looks at each conversation of the user. To keep sums would cost a write per member and message.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref

from services.persistence.chat.unread.counts import Counts

MOST = 1_000  # conversations of a user
LONGEST_S = 1.5  # of a count, seconds: two of them are less than the notifier waits for an answer


class Badges:
    """Badges of users; `of` raises `Unavailable`."""

    def __init__(self, counts: Counts, *, most: int = MOST, longest_s: float = LONGEST_S) -> None:
        """Take what counts, and the bounds."""
        self._counts, self._most, self._longest_s = counts, most, longest_s
        self._next: dict[str, asyncio.Task[int | None]] = {}  # counts that have not begun
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def of(self, user: str) -> int | None:
        """Return how much is unread in conversations neither muted nor archived.

        None: there are too many, or it takes too long.
        """
        task = self._next.get(user)
        if task is None or task.done():
            task = self._next[user] = asyncio.create_task(self._count(user))
            task.add_done_callback(_fetched)
        return await asyncio.shield(task)

    async def _count(self, user: str) -> int | None:
        turn = self._turns.get(user)
        if turn is None:
            turn = self._turns[user] = asyncio.Lock()
        async with turn:
            del self._next[user]  # whoever asks from now on needs a later count
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._longest_s):
                    return await self._counts.badge(user, self._most)
            return None


def _fetched(done: asyncio.Task[int | None]) -> None:
    """Fetch the exception of a count that nobody waits for any more."""
    if not done.cancelled():
        done.exception()
