"""Collects items of many callers, and hands them on in batches.

**Purpose.** A round trip costs CPU on both sides, whatever is in it. Items that arrive while earlier batches are under
way, or within a short wait, therefore leave together. Each caller waits for the result of its own item.

**Rules.**

* Items leave in the order in which they arrived. Each is in one batch, unless it is put back.
* A batch has at most `max_items` items and `max_bytes` bytes, but always at least one item.
* `on_due` is called when the next batch should leave: in the next iteration of the event loop, or after the linger. The
  user then takes as many batches as it has room for, and calls `wake` when there is room again.
* Whoever has no result after `deadline_s` gets the error `late`, whether the item was taken or not.
* An item whose future is done, because its caller gave up or it was late, is left out of every later batch.
* Full is when `max_waiting` items wait: `put` raises `Busy`, and nothing was done. Items that were taken count only
  with `counts_taken`. Items that are done do not count, except in the middle of a long queue: it is looked through
  after as many refusals as a 32nd of its length.
* Items of a batch that failed can be put back: to the front, in their order, with their deadlines unchanged.

**Example.** `max_items` is 3 and there is room for one batch. Items a to e arrive in one iteration: a, b and c leave as
a batch. d and e wait until it has ended, and leave together with the f that arrived meanwhile.

**Trade-offs.** The user sets the futures and knows what room is: streams to several replicas and a connection with
several round trips under way differ in that. All items have the same time to their deadline, so one timer serves all.

Not for: work that excludes other work on the same key (`services/persistence/domain/keyed_queue.py`), and states of
which only the last one counts (`services/edge/adapters/presence_client.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from services.shared.batching.linger import Linger
from services.shared.errors import Busy

_LOOKED_AT = 32  # items that are looked at for each refusal, on average
_SHORTEST_WAIT_S = 0.001  # resolution of the loop's timers, seconds: a shorter linger is skipped


class Waiting(Protocol):
    """An item that somebody waits for."""

    @property
    def future(self) -> asyncio.Future[Any]: ...


Item = TypeVar("Item", bound=Waiting)


class Batcher(Generic[Item]):
    """Items that wait, and the batches that they leave in; see the module."""

    def __init__(
        self,
        on_due: Callable[[], None],
        *,
        max_items: int,
        max_waiting: int,
        deadline_s: float,
        late: Callable[[], Exception],
        linger: Linger,
        max_bytes: int = 0,
        size: Callable[[Item], int] | None = None,
        counts_taken: bool = False,
    ) -> None:
        """Create an empty batcher. Needs a running event loop.

        Args:
            on_due: Called when a batch should leave.
            max_items: Most items of a batch.
            max_waiting: Most items that may wait.
            deadline_s: Longest wait for a result, seconds.
            late: Makes the error of an item that has no result in time.
            linger: How long a batch waits for more items.
            max_bytes: Most bytes of a batch; one item alone may have more. Only with `size`.
            size: Bytes of an item; None: batches have no bound in bytes.
            counts_taken: Whether an item counts as waiting until it has a result; otherwise until it is taken.
        """
        self._on_due, self._late, self._linger, self._size = on_due, late, linger, size
        self._max_items, self._max_bytes, self._max_waiting = max_items, max_bytes, max_waiting
        self._deadline_s, self._counts_taken = deadline_s, counts_taken
        self._loop = asyncio.get_running_loop()
        self._untaken: deque[Item] = deque()
        self._deadlines: deque[tuple[float, asyncio.Future[Any]]] = deque()  # earliest first; done ones go later
        self._without_result = 0  # counted only with `counts_taken`
        self._refused = 0  # since all items were looked at
        self._due: asyncio.Handle | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many items have not been taken, with those that are done already."""
        return len(self._untaken)

    def put(self, item: Item) -> None:
        """Add an item.

        Raises:
            Busy: too many wait already; nothing was done.
        """
        waiting = self._without_result if self._counts_taken else len(self._untaken)
        if waiting >= self._max_waiting and not self._counts_taken:
            waiting = self._still_waiting()
        if waiting >= self._max_waiting:
            raise Busy(f"{waiting} wait already")
        future, deadlines = item.future, self._deadlines
        if self._counts_taken:
            self._without_result += 1
            future.add_done_callback(self._has_result)
        while deadlines and deadlines[0][1].done():
            deadlines.popleft()
        deadline = self._loop.time() + self._deadline_s
        deadlines.append((deadline, future))
        if self._expiry is None:
            self._expiry = self._loop.call_at(deadline, self._expire)
        self._untaken.append(item)
        if self._due is None:
            self.wake()

    def wake(self) -> None:
        """Have `on_due` called, after the linger, if any items have not been taken."""
        if self._untaken and self._due is None:
            wait_s = self._linger.wait_s()
            if wait_s >= _SHORTEST_WAIT_S:
                self._due = self._loop.call_later(wait_s, self._is_due)
            else:
                self._due = self._loop.call_soon(self._is_due)

    def take(self) -> list[Item]:
        """Remove and return the next batch; empty if nobody waits for an item."""
        untaken, size_of = self._untaken, self._size
        batch: list[Item] = []
        size = 0
        while untaken and len(batch) < self._max_items:
            item = untaken[0]
            if not item.future.done():
                if size_of is not None:
                    size += size_of(item)
                    if batch and size > self._max_bytes:
                        break
                batch.append(item)
            untaken.popleft()
        if batch:
            self._linger.began(len(batch))
        return batch

    def put_back(self, items: Iterable[Item]) -> int:
        """Put taken items back to the front, in order.

        Return how many somebody still waits for.

        The others are dropped.
        """
        again = [item for item in items if not item.future.done()]
        self._untaken.extendleft(reversed(again))
        self.wake()
        return len(again)

    def close(self, error: Callable[[], Exception]) -> None:
        """Give everyone without a result an error, taken or not.

        Nothing may be put in any more.
        """
        for timer in (self._due, self._expiry):
            if timer is not None:
                timer.cancel()
        for _, future in self._deadlines:
            if not future.done():
                future.set_exception(error())
        self._deadlines.clear()
        self._untaken.clear()

    def _still_waiting(self) -> int:
        """Drop items that are done, if it is worth looking; return how many are left.

        Those that came first are late first, so nearly all of them are at the front.
        """
        untaken = self._untaken
        while untaken and untaken[0].future.done():
            untaken.popleft()
        self._refused += 1
        if len(untaken) >= self._max_waiting and self._refused * _LOOKED_AT >= len(untaken):
            self._refused = 0
            self._untaken = deque(item for item in untaken if not item.future.done())
        return len(self._untaken)

    def _is_due(self) -> None:
        self._due = None
        self._on_due()

    def _has_result(self, _: asyncio.Future[Any]) -> None:
        self._without_result -= 1

    def _expire(self) -> None:
        """Fail the items that have no result at their deadline."""
        now, deadlines = self._loop.time(), self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1].done()):
            _, future = deadlines.popleft()
            if not future.done():
                future.set_exception(self._late())
        self._expiry = self._loop.call_at(deadlines[0][0], self._expire) if deadlines else None
