"""A version that does not know the archive, on a file of which a part is archived.

It can't open the file. If it has opened it before, it goes on storing, fails where it reads into the archive, and
neither erases nor removes rows there. It never says that history is gone, nor gives a shorter page.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.persistence.domain.ports import Row
from tests.persistence.test_replicas import Process
from tests.persistence.test_retention_of_before import publish
from tests.support.archive import DAY, Clock, Model, archiver_of, store_at
from tests.support.before import checkout_of_before, import_paths
from tests.support.waiting import until
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

CHANNEL = "old:a"
# How versions begin to erase that can erase, and do not know the archive.
_ERASES = "INSERT INTO erasures VALUES (?, 1) ON CONFLICT (channel) DO UPDATE SET times = times + 1"
# Opens the file, then does what it is told: one call as JSON a line. Says what came out, or which exception.
_SCRIPT = """
import asyncio, json, sys
from pathlib import Path
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.ports import Removal, Row

async def main():
    store = SqliteLogStore(Path(sys.argv[1]))
    print(json.dumps("open"), flush=True)
    for line in sys.stdin:
        name, arguments, named = json.loads(line)
        if name == "finish_removal":
            arguments = [Removal(*arguments)]
        if name == "write":
            arguments = [[Row(one[0], one[1], bytes.fromhex(one[2]), b"after", "u:k")] for one in arguments]
        try:
            found = await getattr(store, name)(*arguments, **named)
            found = [one[0] for one in found] if name == "read" else str(found)
        except Exception as error:
            found = {"error": type(error).__name__}
        print(json.dumps(found), flush=True)

asyncio.run(main())
"""


class Before:
    """The store of the version from before, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, checkout: Path, db: Path) -> Before:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _SCRIPT, str(db)),
            env={**os.environ, "PYTHONPATH": import_paths(checkout), "PYTHONSAFEPATH": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def said(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        return json.loads(line) if line else None

    async def call(self, name: str, *arguments: Any, **named: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments, named]).encode() + b"\n")
        return await self.said()

    async def end(self) -> str:
        """End it; return what it said of errors."""
        _, errors = await self._process.communicate(b"")
        return errors.decode()


@pytest.mark.slow
async def test_a_version_of_before_fails_where_something_is_archived(tmp_path: Path) -> None:
    checkout, clock, model = checkout_of_before(tmp_path / "before"), Clock(), Model(CHANNEL, 5)
    store, db = store_at(tmp_path, clock), tmp_path / "log.sqlite3"
    await store.open(CHANNEL)
    await store.write(model.new(25))
    clock.now += 2 * DAY
    old = await Before.start(checkout, db)
    assert await old.said() == "open"
    read = {"upto": 25, "limit": 100, "reverse": False}
    assert await old.call("read", CHANNEL, since_offset=0, **read) == [*range(1, 26)]

    assert await archiver_of(store, clock).archive()
    found = await store.segments.segments(CHANNEL, 1, 25)
    state = await store.open(CHANNEL)
    answer = await old.call("open", CHANNEL)  # it does not say that anything was removed
    assert answer == f"ChannelState(epoch={state.epoch!r}, top=25, removed=0)"
    for since in range(24):
        answer = await old.call("read", CHANNEL, since_offset=since, **read)
        assert answer == {"error": "TypeError"}, since
        answer = await old.call("read", CHANNEL, since_offset=since + 1, **{**read, "reverse": True})
        assert answer == ([] if since == 0 else {"error": "TypeError"}), since
    assert await old.call("read", CHANNEL, since_offset=24, **read) == [25]
    with closing(sqlite3.connect(db)) as file, pytest.raises(sqlite3.IntegrityError, match="archived"):
        file.execute(_ERASES, (CHANNEL,))
    written = await old.call("write", [CHANNEL, 26, "ab" * 16])
    assert written == "{'old:a': Written(top=26, conflict=False)}"
    model.rows.append(Row(CHANNEL, 26, b"\xab" * 16, b"after", "u:k", 0, *model.rows[-1][6:]))
    await store.begin_removal(CHANNEL, 2)
    (removal,) = await store.removals()
    assert await old.call("finish_removal", *removal) == {"error": "Unavailable"}
    model.removed = 2
    await model.check_all(store)
    assert await store.segments.segments(CHANNEL, 1, 25) == found
    await old.end()

    old = await Before.start(checkout, db)
    assert await old.said() is None
    assert "ConfigError: PERSISTENCE_DB" in (errors := await old.end())
    assert "this file has archived publications" in errors
    assert (await store.open(CHANNEL)).epoch == state.epoch

    for one in found:  # a way back
        assert await store.segments.restore(one, await store.loaded.rows(one), clock.now)
    old = await Before.start(checkout, db)
    assert await old.said() == "open"
    assert await old.call("read", CHANNEL, since_offset=0, **read) == [*range(3, 26)]
    assert await old.call("finish_removal", *removal) == "None"
    await model.check_all(store)
    await old.end()
    await store.close()


async def read_status(port: int) -> tuple[grpc.StatusCode, list[int]]:
    """Read everything from the process at a port."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = PersistenceServiceStub(channel).Read(pb.ReadRequest(channel=CHANNEL, limit=100), timeout=30)
        found: list[int] = []
        try:
            async for page in call:
                found += [one.offset for one in page.publications]
        except grpc.aio.AioRpcError as error:
            return error.code(), found
        return grpc.StatusCode.OK, found


@pytest.mark.slow
async def test_a_process_archives_reads_and_fails_without_its_objects(redis_url: str, tmp_path: Path) -> None:
    db, channels, archive = tmp_path / "log.sqlite3", tmp_path / "old.toml", tmp_path / "archive"
    channels.write_text('[namespaces.old]\ndurability = "stored"\narchive_after_days = 1\n')
    clock, model = Clock(), Model(CHANNEL, 5)
    store = store_at(tmp_path, clock)
    await store.open(CHANNEL)
    rows = [row._replace(publication=_publication(row.publication_id)) for row in model.new(1_100)]
    await store.write(rows)
    settings = {"CHANNELS_FILE": str(channels), "PERSISTENCE_ARCHIVE": str(archive)}
    process = Process(redis_url, db, **settings)
    refused = Process(redis_url, db, CHANNELS_FILE=str(channels))
    try:
        with pytest.raises(AssertionError, match="PERSISTENCE_ARCHIVE"):
            await refused.start()
        await process.start()

        async def segments() -> list[Any]:
            return await store.segments.segments(CHANNEL, 1, 2_000)

        (one,) = await until(segments, 120, "it was archived")
        assert (one.first, one.last) == (1, 1_099)
        assert await read_status(process.grpc_port) == (grpc.StatusCode.OK, [*range(1, 101)])
        assert await publish(process.grpc_port, 1, CHANNEL) == [1_101]
        assert "thalamus_archive_rows_total 1099.0" in await process.metrics()
        path = archive / one.object
        path.rename(archive / "away")
        process.close()
        process = Process(redis_url, db, **settings)  # nothing is in its memory
        await process.start()
        assert await read_status(process.grpc_port) == (grpc.StatusCode.UNAVAILABLE, [])
    finally:
        process.close()
        refused.close()
        await store.close()


def _publication(publication_id: bytes) -> bytes:
    return common_pb2.Publication(data=b"1", id=publication_id).SerializeToString()
