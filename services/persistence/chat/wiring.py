"""The parts of the chat service, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from services.persistence.chat.append import Appender
from services.persistence.chat.conversations import Conversations
from services.persistence.chat.devices.devices import Devices
from services.persistence.chat.domain.names import namespace_of, type_of
from services.persistence.chat.erasing import Eraser
from services.persistence.chat.erasure_marks import ErasureMarks
from services.persistence.chat.expiry import Expiry
from services.persistence.chat.farewells import Farewells
from services.persistence.chat.fates import Fates
from services.persistence.chat.inbox.inbox import MOST, Inbox
from services.persistence.chat.inbox.lists import Lists
from services.persistence.chat.list_watcher import Away
from services.persistence.chat.markers.flushing import Flusher
from services.persistence.chat.markers.kept import KeptMarkers
from services.persistence.chat.markers.markers import Markers
from services.persistence.chat.markers.ports import MarkerStore, Of
from services.persistence.chat.markers.receipts import Receipts
from services.persistence.chat.marks import Marks
from services.persistence.chat.memberships import Memberships
from services.persistence.chat.methods.context import Tools
from services.persistence.chat.methods.registry import Methods
from services.persistence.chat.notifications import Notifications
from services.persistence.chat.pages import Pages
from services.persistence.chat.ports import ChatStores
from services.persistence.chat.projection import Projection
from services.persistence.chat.queries import Queries
from services.persistence.chat.rows import named_by
from services.persistence.chat.search.indexing import Indexing
from services.persistence.chat.search.names import NameSearch
from services.persistence.chat.search.search import Search
from services.persistence.chat.service import ChatServicer
from services.persistence.chat.shown_marks import ShownMarks
from services.persistence.chat.traces import Traces
from services.persistence.chat.unread.badge import Badges
from services.persistence.chat.unread.counts import Counts
from services.persistence.chat.upkeep import Upkeep
from services.persistence.chat.who_types import Typing
from services.persistence.domain.log import Log
from services.persistence.domain.ports import LogStore
from services.persistence.domain.readable_rows import ReadableRows
from services.shared.errors import Unavailable
from services.shared.incarnation.calls import Known
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)

_FORGOTTEN_AT_ONCE = 500  # places


class Chat:
    """Conversations of this process, with all that serves them."""

    def __init__(
        self,
        log: Log,
        stored: LogStore,
        store: ChatStores,
        marker_store: MarkerStore,
        redis: RedisPipeline,
        clock: Callable[[], float],
        incarnation: Callable[[], str],
        *,
        web_push_hosts: Sequence[str] = (),
        inbox_max: int = MOST,
        namespaces: Collection[str] | None = None,
        known: Callable[[], Known] = Known,
    ) -> None:
        """Put the parts together; `run` writes the read model.

        Args:
            log: The log of all channels.
            stored: Its store.
            store: The read model.
            marker_store: Where markers are behind Redis.
            redis: The connection that the log has, too.
            clock: Returns the time of Redis, Unix seconds.
            incarnation: Returns the token of the present incarnation of Redis.
            web_push_hosts: Where addresses of Web Push may lie, see `devices/device.py`.
            inbox_max: Conversations of a user that inboxes look at.
            namespaces: Names of those with conversations, for searches; None: not known, any.
            known: Returns what this process has seen of Redis.
        """

        def now_ms() -> int:
            return int(clock() * 1_000)

        def is_conversation(channel: str) -> bool:
            return type_of(channel) is not None and (namespaces is None or namespace_of(channel) in namespaces)

        rows = ReadableRows(log, stored)
        marks = Marks(redis, clock)
        self.conversations = Conversations(log, rows, store, clock=clock)
        self.projection = Projection(self.conversations, marks)
        erasure_marks = ErasureMarks(redis, clock)
        self.conversations.purging.lowest_mark = erasure_marks.lowest
        self.eraser = Eraser(log, rows, stored, store, self.conversations, erasure_marks)
        log.ask_named(named_by)
        self.projection.on_swept = self.eraser.erase_void
        self.appender = Appender(log, self.conversations, self.projection, self.eraser, Fates(store), marks, clock)
        self.expiry = Expiry(rows, self.conversations, self.appender, self.eraser, redis)
        pages = Pages(log, self.conversations)
        kept = KeptMarkers(redis, clock, incarnation)
        self.markers, self.flusher = Markers(kept, marker_store), Flusher(kept, marker_store)
        self.conversations.on_left = self._forget_places
        self.receipts = Receipts(redis, self.markers, self.conversations)
        self.counts = Counts(self.conversations, rows, store, self.markers, now_ms)
        lists = Lists(redis, store, incarnation, now_ms, most=inbox_max)
        self.conversations.writer.list_watcher = lists
        self.inbox = Inbox(redis, log, rows, self.conversations, lists, self.markers, self.counts, incarnation, now_ms)
        self.queries = Queries(self.conversations, pages, rows, store, self.counts, now_ms)
        self.upkeep = Upkeep(self.conversations, log, rows, store)
        self.traces = Traces(log, rows, store, self.conversations, self.eraser)
        self.devices = Devices(store.devices)
        self.badges = Badges(self.counts)
        self.notifications = Notifications(
            log, rows, self.conversations, self.markers, self.devices, self.badges, now_ms
        )
        self.shown_marks = ShownMarks(redis)
        self.markers.on_moved.append(self.shown_marks.moved)
        self.typing = Typing(redis, now_ms)
        self.indexing, search = None, None
        if store.search is not None:
            self.indexing = Indexing(self.conversations, rows, store.search)
            self.projection.on_written, self.projection.on_grew = self.indexing.reach, self.indexing.soon
            self.indexing.is_conversation = is_conversation
            search = Search(
                self.queries,
                self.conversations,
                self.inbox,
                rows,
                store.search,
                self.indexing,
                now_ms,
                is_conversation,
            )
        self.tools = Tools(
            self.queries,
            self.appender,
            self.upkeep,
            self.traces,
            self.devices,
            self.notifications,
            self.markers,
            self.receipts,
            self.inbox,
            self.typing,
            Farewells(redis),
            search,
            NameSearch(self.inbox, store, self.conversations),
            now_ms,
            web_push_hosts=web_push_hosts,
        )
        self.methods = Methods(self.tools)
        self.servicer = ChatServicer(self.appender, self.conversations, self.methods, Memberships(store), clock, known)

    async def run(self) -> None:
        """Write the read model behind the log, and erase, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.projection.run())
            group.create_task(self.eraser.run())
            group.create_task(self.flusher.run())
            group.create_task(self.shown_marks.run())
            group.create_task(self.receipts.run())
            if self.indexing is not None:
                group.create_task(self.indexing.run())

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is under way, then write what is due; the log still runs."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.appender.close(timeout_s)
                await self.projection.flush()
                if self.indexing is not None:
                    await self.indexing.flush()
                await self.eraser.flush()
                await self._flush_markers()
                await self.inbox.drain()
        except TimeoutError:
            logger.warning("stopping with conversations that are not written; other replicas do it")

    async def _forget_places(self, channel: str, users: Sequence[str], away: Away) -> None:
        """Forget up to where users have read what they may not read any more."""
        for start in range(0, len(users), _FORGOTTEN_AT_ONCE):
            await self.markers.forget([Of(user, channel) for user in users[start : start + _FORGOTTEN_AT_ONCE]], away)

    async def _flush_markers(self) -> None:
        try:
            await self.flusher.flush()
        except Unavailable as error:  # they are in Redis, and noted there
            logger.warning("stopping with markers that are not written", extra={"error": str(error)})
