"""Who waits for whom: what is of one lane is written batch after batch, and lanes go side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from services.shared.rpc.linger import Pace

Work = TypeVar("Work")


class _Lane(Generic[Work]):
    """Lives while anybody uses it."""

    __slots__ = ("has_writer", "lock", "users", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Work, float]] = deque()  # and when it came
        self.has_writer = False
        self.lock = asyncio.Lock()
        self.users = 0


class Lanes(Generic[Work]):
    """Group commit, lane by lane: what arrives while a batch is written is the lane's next batch."""

    def __init__(
        self,
        settle: Callable[[list[Work]], Awaitable[None]],
        refuse: Callable[[Sequence[Work]], None],
        *,
        max_waiting: int,
        max_of_lane: int,
        max_batch: int,
        patience_s: float,
        pace: Pace,
    ) -> None:
        """`settle` writes a batch and raises nothing; `refuse` tells those that waited for longer than `patience_s`.

        `pace` says how long a lane waits after a batch, for more to write, unless a whole batch waits already.
        """
        self._settle, self._refuse = settle, refuse
        self._max_waiting, self._max_of_lane, self._max_batch = max_waiting, max_of_lane, max_batch
        self._patience_s, self._pace = patience_s, pace
        self._lanes: dict[str, _Lane[Work]] = {}
        self._unwritten: deque[str] = deque()  # lanes whose writer is to be started
        self._news = asyncio.Event()
        self.waiting = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits or is being written."""
        return not self._lanes

    def is_busy(self, name: str) -> bool:
        """Whether anything of the lane waits or is being written."""
        return name in self._lanes

    def has_room(self, name: str) -> bool:
        """Whether one more may wait in this lane."""
        lane = self._lanes.get(name)
        return self.waiting < self._max_waiting and (lane is None or len(lane.waiting) < self._max_of_lane)

    def put(self, name: str, work: Work) -> None:
        """Add to the end of a lane."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane()
        if not lane.has_writer:
            lane.has_writer = True
            self._unwritten.append(name)
            self._news.set()
        lane.waiting.append((work, asyncio.get_running_loop().time()))
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
            for lane in self._lanes.values():
                self._refuse([work for work, _ in lane.waiting])

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """As long as this lasts nothing of the lane is written by anybody else here."""
        lane = self._lanes.setdefault(name, _Lane())
        lane.users += 1
        try:
            async with lane.lock:
                yield
        finally:
            lane.users -= 1
            if not lane.users and not lane.waiting:
                del self._lanes[name]

    async def _write(self, name: str) -> None:
        async with self.alone(name):
            lane = self._lanes[name]
            while batch := self._take(lane):
                self._pace.began(len(batch))
                await self._settle(batch)
                wait_s = self._pace.wait_s()
                if wait_s and len(lane.waiting) < self._max_batch:
                    await asyncio.sleep(wait_s)
            lane.has_writer = False

    def _take(self, lane: _Lane[Work]) -> list[Work]:
        """The next batch, of those that have not waited for too long."""
        oldest = asyncio.get_running_loop().time() - self._patience_s
        batch: list[Work] = []
        late: list[Work] = []
        while lane.waiting and len(batch) < self._max_batch:
            work, came_at = lane.waiting.popleft()
            (batch if came_at >= oldest else late).append(work)
        self.waiting -= len(batch) + len(late)
        self._refuse(late)
        return batch
