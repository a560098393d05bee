"""Retention on a file that a version of before has made, and still uses.

Both run as processes on one file and one Redis.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from services.persistence.adapters.redis.retention_turn import last_swept
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.retention import Swept
from services.shared.redis.pipeline import RedisPipeline
from tests.persistence.test_replicas import Process
from tests.support.before import checkout_of_before, environment_of
from tests.support.waiting import until
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

CHANNEL = "kept:a"
FILE = '[namespaces.kept]\ndurability = "stored"\nretention_days = 1\n'


async def publish(port: int, count: int, name: str = CHANNEL) -> list[int]:
    """Publish to the process at a port; return the offsets."""
    items = [
        pb.AppendItem(
            channel=name,
            publication=common_pb2.Publication(data=b"1", id=(one := os.urandom(16))).SerializeToString(),
            publication_id=one,
            key=one.hex(),
            history_size=100,
            history_ttl_s=3_600,
        )
        for _ in range(count)
    ]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = PersistenceServiceStub(channel).Append(iter([pb.AppendBatch(items=items)]), timeout=60)
        return sorted([result.position.offset async for reply in stream for result in reply.results])


async def read(process: Process) -> list[int]:
    """Read everything from a process; return the offsets."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
        request = pb.ReadRequest(channel=CHANNEL, limit=100)
        pages = [page async for page in PersistenceServiceStub(channel).Read(request, timeout=60)]
        return [one.offset for page in pages for one in page.publications]


@pytest.mark.slow
async def test_a_version_of_before_reads_and_writes_on_where_retention_removes(
    redis_url: str, redis_pipeline: RedisPipeline, tmp_path: Path
) -> None:
    checkout, db, channels = checkout_of_before(tmp_path / "before"), tmp_path / "log.sqlite3", tmp_path / "kept.toml"
    channels.write_text(FILE)
    old = Process(redis_url, db, PYTHONSAFEPATH="1", **environment_of(checkout))
    new = Process(redis_url, db, CHANNELS_FILE=str(channels))
    try:
        await old.start()
        assert await publish(old.grpc_port, 9) == [*range(1, 10)]
        with closing(sqlite3.connect(db)) as connection, connection:
            connection.execute("UPDATE log SET stored_at = stored_at - 172800 WHERE offset <= 4")
        await new.start()
        last = await until(lambda: last_swept(redis_pipeline), 60, "a sweep")
        assert last[1] == Swept(channels=1, failed=0, removed=4)
        assert await read(old) == await read(new) == [5, 6, 7, 8, 9]
        assert await publish(old.grpc_port, 1) == [10]
        assert await publish(new.grpc_port, 1) == [11]
        store = SqliteLogStore(db, clock=lambda: time.time() + 400)
        for removal in await store.removals():
            await store.finish_removal(removal)
        await store.close()
        with closing(sqlite3.connect(db)) as connection:
            assert connection.execute("SELECT min(offset), count(*) FROM log").fetchone() == (5, 7)
        assert await read(old) == await read(new) == [*range(5, 12)]
        assert await publish(old.grpc_port, 1) == [12]
    finally:
        old.close()
        new.close()
