"""A store whose data is gone, as that of an emulator after its restart.

Made anew where it may be, and always told.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.domain.model import Publication, StreamPosition
from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.ports import Row, Written
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb, TableMissing
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.incarnation.calls import Incarnation
from services.shared.rpc.replicas import Replicas
from tests.persistence.test_dynamodb_processes import Process
from tests.support.dynamodb import DynamoDbServer, settings_of
from tests.support.redis import RedisServer

ASKED, QUIET = "chat:asked", "chat:quiet"


@pytest.fixture
def emulator(aws_credentials: None) -> Iterator[DynamoDbServer]:
    made = DynamoDbServer()
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def processes() -> AsyncIterator[list[Process]]:
    made: list[Process] = []
    yield made
    for one in made:
        one.close()


class Edge:
    def __init__(self, process: Process) -> None:
        self._replicas = Replicas(f"127.0.0.1:{process.grpc_port}", service_token=None, service="edge")
        self.store = PersistenceClient(self._replicas)

    async def __aenter__(self) -> Edge:
        await self._replicas.start()
        await self.store.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()
        await self._replicas.close()

    async def publish(self, channel: str) -> StreamPosition:
        """Again and again under one key, as edges do."""
        publication, key = Publication(b"1", id=os.urandom(16)), os.urandom(8).hex()
        while True:
            try:
                result = await self.store.append(
                    channel, publication, key_user="", key=key, history_size=9, history_ttl_s=60
                )
            except Unavailable:
                continue
            return result.position


@pytest.mark.parametrize("restarts_too", [False, True])
@pytest.mark.slow
async def test_tables_that_are_gone_are_made_anew_and_every_channel_has_another_epoch(
    own_redis: RedisServer, emulator: DynamoDbServer, processes: list[Process], restarts_too: bool
) -> None:
    """Also one that nobody writes to, and when persistence is started anew alone."""
    processes.append(Process(own_redis.url, settings_of(emulator.address), DYNAMODB_CREATE_TABLES="true"))
    (process,) = processes
    await process.until(200)
    async with Edge(process) as edge:
        before = {channel: [await edge.publish(channel) for _ in range(3)][-1] for channel in (ASKED, QUIET)}
        assert {position.offset for position in before.values()} == {3}
    emulator.stop()
    await process.until(503)
    if restarts_too:
        process.process.kill()
    emulator.start()
    if restarts_too:
        await process.restart()
    await process.until(200)
    async with Edge(process) as edge:
        after = await edge.publish(ASKED)
        assert (after.offset, after.epoch != before[ASKED].epoch) == (1, True)
        quiet = await edge.store.open(QUIET)
        assert (quiet.offset, quiet.epoch != before[QUIET].epoch) == (0, True)
        page = await edge.store.read(ASKED, since_offset=0, limit=9, reverse=False, max_bytes=1 << 20)
        assert [one.offset for one in page.publications] == [1]
        assert (await edge.publish(ASKED)).epoch == after.epoch


async def test_without_leave_to_make_tables_none_are_made(
    own_redis: RedisServer, emulator: DynamoDbServer, processes: list[Process]
) -> None:
    settings = settings_of(emulator.address)
    db = DynamoDb(settings)
    await tables.create(db, settings)
    processes.append(Process(own_redis.url, settings))
    await processes[0].until(200)
    await db.call("delete_table", TableName=settings.log_table)
    await processes[0].until(503)
    await tables.remake(db, settings, TableMissing("gone"))
    assert sorted((await db.call("list_tables"))["TableNames"]) == [settings.accounts_table, settings.chat_table]
    await db.close()


async def test_tables_are_made_anew_once_and_it_is_said(dynamodb: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = DynamoDbSettings(endpoint=dynamodb, table_prefix=f"{os.urandom(8).hex()}-", create_tables=True)
    db = DynamoDb(settings)
    await tables.create(db, settings)
    await db.call("delete_table", TableName=settings.log_table)
    with caplog.at_level(logging.ERROR, "services.shared.dynamodb.tables"):
        for error in (Unavailable("slow"), TableMissing("gone"), TableMissing("gone")):
            assert not caplog.records or error.args == ("gone",)
            await tables.remake(db, settings, error)
    (record,) = caplog.records
    assert record.__dict__["tables"] == [settings.log_table]
    await db.close()


async def test_a_replica_that_remembers_tops_writes_no_hole_into_a_table_that_was_made_anew(dynamodb: str) -> None:
    settings = settings_of(dynamodb, f"{os.urandom(8).hex()}-")
    db = DynamoDb(settings)
    await tables.create(db, settings)
    store = DynamoDbLogStore(db, settings.log_table)
    name = (await store.heartbeat()).store
    await store.open(ASKED)
    rows = [Row(ASKED, offset, os.urandom(16), b"x", "1:uk") for offset in (1, 2, 3)]
    assert (await store.write(rows[:2]))[ASKED] == Written(2, False)
    await db.call("delete_table", TableName=settings.log_table)
    await tables.create(db, settings)
    assert (await store.heartbeat()).store != name
    assert (await store.write(rows[2:]))[ASKED] == Written(0, True)
    await store.open(ASKED)
    again = [Row(ASKED, 1, os.urandom(16), b"y", "1:uk")]
    assert (await store.write(again))[ASKED] == Written(1, False)
    await db.close()


async def test_only_another_store_begins_an_incarnation(own_redis: RedisServer, tmp_path: Path) -> None:
    """As where somebody removed the file of SQLite, and Redis was left as it is."""
    heartbeat = RedisHeartbeat(own_redis.url)

    async def incarnations_of(path: Path) -> list[Incarnation]:
        store = SqliteLogStore(path)
        found = []
        for _ in range(2):
            reply = await heartbeat.count_and_compare(await store.heartbeat())
            await store.keep_heartbeat(reply.counted)
            assert reply.incarnation is not None
            found.append(reply.incarnation)
        await store.close()
        return found

    first, again = [await incarnations_of(tmp_path / "one.sqlite3") for _ in range(2)]
    assert len({incarnation.token for incarnation in [*first[1:], *again]}) == 1
    other = await incarnations_of(tmp_path / "two.sqlite3")
    assert len({incarnation.token for incarnation in other}) == 1
    assert other[0].generation > again[0].generation
    await heartbeat.close()
