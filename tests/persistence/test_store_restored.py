"""A store that comes back from a backup.

Every channel has another epoch, and persistence goes on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.maintenance import Maintenance
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import Item
from services.shared.incarnation import calls as incarnation
from services.shared.incarnation.calls import Known
from services.shared.incarnation.gate import IncarnationGate
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.log import append
from tests.support.redis import RedisServer
from tests.support.waiting import until

CHANNEL, OTHER = "chat:restored", "chat:other"


async def _nothing(error: Unavailable) -> None: ...


class Persistence:
    """One process, but for its ports."""

    def __init__(self, url: str, path: Path) -> None:
        self.gate = IncarnationGate()
        self.store = SqliteLogStore(path)
        self.pipeline = RedisPipeline(url, gate=self.gate)
        self.heartbeat = RedisHeartbeat(url)
        hot = RedisHotLog(self.pipeline, lambda: self.gate.token, lambda: self.gate.writes)
        self.log = Log(hot, self.store, max_unstored=100, max_waiting=1_000, max_batch=64)
        self.tasks: list[asyncio.Task[None]] = []
        self.maintenance = Maintenance(self.heartbeat, self.store, self.log, self.gate, _nothing, every_s=0.05)

    async def ready(self) -> None:
        async with asyncio.timeout(20):
            while not (all(self.maintenance.ready().values()) and self.gate.is_open):
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        for task in self.tasks:
            await end_task(task)

    async def publish(self, channel: str, count: int = 1) -> list[tuple[str, int]]:
        """Again and again under the same keys, as edges do."""
        requests = [
            Request(channel, Item(os.urandom(16), b"x", "u", os.urandom(8).hex()), 100, 3_600) for _ in range(count)
        ]
        async with asyncio.timeout(20):
            while True:
                outcomes = await append(self.log, requests)
                if all(isinstance(outcome, AppendedPosition) for outcome in outcomes):
                    return [(one.epoch, one.offset) for one in outcomes if isinstance(one, AppendedPosition)]
                await asyncio.sleep(0.02)


@asynccontextmanager
async def persistence(url: str, path: Path) -> AsyncIterator[Persistence]:
    made = Persistence(url, path)
    made.tasks = [asyncio.create_task(made.log.run()), asyncio.create_task(made.maintenance.run())]
    try:
        await made.ready()
        yield made
    finally:
        await made.end()
        await made.store.close()
        await made.pipeline.aclose()
        await made.heartbeat.close()


async def several_heartbeats(process: Persistence) -> None:
    """Wait until Redis has counted five more."""

    async def counted() -> int:
        (found,) = await process.pipeline.execute([("GET", keys.heartbeat())], timeout_s=2.0)
        return int(found)

    before = await counted()

    async def came() -> bool:
        return await counted() >= before + 5

    await until(came)


def copy(source: Path, target: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
        if source.with_name(source.name + suffix).exists():
            shutil.copy(source.with_name(source.name + suffix), target.with_name(target.name + suffix))


@pytest.mark.parametrize("noticed_by", ["the counter", "the channel"])
async def test_an_older_file_is_noticed_where_redis_was_kept(
    noticed_by: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    path, backup = tmp_path / "store.sqlite3", tmp_path / "backup.sqlite3"
    async with persistence(own_redis.url, path) as before:
        first = await before.publish(CHANNEL, 10)
        (quiet,) = await before.publish(OTHER)
        copy(path, backup)
        lost = await before.publish(CHANNEL, 5)
        await several_heartbeats(before)  # each keeps the counter
    copy(backup, path)
    if noticed_by == "the channel":  # as where persistence was of a version that does not say what it has kept
        plain = RedisPipeline(own_redis.url)
        await plain.execute([("HDEL", keys.observed(), "kept"), ("SET", keys.heartbeat(), "1000000")], timeout_s=2.0)
        await plain.aclose()
    async with persistence(own_redis.url, path) as after:
        given = await after.publish(CHANNEL, 7)
        assert len({*first, *lost, *given}) == 22
        assert [offset for _, offset in given] == list(range(11, 18))
        async with asyncio.timeout(30):  # with the next heartbeat at the latest
            while (await after.log.open(OTHER)).epoch == quiet[0]:
                await asyncio.sleep(0.02)
        state = (await after.log.read(CHANNEL, since_offset=0, limit=100, reverse=False))[1]
        assert (state.epoch, state.top) == given[-1]
        again = await after.publish(CHANNEL)
        assert again == [(given[-1][0], 18)], "told once"
        assert all(after.maintenance.ready().values())


async def test_an_edge_that_lives_knows_what_the_store_had_though_redis_is_empty(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    path, backup = tmp_path / "store.sqlite3", tmp_path / "backup.sqlite3"
    pipeline = RedisPipeline(own_redis.url)
    async with persistence(own_redis.url, path) as before:
        await before.publish(CHANNEL, 3)
        copy(path, backup)
        (*_, last) = await before.publish(CHANNEL, 3)
        await several_heartbeats(before)
        look = incarnation.check_result(
            (await pipeline.run([incarnation.check_call("edge", Known(), "", "")], timeout_s=2.0))[0]
        )
    copy(backup, path)
    own_redis.kill()
    own_redis.wipe()
    own_redis.start(whole=False)
    await pipeline.aclose()
    pipeline = RedisPipeline(own_redis.url)
    known = Known(look.incarnation.generation if look.incarnation else 0, look.writes, look.at_ms)
    await pipeline.run([incarnation.check_call("edge", known, "", look.was_kept)], timeout_s=2.0)
    async with persistence(own_redis.url, path) as after:
        assert (await after.log.open(CHANNEL)).epoch != last[0]
    await pipeline.aclose()


async def test_a_store_that_could_not_write_for_a_while_is_no_older_one(
    own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.sqlite3"
    async with persistence(own_redis.url, path) as before:
        (first, *_) = await before.publish(CHANNEL, 3)

        async def full(heartbeat: object) -> None:
            raise Unavailable("no room")

        monkeypatch.setattr(before.store, "keep_heartbeat", full)
        await several_heartbeats(before)  # Redis counts on, and the store does not
    async with persistence(own_redis.url, path) as after:
        assert await after.publish(CHANNEL) == [(first[0], 4)]
