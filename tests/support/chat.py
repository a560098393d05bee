"""Replicas of the chat service, on a real Redis and an SQLite file."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from typing import Any

from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.adapters.sqlite_markers import SqliteMarkerStore
from services.persistence.chat.append import Appended, NewEvent, Options, Refused, Result
from services.persistence.chat.domain.fold import Entry
from services.persistence.chat.domain.state import view
from services.persistence.chat.live import Live
from services.persistence.chat.wiring import Chat
from services.shared.process.cancellation import end_task
from tests.chat.naive_fold import NaiveFold
from tests.support.persistence import Process, Site
from thalamus.common.v1 import common_pb2

GROUP = "conv:g.aaaaaaaaaaaaaaaaaaaaaaaaaa"
OPTIONS = Options(1_000, 3_600)


def new_event(
    author: str, event: dict[str, Any] | bytes, channel: str = GROUP, *, key: str = "", **options: Any
) -> NewEvent:
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    publication_id = os.urandom(16)
    publication = common_pb2.Publication(data=data, id=publication_id)
    if author:
        publication.info.user = author
    return NewEvent(
        channel,
        publication.SerializeToString(),
        publication_id,
        author,
        data,
        options.pop("options", OPTIONS),
        f"u:{author}",
        key,
        **options,
    )


class Replica:
    """One persistence process with conversations; replicas share the read model."""

    def __init__(
        self, process: Process, store: Any, markers: Any, pipeline: Any, clock: Callable[[], float], *, run: bool
    ) -> None:
        self.process = process
        self.chat = Chat(process.log, process.store, store, markers, pipeline, clock, lambda: self.process.incarnation)
        self.conversations, self.appender = self.chat.conversations, self.chat.appender
        self.projection = self.chat.projection
        self._running = asyncio.create_task(self.chat.run()) if run else None

    async def append(self, author: str, event: dict[str, Any] | bytes, **options: Any) -> Result:
        return await self.appender.append(new_event(author, event, **options))

    async def did(self, author: str, event: dict[str, Any], **options: Any) -> int:
        """Append what applies; return its offset."""
        found = await self.append(author, event, **options)
        assert isinstance(found, Appended), found
        assert found.void is None, found
        return found.offset

    async def say(self, author: str, text: str = "x", **options: Any) -> int:
        return await self.did(author, {"kind": "message", "text": text}, **options)

    async def create(self, *users: str, channel: str = GROUP, **create: Any) -> None:
        """Create a group of these users; the first one is the owner."""
        event = {"kind": "conversation", "op": "create", "type": "group", **create}
        await self.did(users[0], event, channel=channel)
        for user in users[1:]:
            await self.did(users[0], {"kind": "member", "op": "add", "user": user}, channel=channel)

    async def view(self, channel: str = GROUP) -> dict[str, Any]:
        """The state at the newest position, with all messages."""
        live = await self.conversations.current(channel)
        return await full_view(self, live)

    async def close(self) -> None:
        if self._running is not None:
            await end_task(self._running)


async def full_view(replica: Replica, live: Live) -> dict[str, Any]:
    messages = await replica.conversations.messages(live, range(1, live.position + 1))
    kept, live.state.messages = live.state.messages, dict(sorted(messages.items()))
    try:
        return view(live.state)
    finally:
        live.state.messages = kept


class ChatSite:
    """Redis, a store in a file, and as many replicas as a test wants."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.store = SqliteChatStore(site.store.database, site.store.note_erasure, has_search=True)
        self.markers = SqliteMarkerStore(site.store.database)
        self.later_s = 0.0  # by so much the clock of the replicas goes before the real one
        self.drain_s = 3.0  # longest wait of each replica at the end for what is not stored yet
        self.replicas: list[Replica] = []

    def replica(self, *, store: Any = None, run: bool = False, **options: Any) -> Replica:
        """Start a replica; `run`: it writes the read model by itself."""
        process = self.site.process(**options)
        made = Replica(process, store or self.store, self.markers, self.site.pipeline, self.clock, run=run)
        self.replicas.append(made)
        return made

    def clock(self) -> float:
        return time.time() + self.later_s

    async def log(self, channel: str = GROUP) -> list[Entry]:
        """All that is stored."""
        found = await self.site.store.read(channel, since_offset=0, upto=1 << 40, limit=100_000, reverse=False)
        entries = []
        for offset, publication in found:
            one = common_pb2.Publication.FromString(publication)
            entries.append(Entry(offset, one.info.user, one.time_ms, one.data))
        return entries

    async def naive(self, channel: str = GROUP) -> NaiveFold:
        """The other fold, of all that is stored."""
        naive = NaiveFold()
        for entry in await self.log(channel):
            naive.apply(entry.offset, entry.author, entry.time_ms, entry.data)
        return naive

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.appender.close(self.drain_s)
            await replica.close()
        await self.site.close()


def code(result: Result) -> int | str:
    """Code of a refusal; "ok", or why it is void."""
    if isinstance(result, Refused):
        return result.code
    return "ok" if result.void is None else result.void.value
