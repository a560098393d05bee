"""Queue of work by key: one key in order and batches, different keys concurrently.

Purpose. Group commit. What arrives while a batch of a key is written is the key's next batch, so batches grow with the
load, and work of an idle key starts at once.

Rules.

* Work of one key is written in the order of arrival, one batch at a time.
* Batches of different keys are written concurrently.
* `exclusive`: while one holds a key, nobody else in this process works on it. Writers hold it too.
* `has_room` bounds what waits: in all, and per key. `put` does not check it.
* Work that has waited longer than `max_wait_s` is rejected, not written: its caller has given up.
* A key takes memory only while work of it waits or somebody works on it.

Example. A write takes 10 ms. Work a, b and c of one key arrives at 0, 2 and 5 ms, on a process that is not busy: a is
written at 0 ms, b and c together at 10 ms. Work of another key that arrives at 2 ms is written at 2 ms.

Trade-offs. With one key for everything (SQLite), one transaction serves all channels, and a slow one delays all of
them. With a key per channel (DynamoDB), none delays another, and batches are smaller. The linger makes the batches of a
busy process larger, and adds up to its length to the latency. See docs/decisions/0008 and 0010.

Not a `Batcher` (`services/shared/batching`): here the writer of a key asks for its next batch, after exclusive work of
others on that key, and a key that nobody uses keeps nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from services.shared.batching.linger import Linger

Work = TypeVar("Work")


class _KeyQueue(Generic[Work]):
    """Waiting work of one key; exists only while it is used."""

    __slots__ = ("has_writer", "lock", "users", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Work, float]] = deque()  # with the time of arrival by the clock of the loop, seconds
        self.has_writer = False
        self.lock = asyncio.Lock()
        self.users = 0


class KeyedQueue(Generic[Work]):
    """Work by key, written in batches; see the module."""

    def __init__(
        self,
        settle: Callable[[list[Work]], Awaitable[None]],
        reject: Callable[[Sequence[Work]], None],
        *,
        max_waiting: int,
        max_per_key: int,
        max_batch: int,
        max_wait_s: float,
        linger: Linger,
    ) -> None:
        """Create an empty queue; `run` does the writing.

        Args:
            settle: Writes a batch; raises nothing.
            reject: Gets the work that waited too long, and what still waits when `run` ends.
            max_waiting: Work that may wait, of all keys.
            max_per_key: Work that may wait, of one key.
            max_batch: Work of one batch.
            max_wait_s: Longest wait, seconds.
            linger: How long a key waits for more work after a batch, unless a full batch waits already.
        """
        self._settle, self._reject = settle, reject
        self._max_waiting, self._max_per_key, self._max_batch = max_waiting, max_per_key, max_batch
        self._max_wait_s, self._linger = max_wait_s, linger
        self._queues: dict[str, _KeyQueue[Work]] = {}
        self._unwritten: deque[str] = deque()  # keys whose writer is to be started
        self._has_work = asyncio.Event()
        self.waiting = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nobody works on any key."""
        return not self._queues

    def is_busy(self, name: str) -> bool:
        """Whether work of the key waits, or somebody works on it."""
        return name in self._queues

    def has_room(self, name: str) -> bool:
        """Whether one more piece of work may wait for this key."""
        queue = self._queues.get(name)
        return self.waiting < self._max_waiting and (queue is None or len(queue.waiting) < self._max_per_key)

    def put(self, name: str, work: Work) -> None:
        """Add work to the end of a key's queue."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _KeyQueue()
        if not queue.has_writer:
            queue.has_writer = True
            self._unwritten.append(name)
            self._has_work.set()
        queue.waiting.append((work, asyncio.get_running_loop().time()))
        self.waiting += 1

    async def run(self) -> None:
        """Write batches until cancelled; what still waits then is rejected."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._has_work.wait()
                    self._has_work.clear()
                    while self._unwritten:
                        group.create_task(self._write(self._unwritten.popleft()))
        finally:
            for queue in self._queues.values():
                self._reject([work for work, _ in queue.waiting])

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """Context during which nobody else in this process works on the key."""
        queue = self._queues.setdefault(name, _KeyQueue())
        queue.users += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.users -= 1
            if not queue.users and not queue.waiting:
                del self._queues[name]

    async def _write(self, name: str) -> None:
        """Write batches of a key until no work of it waits."""
        async with self.exclusive(name):
            queue = self._queues[name]
            while batch := self._next_batch(queue):
                self._linger.began(len(batch))
                await self._settle(batch)
                wait_s = self._linger.wait_s()
                if wait_s and len(queue.waiting) < self._max_batch:
                    await asyncio.sleep(wait_s)
            queue.has_writer = False

    def _next_batch(self, queue: _KeyQueue[Work]) -> list[Work]:
        """Return the next batch; work that waited too long is rejected, not returned."""
        oldest = asyncio.get_running_loop().time() - self._max_wait_s
        batch: list[Work] = []
        late: list[Work] = []
        while queue.waiting and len(batch) < self._max_batch:
            work, came_at = queue.waiting.popleft()
            (batch if came_at >= oldest else late).append(work)
        self.waiting -= len(batch) + len(late)
        self._reject(late)
        return batch
