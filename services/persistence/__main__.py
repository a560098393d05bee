"""Entry point of persistence: reads settings, wires the parts, runs, and stops."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from prometheus_client import REGISTRY

from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.redis.retention_turn import RedisTurn
from services.persistence.adapters.redis.rewrites import AofRewrites
from services.persistence.adapters.sqlite_archive import ArchivedSqliteLogStore
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.archive import place
from services.persistence.archive.archiver import Archiver
from services.persistence.archive.settings import open_objects
from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.adapters.sqlite_markers import SqliteMarkerStore
from services.persistence.chat.markers.ports import MarkerStore
from services.persistence.chat.ports import ChatStores
from services.persistence.chat.wiring import Chat
from services.persistence.config import PersistenceConfig
from services.persistence.domain.clocks import Clocks
from services.persistence.domain.comparison import First
from services.persistence.domain.draining import Sink
from services.persistence.domain.log import Log
from services.persistence.domain.ports import LogStore
from services.persistence.domain.retention import Retention
from services.persistence.feed_metrics import FeedMetrics
from services.persistence.maintenance import Maintenance
from services.persistence.redis_metrics import RedisMetrics
from services.persistence.service import PersistenceServicer
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.incarnation.gate import IncarnationGate
from services.shared.namespaces import Namespaces, load_namespaces
from services.shared.process import collector
from services.shared.process.cancellation import end_task
from services.shared.process.config import ConfigError
from services.shared.process.internal_http import start_internal_http
from services.shared.process.lifecycle import until_stopped
from services.shared.process.variables import read_checked_env
from services.shared.process.waiting import once_store_answers
from services.shared.redis.client import redis_client
from services.shared.redis.clock import RedisClock
from services.shared.redis.pipeline import RedisPipeline
from services.shared.startup.grpc_server import GRACE_S, serve_grpc
from services.shared.startup.service import run_service
from thalamus.chat.v1 import chat_pb2_grpc as chat_rpc
from thalamus.persistence.v1 import persistence_pb2_grpc as rpc

if TYPE_CHECKING:
    from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
    from services.persistence.queue.sqs import SqsQueue
    from services.persistence.queue.worker import Worker

logger = logging.getLogger("services.persistence")

_MAX_BATCH = 1_024  # publications in one write to the store; those behind it wait until it is done
_MAINTENANCE_S = 1.0  # seconds between heartbeats, and between searches for publications that a crash left incomplete
_SQLITE_ITEM_BYTES = 1 << 28  # far below the 1 GB that a row of SQLite may have


@dataclass(frozen=True, slots=True)
class _Opened:
    """The stores, with what the process needs to know of them.

    `conversations` and `markers` are where `store` is, and are closed with it.
    `prepare` must succeed before they are used; `remake` may help when they are gone.
    `max_item_bytes`: the most that `store` keeps of one publication.
    """

    store: SqliteLogStore | DynamoDbLogStore
    conversations: ChatStores
    markers: MarkerStore
    prepare: Callable[[], Awaitable[None]]
    remake: Callable[[Unavailable], Awaitable[None]]
    max_item_bytes: int


async def main(config: PersistenceConfig, stopping: asyncio.Event) -> None:
    """Run persistence until `stopping` is set or a part of it fails."""
    tokens = config.service_tokens()
    clock = RedisClock()
    opened = _open_store(config, clock)
    store = opened.store
    gate = IncarnationGate()
    address = config.redis_address()
    client = RedisPipeline(address, gate=gate)
    hot = RedisHotLog(
        client,
        lambda: gate.token,
        lambda: gate.writes,
        saw_writes=gate.saw_writes,
        feed_max_entries=config.feed.max_entries,
        max_unstored_bytes=config.max_unstored_bytes,
    )
    heartbeat = RedisHeartbeat(address, on_time=clock.sync)
    observer = redis_client(address, max_connections=1)
    redis_metrics = RedisMetrics(observer)
    feed_metrics = FeedMetrics(observer, config.feed.max_entries)
    REGISTRY.register(redis_metrics)
    REGISTRY.register(feed_metrics)
    namespaces = load_namespaces(config.channels_file) if config.channels_file.exists() else Namespaces()
    if namespaces.with_archive() and not config.archive:
        raise ConfigError(f"{config.channels_file} has archive_after_days, which needs PERSISTENCE_ARCHIVE")
    queue = await _queue(config)
    log = Log(
        hot,
        store,
        first=_retaining(store, namespaces),
        max_unstored=config.max_unstored,
        max_waiting=config.max_waiting,
        max_batch=_MAX_BATCH,
        max_item_bytes=opened.max_item_bytes,
        sink=None if queue is None else _outbox(queue, store),
    )
    maintenance = Maintenance(heartbeat, store, log, gate, opened.remake, every_s=_MAINTENANCE_S)
    internal = await start_internal_http(config.internal_host, config.internal_port, ready=maintenance.ready)
    chat = Chat(
        log,
        store,
        opened.conversations,
        opened.markers,
        client,
        clock,
        lambda: gate.token,
        web_push_hosts=config.web_push_hosts,
        inbox_max=config.inbox_conversations,
        namespaces=namespaces.with_conversations() if config.channels_file.exists() else None,
        known=lambda: gate.known,
    )
    turn = RedisTurn(client, clock)
    retention = Retention(log, hot, store, namespaces, turn, Clocks(turn.time), chat.expiry)
    servicer = PersistenceServicer(log, retention, lambda: gate.known)

    def add(server: grpc.aio.Server) -> None:
        rpc.add_PersistenceServiceServicer_to_server(servicer, server)
        chat_rpc.add_ChatServiceServicer_to_server(chat.servicer, server)

    server = await serve_grpc("persistence", config, tokens, add)
    tasks = [
        asyncio.create_task(log.run()),
        asyncio.create_task(_maintain(opened, maintenance, namespaces)),
        asyncio.create_task(maintenance.tidy()),
        asyncio.create_task(redis_metrics.run()),
        asyncio.create_task(feed_metrics.run()),
        asyncio.create_task(collector.collect()),
        asyncio.create_task(chat.run()),
        asyncio.create_task(AofRewrites(client, clock).run()),
    ]
    archiver = _archiver(config, store, namespaces, client, clock)
    if archiver is not None:
        tasks.append(asyncio.create_task(archiver.run()))
    if namespaces.with_retention():
        tasks.append(asyncio.create_task(retention.run()))
    if queue is not None:
        tasks.append(asyncio.create_task(_watch(queue)))
    try:
        collector.settle()
        logger.info("started", extra={"grpc_port": server.port, "internal_port": internal.port})
        await until_stopped(stopping, *tasks)
        maintenance.stopping()
        await server.stop(GRACE_S)
        await chat.drain(GRACE_S)
        await log.drain(GRACE_S)
        for task in tasks:
            await end_task(task)
        await maintenance.leave()
    finally:
        for task in tasks:
            if not task.done():  # one that failed has raised above
                await end_task(task)
        await internal.close()
        await client.aclose()
        await heartbeat.close()
        await observer.aclose()
        await store.close()
        if queue is not None:
            await queue.close()


def _open_store(config: PersistenceConfig, clock: RedisClock) -> _Opened:
    """Create the stores that the settings name; makes no request to DynamoDB.

    Raises:
        ConfigError: a setting is wrong, or a namespace accepts publications that DynamoDB can't store.
    """
    if config.store == "sqlite":
        log = _sqlite(config, clock)
        conversations = SqliteChatStore(log.database, log.note_erasure, has_search=config.search == "on")
        markers = SqliteMarkerStore(log.database)
        return _Opened(log, conversations, markers, lambda: _check_place(log), _nothing, _SQLITE_ITEM_BYTES)
    from services.persistence.adapters.dynamodb import items as items  # boto3 takes half a second to import
    from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
    from services.persistence.chat.adapters.dynamodb.markers import DynamoDbMarkerStore
    from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
    from services.shared.dynamodb import tables
    from services.shared.dynamodb.client import DynamoDb

    if config.channels_file.exists():  # only edges need it; persistence checks its limits if it is there
        items.check_sizes(load_namespaces(config.channels_file), config.channels_file)
    settings = read_checked_env(DynamoDbSettings, os.environ, "DYNAMODB_")
    db = DynamoDb(settings)
    return _Opened(
        DynamoDbLogStore(db, settings.log_table, clock=clock),
        DynamoDbChatStore(db, settings.chat_table, has_search=config.search == "on"),
        DynamoDbMarkerStore(db, settings.chat_table),
        lambda: tables.prepare(db, settings, settings.log_table, settings.chat_table),
        lambda error: tables.remake(db, settings, error),
        items.MAX_APPEND_BYTES,
    )


def _sqlite(config: PersistenceConfig, clock: RedisClock) -> SqliteLogStore:
    """Open the file.

    Raises:
        ConfigError: a part of it is archived, and it is not said where.
    """
    if config.archive:
        objects = open_objects(config.archive)
        return ArchivedSqliteLogStore(config.db, objects, clock=clock, searchers=config.search_threads)
    log = SqliteLogStore(config.db, clock=clock, searchers=config.search_threads)
    if log.has_segments:
        raise ConfigError(f"PERSISTENCE_ARCHIVE must be set: a part of {config.db} is archived")
    return log


async def _check_place(log: SqliteLogStore) -> None:
    """Check that the archive is where it was.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(log, ArchivedSqliteLogStore):
        return
    try:
        await place.check(log.segments, log.objects)
    except place.WrongPlace as error:
        raise ConfigError(str(error)) from error
    except Unavailable as error:  # the rest of the store can be used; nothing is written there before it is checked
        logger.warning("the archive can't be checked now", extra={"error": str(error)})


def _archiver(
    config: PersistenceConfig, store: LogStore, namespaces: Namespaces, client: RedisPipeline, clock: RedisClock
) -> Archiver | None:
    """Return what archives, and erases what is archived; None: there is no archive."""
    if not isinstance(store, ArchivedSqliteLogStore):
        return None
    turn = RedisTurn(client, clock, turn=keys.archive_turn(), swept=keys.archive_swept())
    return Archiver(
        store.segments,
        store.channels,
        store.objects,
        store.erasing,
        namespaces,
        turn,
        Clocks(turn.time),
        keep_days=config.archive_keep_days,
    )


def _retaining(store: LogStore, namespaces: Namespaces) -> First | None:
    """Return what is done with a channel before its first use; None: nothing."""
    if not namespaces.with_retention():
        return None

    async def retain(channel: str) -> None:
        found = namespaces.find(channel)
        if found is not None and found.has_retention:
            await store.retain(channel)

    return retain


def _outbox(queue: SqsQueue, store: LogStore) -> Sink:
    from services.persistence.queue.outbox import Outbox

    return Outbox(queue, store)


async def _watch(queue: SqsQueue) -> None:
    from services.persistence.queue.watch import watch

    await watch(queue)


async def work(config: PersistenceConfig, stopping: asyncio.Event) -> None:
    """Run a worker of the queue until `stopping` is set or a part of it fails.

    Raises:
        ConfigError: there is no queue.
    """
    from services.persistence.queue.worker import Worker

    queue = await _queue(config)
    if queue is None:
        raise ConfigError("PERSISTENCE_QUEUE must be sqs for a worker")
    opened = _open_store(config, RedisClock())
    worker = Worker(queue, opened.store, receivers=queue.receivers)
    checks = {"running": True}
    internal = await start_internal_http(
        config.internal_host, config.internal_port, ready=lambda: checks | {"queue": worker.answers}
    )
    task = asyncio.create_task(_work(opened, worker))
    try:
        logger.info("started", extra={"internal_port": internal.port})
        await until_stopped(stopping, task)
        checks["running"] = False
    finally:
        await end_task(task)
        await internal.close()
        await queue.close()
        await opened.store.close()


async def _work(opened: _Opened, worker: Worker) -> None:
    """Wait until the store can be used, then work."""
    await once_store_answers(opened.prepare)
    await worker.run()


async def _queue(config: PersistenceConfig) -> SqsQueue | None:
    """Return the queue that the settings name; None: there is none.

    Raises:
        ConfigError: SQS has no such queue, or a setting is wrong.
    """
    if not config.queue:
        return None
    from services.persistence.queue.settings import SqsSettings
    from services.persistence.queue.sqs import SqsQueue  # boto3 takes half a second to import

    queue = SqsQueue(read_checked_env(SqsSettings, os.environ, "SQS_"))
    try:
        await queue.prepare()
    except Unavailable as error:
        logger.warning("the queue does not answer yet", extra={"error": str(error)})
    return queue


async def _nothing(*_: object) -> None: ...


async def _maintain(opened: _Opened, maintenance: Maintenance, namespaces: Namespaces) -> None:
    """Wait until the store can be used, then run the maintenance; not ready before.

    Raises:
        ConfigError: DynamoDB lacks a table.
    """

    async def prepare() -> None:
        await opened.prepare()
        await opened.store.note_retention(namespaces)

    await once_store_answers(prepare)
    await maintenance.run()


def _start(arguments: list[str]) -> None:
    """Run persistence, or with an argument webhook dispatcher, notifier or worker.

    These are processes of their own: a slow backend must not delay the log.
    """
    if arguments == ["webhooks"]:
        from services.persistence.webhooks.process import run  # its HTTP client is slow to import

        run()
    elif arguments == ["notifier"]:
        from services.persistence.notifier.process import run as run_notifier

        run_notifier()
    elif arguments == ["worker"]:
        run_service("persistence", PersistenceConfig, work)
    elif arguments:
        sys.exit(f"python -m services.persistence [webhooks|notifier|worker], not {' '.join(arguments)}")
    else:
        run_service("persistence", PersistenceConfig, main)


if __name__ == "__main__":
    _start(sys.argv[1:])
