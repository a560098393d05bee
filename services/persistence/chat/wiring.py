"""The parts of the chat service, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.persistence.chat.append import Appender
from services.persistence.chat.conversations import Conversations
from services.persistence.chat.erasing import Eraser
from services.persistence.chat.erasure_marks import ErasureMarks
from services.persistence.chat.marks import Marks
from services.persistence.chat.methods.context import Tools
from services.persistence.chat.methods.registry import Methods
from services.persistence.chat.pages import Pages
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.projection import Projection
from services.persistence.chat.queries import Queries
from services.persistence.chat.service import ChatServicer
from services.persistence.chat.traces import Traces
from services.persistence.chat.upkeep import Upkeep
from services.persistence.domain.log import Log
from services.persistence.domain.ports import LogStore
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)


class Chat:
    """Conversations of this process, with all that serves them."""

    def __init__(
        self,
        log: Log,
        rows: LogStore,
        store: ChatStore,
        redis: RedisPipeline,
        clock: Callable[[], float],
    ) -> None:
        """Put the parts together; `run` writes the read model.

        Args:
            log: The log of all channels.
            rows: Its store.
            store: The read model.
            redis: The connection that the log has, too.
            clock: Returns the time of Redis, Unix seconds.
        """
        marks = Marks(redis, clock)
        self.conversations = Conversations(log, rows, store)
        self.projection = Projection(self.conversations, marks)
        self.eraser = Eraser(log, rows, store, self.conversations, ErasureMarks(redis, clock))
        self.projection.on_swept = self.eraser.erase_void
        self.appender = Appender(log, self.conversations, self.projection, self.eraser, marks, clock)
        pages = Pages(log, self.conversations)
        self.queries = Queries(self.conversations, pages, rows, store, lambda: int(clock() * 1_000))
        self.upkeep = Upkeep(self.conversations, log, rows, store)
        self.traces = Traces(log, rows, store, self.conversations, self.eraser)
        self.methods = Methods(Tools(self.queries, self.appender, self.upkeep, self.traces))
        self.servicer = ChatServicer(self.appender, self.conversations, self.methods, clock)

    async def run(self) -> None:
        """Write the read model behind the log, and erase, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.projection.run())
            group.create_task(self.eraser.run())

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is under way, then write what is due; the log still runs."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.appender.close(timeout_s)
                await self.projection.flush()
                await self.eraser.flush()
        except TimeoutError:
            logger.warning("stopping with conversations that are not written; other replicas do it")
