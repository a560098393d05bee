"""A real process of persistence removes what its file of channels does not keep."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
import redis.asyncio

from services.persistence.adapters.dynamodb.retained import RETAINED
from services.persistence.adapters.redis.retention_turn import last_swept
from services.persistence.domain.retention import Swept
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.persistence.test_dynamodb_processes import Process as InDynamoDb
from tests.persistence.test_replicas import Process
from tests.persistence.test_retention_of_before import CHANNEL, publish
from tests.support.chat import GROUP, ChatSite
from tests.support.persistence import Site
from tests.support.waiting import until
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

CHANNELS = '[namespaces.{name}]\ndurability = "stored"\n{option}\n'


@pytest.fixture
async def started(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, redis_url: str, tmp_path: Path
) -> AsyncIterator[Process]:
    """With 9 publications in each of two channels, of which 4 are two days old."""
    db, channels = tmp_path / "log.sqlite3", tmp_path / "channels.toml"
    site = Site(redis_conn, redis_pipeline, db)
    writer = site.process()
    for channel in ("kept:a", "chat:a"):
        for number in range(9):
            await writer.append(str(number), channel=channel)
    await site.close()
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE log SET stored_at = stored_at - 172800 WHERE offset <= 4")
    connection.close()
    channels.write_text(
        CHANNELS.format(name="kept", option="retention_days = 1") + CHANNELS.format(name="chat", option="")
    )
    process = Process(redis_url, db, CHANNELS_FILE=str(channels))
    try:
        await process.start()
        yield process
    finally:
        process.close()


async def test_what_is_too_old_is_removed_without_being_asked(started: Process, redis_pipeline: RedisPipeline) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{started.grpc_port}") as channel:
        stub = PersistenceServiceStub(channel)
        last = await until(lambda: last_swept(redis_pipeline), 60, "a sweep")
        assert last[1] == Swept(channels=1, failed=0, removed=4)
        kept = await stub.Kept(pb.KeptRequest(channel="kept:a"))
        assert (kept.removed, kept.top, kept.days, kept.messages) == (4, 9, 1, 0)
        assert (await stub.Kept(pb.KeptRequest(channel="chat:a"))).removed == 0
        pages = [page async for page in stub.Read(pb.ReadRequest(channel="kept:a", limit=100))]
        assert [one.offset for page in pages for one in page.publications] == [5, 6, 7, 8, 9]


async def test_a_channel_is_in_the_list_of_dynamodb_before_anything_is_acknowledged_in_it(
    redis_conn: redis.asyncio.Redis, redis_url: str, settings: DynamoDbSettings, tmp_path: Path
) -> None:
    """No sweep, which would find it by a scan, has its turn."""
    await redis_conn.set(keys.retention_turn(), "another replica")
    file = tmp_path / "channels.toml"
    file.write_text(CHANNELS.format(name="kept", option="retention_days = 1"))
    process, db = InDynamoDb(redis_url, settings, CHANNELS_FILE=str(file)), DynamoDb(settings)
    try:
        await process.until(200)
        assert await publish(process.grpc_port, 2) == [1, 2]
        found = await db.call(
            "query",
            TableName=settings.log_table,
            KeyConditionExpression="p = :p",
            ExpressionAttributeValues={":p": {"S": RETAINED}},
            ConsistentRead=True,
        )
        assert [item["channel"]["S"] for item in found["Items"]] == [CHANNEL]
    finally:
        process.close()
        await db.close()


async def test_a_start_without_retention_has_the_table_scanned_once_it_is_on_again(
    redis_conn: redis.asyncio.Redis, redis_url: str, settings: DynamoDbSettings, tmp_path: Path
) -> None:
    file, db = tmp_path / "channels.toml", DynamoDb(settings)
    file.write_text(CHANNELS.format(name="kept", option="retention_days = 1") + CHANNELS.format(name="off", option=""))
    key = {"p": {"S": RETAINED}, "s": {"N": "-1"}}
    names = {"wanted": {"S": "kept off"}, "listed": {"S": "kept off"}, "since": {"N": "1700000000"}}
    await redis_conn.set(keys.retention_turn(), "another replica")
    await db.call("put_item", TableName=settings.log_table, Item=key | names)
    process = InDynamoDb(redis_url, settings, CHANNELS_FILE=str(file))
    try:
        await process.until(200)
        found = await db.call("get_item", TableName=settings.log_table, Key=key, ConsistentRead=True)
        assert found["Item"] == key | {"listed": {"S": "kept"}}
    finally:
        process.close()
        await db.close()


async def test_messages_of_a_conversation_that_are_too_old_are_deleted_without_being_asked(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, redis_url: str, tmp_path: Path
) -> None:
    db, file = tmp_path / "log.sqlite3", tmp_path / "channels.toml"
    chat = ChatSite(Site(redis_conn, redis_pipeline, db))
    replica = chat.replica()
    await replica.create("ann", "bob")
    for number in range(4):
        await replica.say("ann", f"old {number}")
    await chat.close()
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE log SET stored_at = stored_at - 40 * 86400")
    options = 'conversations = true\ndata_format = "object"\nretention_days = 30'
    file.write_text(CHANNELS.format(name="conv", option=options))
    process = Process(redis_url, db, CHANNELS_FILE=str(file))
    try:
        await process.start()
        last = await until(lambda: last_swept(redis_pipeline), 60, "a sweep")
        assert last[1] == Swept(channels=1, failed=0, removed=4)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
            request = pb.ReadRequest(channel=GROUP, limit=100)
            pages = [page async for page in PersistenceServiceStub(channel).Read(request)]
        found = [one.publication for page in pages for one in page.publications]
        assert len(found) == 7, "the places stay, and there is an event that says what is gone"
        assert b"old" not in b"".join(found)
    finally:
        process.close()
