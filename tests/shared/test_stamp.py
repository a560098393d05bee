"""A publication's time is that of its log.

By the clock of Redis, given with the offset, never falling in a channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from services.edge.adapters import publication_codec as codec
from services.edge.domain.model import Publication as EdgePublication
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition, Outcome
from services.shared.hotlog import hot, hotlog, keys
from services.shared.hotlog.hotlog import STAMP_BYTES, Item
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.log import append as append_stored
from tests.support.scripts import run
from thalamus.common.v1.common_pb2 import Publication

HOT, STORED = "live:stamped", "chat:stamped"
LONG_AGO_MS = 1_000_000_000_000


class Received(NamedTuple):
    offset: int
    time_ms: int


def payload(number: int) -> bytes:
    """As an edge of before brings it: with a time of its own, which does not count."""
    return codec.encode(EdgePublication(b"%d" % number, id=b"0123456789abcdef", time_ms=LONG_AGO_MS))


async def now_ms(client: Any) -> int:
    seconds, microseconds = await client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def append(client: Any, count: int = 1, *, generation: int = 1) -> None:
    call = hot.append_call(
        [hot.HotBatch(HOT, 1_000, 600, [(payload(number), "") for number in range(count)])],
        edge="edge",
        fresh_epoch=hotlog.new_epoch(generation),
        now_s=int(time.time()),
    )
    (reply,) = await run(client, [call])
    assert hot.appended(reply) is not None


async def kept(client: Any, channel: str) -> list[Received]:
    """What the stream has, in its order."""
    entries = await client.xrange(keys.log(channel))
    return [
        Received(int(name.split(b"-")[0]), Publication.FromString(fields[b"p"]).time_ms) for name, fields in entries
    ]


async def test_redis_gives_the_time_and_what_is_announced_has_it_too(redis_conn: Any) -> None:
    async with redis_conn.pubsub() as pubsub:
        await pubsub.subscribe(keys.pub(HOT))
        assert await pubsub.get_message(timeout=60) is not None
        before = await now_ms(redis_conn)
        await append(redis_conn, 2)
        after = await now_ms(redis_conn)
        found = await kept(redis_conn, HOT)
        assert [one.offset for one in found] == [1, 2]
        assert all(before <= one.time_ms <= after for one in found)
        for one in found:
            message = await pubsub.get_message(timeout=60)
            assert message is not None
            _, offset, publication = message["data"].split(b" ", 2)
            received = codec.decode(publication, int(offset))
            assert (received.offset, received.time_ms, received.id) == (*one, b"0123456789abcdef")


async def test_it_does_not_fall_where_the_clock_steps_back_nor_where_the_log_begins_anew(
    redis_conn: Any,
) -> None:
    await append(redis_conn)
    ahead = await now_ms(redis_conn) + 3_600_000  # as after an hour's step back
    await redis_conn.hset(keys.meta(HOT), "time", str(ahead))
    await append(redis_conn)
    assert (await kept(redis_conn, HOT))[-1] == Received(2, ahead)
    await append(redis_conn, generation=2)  # another generation begins with it
    assert await kept(redis_conn, HOT) == [Received(1, ahead)]
    await run(redis_conn, [hotlog.hot_top_call(HOT, 3)])  # or with a look at the top
    await append(redis_conn, generation=3)
    assert await kept(redis_conn, HOT) == [Received(1, ahead)]
    epoch = await redis_conn.hget(keys.meta(HOT), "epoch")
    await run(redis_conn, [hotlog.reset_call(HOT, epoch.decode(), 3)])
    await append(redis_conn, generation=3)
    assert await kept(redis_conn, HOT) == [Received(1, ahead)]


async def test_any_time_survives_its_encoding(redis_conn: Any) -> None:
    rng = random.Random(11)
    now = await now_ms(redis_conn)
    times = [*sorted(rng.randrange(now + 60_000, 2**42) for _ in range(200)), 2**42 - 1]
    for at in times:
        await append(redis_conn)
        await redis_conn.hset(keys.meta(HOT), "time", str(at))
        await append(redis_conn)
        (last,) = await redis_conn.xrevrange(keys.log(HOT), count=1)
        assert Publication.FromString(last[1][b"p"]).time_ms == at
        assert len(last[1][b"p"]) == len(payload(0)) + STAMP_BYTES
        await redis_conn.hdel(keys.meta(HOT), "time")


# `stored` channels.


async def write(log: Log, numbers: Sequence[int]) -> list[Outcome]:
    items = [Item(b"%016d" % number, payload(number), "u", f"k{number}") for number in numbers]
    return await append_stored(log, [Request(STORED, item, 1_000, 600) for item in items])


@contextlib.asynccontextmanager
async def running(log: Log) -> AsyncIterator[Log]:
    task = asyncio.create_task(log.run())
    yield log
    await end_task(task)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> SqliteLogStore:
    return SqliteLogStore(tmp_path_factory.mktemp("stamp") / "log.db")


async def test_the_store_has_the_very_bytes_that_redis_has(
    redis_conn: Any, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    hot_log = RedisHotLog(redis_pipeline, lambda: "incarnation")
    async with running(Log(hot_log, store, max_unstored=100, max_waiting=100, max_batch=10)) as log:
        before = await now_ms(redis_conn)
        assert all(isinstance(one, AppendedPosition) for one in await write(log, range(5)))
        after = await now_ms(redis_conn)
        rows, _ = await log.read(STORED, since_offset=0, limit=10, reverse=False)
        entries = await redis_conn.xrange(keys.log(STORED))
        assert [publication for _, publication in rows] == [fields[b"p"] for _, fields in entries]
        times = [Publication.FromString(publication).time_ms for _, publication in rows]
        assert before <= times[0] <= times[-1] <= after
        assert times == sorted(times)
        assert [Publication.FromString(publication).data for _, publication in rows] == [
            b"%d" % number for number in range(5)
        ]
    await store.close()


@pytest.mark.parametrize("emptied", [True, False], ids=["redis-is-empty", "redis-went-back"])
async def test_after_a_redis_that_lost_it_the_store_knows_how_late_it_was(
    emptied: bool, redis_conn: Any, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    incarnations = ["incarnation1"]
    hot_log = RedisHotLog(redis_pipeline, lambda: incarnations[-1])
    async with running(Log(hot_log, store, max_unstored=100, max_waiting=100, max_batch=10)) as log:
        await write(log, [0])
        old = await redis_conn.dump(keys.meta(STORED)), await redis_conn.dump(keys.log(STORED))
        ahead = await now_ms(redis_conn) + 3_600_000
        await redis_conn.hset(keys.meta(STORED), "time", str(ahead))
        await write(log, [1])
        await redis_conn.flushall()
        if not emptied:
            for name, value in zip((keys.meta(STORED), keys.log(STORED)), old, strict=True):
                await redis_conn.restore(name, 0, value)
        incarnations.append("incarnation2")
        await write(log, [2])
        rows, _ = await log.read(STORED, since_offset=0, limit=10, reverse=False)
        assert [(offset, Publication.FromString(found).time_ms) for offset, found in rows][1:] == [
            (2, ahead),
            (3, ahead),
        ]
    await store.close()


async def test_a_newest_publication_that_is_unreadable_does_not_stop_its_channel(
    redis_conn: Any, redis_pipeline: RedisPipeline, tmp_path: Path
) -> None:
    store, incarnations = SqliteLogStore(tmp_path / "log.db"), ["incarnation1"]
    hot_log = RedisHotLog(redis_pipeline, lambda: incarnations[-1])
    async with running(Log(hot_log, store, max_unstored=100, max_waiting=100, max_batch=10)) as log:
        await write(log, [0, 1])
        with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as file, file:
            file.execute("UPDATE log SET publication = x'ffffff' WHERE offset = 2")
        await redis_conn.flushall()
        incarnations.append("incarnation2")
        before = await now_ms(redis_conn)
        await write(log, [2])
        rows, _ = await log.read(STORED, since_offset=2, limit=10, reverse=False)
        assert [offset for offset, _ in rows] == [3]
        assert Publication.FromString(rows[0][1]).time_ms >= before
    await store.close()
