"""Replicas that serve methods on conversations, on one Redis and one store.

The store is an SQLite file, or DynamoDB on moto's server. `Site.log` is what was appended, whatever was erased since.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.chat.adapters.dynamodb.markers import DynamoDbMarkerStore
from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.adapters.sqlite_markers import SqliteMarkerStore
from services.persistence.chat.append import Appender
from services.persistence.chat.methods.registry import Methods
from services.persistence.chat.new_events import NewEvent, Refused, Result
from services.persistence.chat.wiring import Chat
from services.persistence.domain.draining import Sink
from services.persistence.domain.log import Log
from services.shared.dynamodb.client import DynamoDb
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.dynamodb_tables import PATIENCE_S, own_tables
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.common.v1.common_pb2 import ClientInfo, Publication

NAMESPACE = "conv"
OPTIONS = pb.NamespaceOptions(
    history_size=1_000,
    history_ttl_s=3_600,
    group_max_members=1_000,
    max_data_bytes=65_536,
    receipts_max_members=100,
    typing_max_members=5,
)

QUEUED_OPTIONS = pb.NamespaceOptions()
QUEUED_OPTIONS.CopyFrom(OPTIONS)
QUEUED_OPTIONS.queued = True
MakeSink = Callable[[Any], Sink]  # makes that of a process, from its store


class CallRefused(Exception):
    """A method was refused."""

    def __init__(self, refusal: pb.Refusal) -> None:
        super().__init__(f"{refusal.code} {refusal.why}: {refusal.text}")
        self.code, self.why, self.refusal = refusal.code, refusal.why, refusal


class Entry(NamedTuple):
    """One publication of a log, as it was appended."""

    offset: int
    author: str
    time_ms: int
    data: bytes


class Replica:
    """One process of persistence, as far as methods on conversations need it."""

    def __init__(self, site: Site, pipeline: RedisPipeline, rows: Any, store: Any, markers: Any) -> None:
        self.rows, self.store, self.marker_store = rows, store, markers
        self.incarnation = "incarnation.1"
        self.options = QUEUED_OPTIONS if site.sink is not None else OPTIONS
        self.names: dict[str, str] = {}  # user → what edges know of the user beside the id
        self.hot = RedisHotLog(pipeline, lambda: self.incarnation)
        sink = None if site.sink is None else site.sink(rows)
        self._has_sink = sink is not None
        self.log = Log(self.hot, rows, max_unstored=10_000, max_waiting=10_000, max_batch=256, sink=sink)
        self.chat = Chat(
            self.log,
            rows,
            store,
            markers,
            pipeline,
            time.time,
            lambda: self.incarnation,
            web_push_hosts=["push.example.com"],
            namespaces=[NAMESPACE],
        )
        self.conversations, self.appender, self.queries = self.chat.conversations, self.chat.appender, self.chat.queries
        self.methods = Methods(dataclasses.replace(self.chat.tools, appender=site.recording(self.appender)))
        self._tasks = [asyncio.create_task(self.log.run()), asyncio.create_task(self.chat.run())]

    async def ask(self, user: str, method: str, key: str = "", /, **params: Any) -> pb.CallResponse:
        """Call a method; a trailing `_` of a name is dropped, for `from_`, `with_`.

        `asks_to_begin` and `sid`, the sign-in, are no parameters of the method.
        """
        asks_to_begin, sid = params.pop("asks_to_begin", False), params.pop("sid", "")
        given = {name.rstrip("_"): value for name, value in params.items()}
        known = self.names.get(user, "").encode()
        info = ClientInfo(user=user, client="c", conn_info=known) if user else None
        return await self.methods.call(
            pb.CallRequest(
                method=method,
                info=info,
                params=json.dumps(given).encode(),
                key_user=f"u:{user}",
                key=key,
                namespace=NAMESPACE,
                options=self.options,
                asks_to_begin=asks_to_begin,
                session=sid,
            )
        )

    async def call(self, user: str, method: str, key: str = "", /, **params: Any) -> dict[str, Any]:
        """Call a method and return its answer; CallRefused if it was refused."""
        response = await self.ask(user, method, key, **params)
        if response.HasField("refusal"):
            raise CallRefused(response.refusal)
        answer: dict[str, Any] = json.loads(response.result)
        return answer

    async def rest(self) -> None:
        """Do nothing any more but what is asked for."""
        await end_task(self._tasks.pop())

    async def close(self) -> None:
        await self.appender.close(0.1 if self._has_sink else 3.0)  # nobody may ever store what is in the queue
        for task in self._tasks:
            await end_task(task)


class _Recording:
    """An appender that remembers what it was given, and fails as the site says."""

    def __init__(self, appender: Appender, site: Site) -> None:
        self._appender, self._site = appender, site

    async def append(self, event: NewEvent) -> Result:
        fault = self._site.next_fault()
        if fault == "before":
            return Refused(100, "unavailable")
        self._site.seen[event.publication_id] = event
        result = await self._appender.append(event)
        return Refused(100, "unavailable") if fault == "after" else result


class Site:
    """Redis, a store, and replicas on them.

    `stores` makes the log's store, the read model, and the store of markers of one process. With `sink` the
    conversations are `queued`, and go there.
    """

    def __init__(
        self, pipelines: list[RedisPipeline], stores: Callable[[], tuple[Any, Any, Any]], sink: MakeSink | None
    ) -> None:
        self._pipelines, self._stores, self.sink = pipelines, stores, sink
        self._generation = 1
        self.seen: dict[bytes, NewEvent] = {}
        self.next_fault: Callable[[], str] = lambda: ""  # "before", "after": an append fails without or with its effect
        self.replicas: list[Replica] = []
        for pipeline in pipelines:
            self._start(pipeline)
        self.rows, self.store = self.replicas[0].rows, self.replicas[0].store

    def recording(self, appender: Appender) -> Any:
        return _Recording(appender, self)

    async def lose_redis(self) -> None:
        """Empty Redis, and have all replicas know it."""
        await self._pipelines[0].execute([("FLUSHDB",)], timeout_s=10)
        self._generation += 1
        for replica in self.replicas:
            replica.incarnation = f"incarnation.{self._generation}"

    def another(self) -> Replica:
        """One more process, with nothing in memory."""
        return self._start(self._pipelines[0])

    def _start(self, pipeline: RedisPipeline) -> Replica:
        self.replicas.append(Replica(self, pipeline, *self._stores()))
        self.replicas[-1].incarnation = f"incarnation.{self._generation}"
        return self.replicas[-1]

    async def log(self, channel: str) -> list[Entry]:
        """Everything that was appended to a conversation, by offset."""
        found: list[Entry] = []
        while page := await self.rows.read(channel, since_offset=len(found), upto=1 << 40, limit=1_000, reverse=False):
            for offset, publication in page:
                one = Publication.FromString(publication)
                given = self.seen.get(one.id)
                author, data = (given.author, given.data) if given else (one.info.user, one.data)
                found.append(Entry(offset, author, one.time_ms, data))
        return found

    async def settle(self, channel: str) -> None:
        """Have the read model written."""
        for replica in self.replicas:
            await replica.conversations.write(await replica.conversations.current(channel))


@asynccontextmanager
async def sqlite_site(
    redis_url: str,
    file: Path,
    replicas: int = 2,
    *,
    has_search: bool = False,
    searchers: int = 1,
    sink: MakeSink | None = None,
) -> AsyncIterator[Site]:
    """Replicas that share the object of a store: SQLite has one process at a time."""
    rows = SqliteLogStore(file, searchers=searchers)
    store = SqliteChatStore(rows.database, rows.note_erasure, has_search=has_search)
    markers = SqliteMarkerStore(rows.database)
    try:
        async with _running(redis_url, lambda: (rows, store, markers), replicas, sink) as site:
            yield site
    finally:
        await rows.close()


@asynccontextmanager
async def dynamodb_site(
    redis_url: str,
    address: str,
    replicas: int = 2,
    *,
    sink: MakeSink | None = None,
    has_search: bool = False,
) -> AsyncIterator[Site]:
    """Replicas on DynamoDB, each with a client of its own."""
    settings = await own_tables(address)
    clients: list[DynamoDb] = []

    def stores() -> tuple[Any, Any, Any]:
        patience: dict[str, Any] = {"deadline_s": PATIENCE_S} if has_search else {}  # a search makes many requests
        db, table = DynamoDb(settings, **patience), settings.chat_table
        clients.append(db)
        chat = DynamoDbChatStore(db, table, has_search=has_search, long_deadline_s=PATIENCE_S, **patience)
        return DynamoDbLogStore(db, settings.log_table, **patience), chat, DynamoDbMarkerStore(db, table)

    try:
        async with _running(redis_url, stores, replicas, sink) as site:
            yield site
    finally:
        for client in clients:
            await client.close()


@asynccontextmanager
async def _running(
    redis_url: str, stores: Callable[[], tuple[Any, Any, Any]], replicas: int, sink: MakeSink | None
) -> AsyncIterator[Site]:
    pipelines = [RedisPipeline(redis_url) for _ in range(replicas)]
    site = Site(pipelines, stores, sink)
    try:
        yield site
    finally:
        for replica in site.replicas:
            await replica.close()
        for pipeline in pipelines:
            await pipeline.aclose()


async def group(replica: Replica, owner: str, *users: str, **settings: Any) -> str:
    """Create a group; return its channel."""
    made = await replica.call(owner, "conversations.create", users=list(users), settings=settings)
    channel: str = made["channel"]
    return channel


async def say(replica: Replica, user: str, channel: str, text: str, **more: Any) -> int:
    """Send a message; return its offset."""
    offset: int = (await replica.call(user, "messages.send", channel=channel, text=text, **more))["offset"]
    return offset
