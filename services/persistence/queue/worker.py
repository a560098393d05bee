"""Worker: receives messages, stores their rows, and then deletes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from services.persistence.domain.ports import LogStore
from services.persistence.queue.sqs import Message
from services.persistence.queue.storing import store_messages
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

_AGAIN_S = 5  # seconds after which a message that could not be stored comes again
_PAUSE_S = 1.0  # pause after a failure of the queue, seconds


class Queue(Protocol):
    """What a worker needs of a queue; see `SqsQueue`."""

    async def receive(self) -> list[Message]: ...

    async def delete(self, messages: Sequence[Message]) -> None: ...

    async def put_back(self, messages: Sequence[Message], after_s: int) -> None: ...


class Worker:
    """Moves messages from the queue to the store."""

    def __init__(self, queue: Queue, store: LogStore, *, receivers: int, pause_s: float = _PAUSE_S) -> None:
        """Create it.

        `receivers`: how many calls to the queue wait at the same time. `pause_s`: pause after a failure, seconds.
        """
        self._queue, self._store, self._receivers, self._pause_s = queue, store, receivers, pause_s
        self.answers = False  # whether the queue answered the last call

    async def run(self) -> None:
        """Receive and store until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._receivers):
                group.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            try:
                await self.step()
                self.answers = True
            except Unavailable as error:
                self.answers = False
                logger.warning("the queue does not answer", extra={"error": str(error)})
                await asyncio.sleep(self._pause_s)
            except Exception:
                self.answers = False
                logger.exception("a receiver goes on after a failure")
                await asyncio.sleep(self._pause_s)

    async def step(self) -> int:
        """Receive once, store and delete; return how many messages there were.

        Raises:
            Unavailable: the queue does not answer. What was received comes again.
        """
        messages = await self._queue.receive()
        if not messages:
            return 0
        failed = await store_messages(self._store, {one.name: one.body for one in messages})
        await self._queue.delete([one for one in messages if one.name not in failed])
        await self._queue.put_back([one for one in messages if one.name in failed], _AGAIN_S)
        return len(messages)
