"""Items that wait for a result: what to send next, what has waited too long. No I/O; time is passed in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from services.shared.errors import Busy

Item = TypeVar("Item")
Result = TypeVar("Result")


class Waiting(Generic[Item, Result]):
    """One item and who waits for its result; `deadline` in seconds of the loop's clock."""

    __slots__ = ("deadline", "future", "item", "size")

    def __init__(self, item: Item, size: int, future: asyncio.Future[Result], deadline: float) -> None:
        self.item = item
        self.size = size
        self.future = future
        self.deadline = deadline


class BatchQueue(Generic[Item, Result]):
    """A bounded queue whose items stay in it, as unanswered, until they have a result."""

    def __init__(self, *, max_items: int, max_bytes: int, max_waiting: int) -> None:
        self._max_items, self._max_bytes, self._max_waiting = max_items, max_bytes, max_waiting
        self._unsent: deque[Waiting[Item, Result]] = deque()
        self._unanswered: deque[Waiting[Item, Result]] = deque()  # deadlines rise; the answered go lazily
        self._waiting = 0

    def __bool__(self) -> bool:
        """Whether anything is to be sent."""
        return bool(self._unsent)

    def put(self, waiting: Waiting[Item, Result]) -> None:
        """Add the newest. Its caller says `release` when it has stopped waiting.

        Raises:
            Busy: as many wait as may, sent or not.
        """
        if self._waiting >= self._max_waiting:
            raise Busy(f"{self._waiting} wait already")
        self._waiting += 1
        self._unsent.append(waiting)
        self._unanswered.append(waiting)

    def release(self) -> None:
        """One caller has stopped waiting."""
        self._waiting -= 1

    def take(self) -> list[Waiting[Item, Result]]:
        """The next batch: items whose caller still waits, within the bounds, but one at least if there is any."""
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
        """Send these again, before everything newer; returns how many somebody still waits for."""
        again = [waiting for waiting in items if not waiting.future.done()]
        self._unsent.extendleft(reversed(again))
        return len(again)

    def expire(self, now: float) -> list[Waiting[Item, Result]]:
        """Take out those whose deadline has passed without a result."""
        late: list[Waiting[Item, Result]] = []
        while self._unanswered and (self._unanswered[0].future.done() or self._unanswered[0].deadline <= now):
            waiting = self._unanswered.popleft()
            if not waiting.future.done():
                late.append(waiting)
        return late

    def next_deadline(self) -> float | None:
        """When `expire` is due again; None: nobody waits."""
        return self._unanswered[0].deadline if self._unanswered else None

    def forget_answered(self) -> None:
        """Let go of what has its result, so that the queue is as long as what is open."""
        while self._unanswered and self._unanswered[0].future.done():
            self._unanswered.popleft()

    def clear(self) -> list[Waiting[Item, Result]]:
        """Empty it; returns those who still wait."""
        left = [waiting for waiting in self._unanswered if not waiting.future.done()]
        self._unanswered.clear()
        self._unsent.clear()
        return left
