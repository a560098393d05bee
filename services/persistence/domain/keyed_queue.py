"""Who waits for whom: what is of one lane is written batch after batch, and lanes go side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from services.shared.rpc.linger import Linger

Work = TypeVar("Work")


class _KeyQueue(Generic[Work]):
    """Lives while anybody uses it."""

    __slots__ = ("has_writer", "lock", "users", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Work, float]] = deque()  # and when it came
        self.has_writer = False
        self.lock = asyncio.Lock()
        self.users = 0


class KeyedQueue(Generic[Work]):
    """Group commit, lane by lane: what arrives while a batch is written is the lane's next batch."""

    def __init__(
        self,
        settle: Callable[[list[Work]], Awaitable[None]],
        refuse: Callable[[Sequence[Work]], None],
        *,
        max_waiting: int,
        max_per_key: int,
        max_batch: int,
        max_wait_s: float,
        linger: Linger,
    ) -> None:
        """`settle` writes a batch and raises nothing; `refuse` tells those that waited for longer than `patience_s`.

        `pace` says how long a lane waits after a batch, for more to write, unless a whole batch waits already.
        """
        self._settle, self._refuse = settle, refuse
        self._max_waiting, self._max_per_key, self._max_batch = max_waiting, max_per_key, max_batch
        self._max_wait_s, self._linger = max_wait_s, linger
        self._queues: dict[str, _KeyQueue[Work]] = {}
        self._unwritten: deque[str] = deque()  # lanes whose writer is to be started
        self._news = asyncio.Event()
        self.waiting = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits or is being written."""
        return not self._queues

    def is_busy(self, name: str) -> bool:
        """Whether anything of the lane waits or is being written."""
        return name in self._queues

    def has_room(self, name: str) -> bool:
        """Whether one more may wait in this lane."""
        queue = self._queues.get(name)
        return self.waiting < self._max_waiting and (queue is None or len(queue.waiting) < self._max_per_key)

    def put(self, name: str, work: Work) -> None:
        """Add to the end of a lane."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _KeyQueue()
        if not queue.has_writer:
            queue.has_writer = True
            self._unwritten.append(name)
            self._news.set()
        queue.waiting.append((work, asyncio.get_running_loop().time()))
        self.waiting += 1

    async def run(self) -> None:
        """Write until cancelled; what still waits then is refused."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._news.wait()
                    self._news.clear()
                    while self._unwritten:
                        group.create_task(self._write(self._unwritten.popleft()))
        finally:
            for queue in self._queues.values():
                self._refuse([work for work, _ in queue.waiting])

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """As long as this lasts nothing of the lane is written by anybody else here."""
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
        async with self.exclusive(name):
            queue = self._queues[name]
            while batch := self._take(queue):
                self._linger.began(len(batch))
                await self._settle(batch)
                wait_s = self._linger.wait_s()
                if wait_s and len(queue.waiting) < self._max_batch:
                    await asyncio.sleep(wait_s)
            queue.has_writer = False

    def _take(self, queue: _KeyQueue[Work]) -> list[Work]:
        """The next batch, of those that have not waited for too long."""
        oldest = asyncio.get_running_loop().time() - self._max_wait_s
        batch: list[Work] = []
        late: list[Work] = []
        while queue.waiting and len(batch) < self._max_batch:
            work, came_at = queue.waiting.popleft()
            (batch if came_at >= oldest else late).append(work)
        self.waiting -= len(batch) + len(late)
        self._refuse(late)
        return batch
