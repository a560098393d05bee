"""Queue of items that wait for a result and are sent in batches. No I/O.

It knows what to send next and which items have waited too long. Time is passed in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from services.shared.errors import Busy

Item = TypeVar("Item")
Result = TypeVar("Result")


class Waiting(Generic[Item, Result]):
    """One item and the future of its result.

    `size` is in bytes, `deadline` in seconds of the event loop's clock.
    """

    __slots__ = ("deadline", "future", "item", "size")

    def __init__(self, item: Item, size: int, future: asyncio.Future[Result], deadline: float) -> None:
        self.item = item
        self.size = size
        self.future = future
        self.deadline = deadline


class BatchQueue(Generic[Item, Result]):
    """A bounded queue. An item stays in it, sent or not, until it has a result."""

    def __init__(self, *, max_items: int, max_bytes: int, max_waiting: int) -> None:
        self._max_items, self._max_bytes, self._max_waiting = max_items, max_bytes, max_waiting
        self._unsent: deque[Waiting[Item, Result]] = deque()
        self._unanswered: deque[Waiting[Item, Result]] = deque()  # by deadline; answered items go later
        self._waiting = 0

    def __bool__(self) -> bool:
        """Whether there are unsent items."""
        return bool(self._unsent)

    def put(self, waiting: Waiting[Item, Result]) -> None:
        """Append an item. The caller must call `release` when it stops waiting for it.

        Raises:
            Busy: `max_waiting` items wait already, sent or not.
        """
        if self._waiting >= self._max_waiting:
            raise Busy(f"{self._waiting} wait already")
        self._waiting += 1
        self._unsent.append(waiting)
        self._unanswered.append(waiting)

    def release(self) -> None:
        """Note that one caller has stopped waiting."""
        self._waiting -= 1

    def take(self) -> list[Waiting[Item, Result]]:
        """Remove and return the next batch of unsent items.

        Leaves out items whose caller no longer waits. The batch stays within `max_items` and `max_bytes`, but has at
        least one item if there is any.
        """
        items: list[Waiting[Item, Result]] = []
        size = 0
        while self._unsent and len(items) < self._max_items:
            waiting = self._unsent[0]
            if not waiting.future.done():
                size += waiting.size
                if items and size > self._max_bytes:
                    break
                items.append(waiting)
            self._unsent.popleft()
        return items

    def put_back(self, items: Iterable[Waiting[Item, Result]]) -> int:
        """Put items of a broken stream back to the front of the unsent ones, in order.

        Returns how many of them somebody still waits for.
        """
        again = [waiting for waiting in items if not waiting.future.done()]
        self._unsent.extendleft(reversed(again))
        return len(again)

    def expire(self, now: float) -> list[Waiting[Item, Result]]:
        """Remove and return the items whose deadline has passed without a result."""
        late: list[Waiting[Item, Result]] = []
        while self._unanswered and (self._unanswered[0].future.done() or self._unanswered[0].deadline <= now):
            waiting = self._unanswered.popleft()
            if not waiting.future.done():
                late.append(waiting)
        return late

    def next_deadline(self) -> float | None:
        """Return when `expire` is due again; None if nobody waits."""
        return self._unanswered[0].deadline if self._unanswered else None

    def forget_answered(self) -> None:
        """Remove answered items from the front, so that the queue does not grow."""
        while self._unanswered and self._unanswered[0].future.done():
            self._unanswered.popleft()

    def clear(self) -> list[Waiting[Item, Result]]:
        """Empty the queue and return the items that somebody still waits for."""
        left = [waiting for waiting in self._unanswered if not waiting.future.done()]
        self._unanswered.clear()
        self._unsent.clear()
        return left
