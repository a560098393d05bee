"""Where the bytes of an erased publication are, in Redis and in files."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.ports import Row
from services.shared.hotlog import erasing, keys
from services.shared.hotlog.hotlog import page, read_call
from services.shared.redis.client import redis_client
from tests.support.redis import RedisServer
from tests.support.scripts import run

CHANNEL = "conv:g.a"
STREAM, META = keys.log(CHANNEL), keys.meta(CHANNEL)
SECRET = b"planted:b1946ac92492d234"


@pytest.fixture
async def client(own_redis: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    made = redis_client(own_redis.url)
    await made.config_set("rdbcompression", "no")
    yield made
    await made.aclose()


async def fill(client: redis.asyncio.Redis, count: int, *, stored: int, size: int = 20, secret: int = 30) -> None:
    """A log of which all but the last are readable; one of them has the secret."""
    async with client.pipeline(transaction=False) as pipeline:
        for offset in range(1, count + 1):
            content = SECRET if offset == secret else str(offset).encode().rjust(size, b".")
            fields = {"i": offset.to_bytes(16), "p": content, "k": "1:u", "n": f"key{offset}", "c": f"1 {offset} 0"}
            pipeline.xadd(STREAM, fields, id=f"{offset}-0")  # type: ignore[arg-type]
        pipeline.expire(STREAM, 1_000)
        pipeline.hset(META, mapping={"epoch": "e", "top": count, "stored": stored, "life": "now"})
        await pipeline.execute()


async def entries(client: redis.asyncio.Redis) -> list[tuple[int, dict[bytes, bytes]]]:
    found: Any = await client.xrange(STREAM)
    return [(int(name.split(b"-")[0]), fields) for name, fields in found]


async def dump(client: redis.asyncio.Redis) -> bytes:
    return await client.dump(STREAM) or b""


async def holds(client: redis.asyncio.Redis, server: RedisServer) -> set[str]:
    """Where the secret is: in memory, in an RDB, in a rewritten AOF."""
    found = {"memory"} if SECRET in await dump(client) else set()
    await client.save()
    found |= {name for name in await asyncio.to_thread(server.files_with, SECRET) if name.endswith("dump.rdb")}
    await asyncio.to_thread(server.rewrite)
    return found | {"aof" for name in await asyncio.to_thread(server.files_with, SECRET) if "appendonly" in name}


@pytest.mark.parametrize("how", ["XDEL", "XTRIM"])
async def test_f2_cutting_a_stream_leaves_the_bytes(
    client: redis.asyncio.Redis, own_redis: RedisServer, how: str
) -> None:
    """Why logs are rebuilt. If this fails, Redis has learnt to do it by itself."""
    await fill(client, 60, stored=60)
    if how == "XDEL":
        await client.xdel(STREAM, "30-0")
    else:
        await client.xtrim(STREAM, minid="41-0", approximate=False)
    assert await holds(client, own_redis) == {"memory", "dump.rdb", "aof"}


@pytest.mark.parametrize("how", ["erase", "trim"])
@pytest.mark.parametrize("stored", [60, 55])
async def test_f2_nothing_is_left_in_memory_copies_and_a_rewritten_file(
    client: redis.asyncio.Redis, own_redis: RedisServer, how: str, stored: int
) -> None:
    await fill(client, 60, stored=stored)
    call = erasing.erase_call(CHANNEL, 1, {30: b"gone"}) if how == "erase" else erasing.trim_call(CHANNEL, 40)
    await run(client, [call])
    assert await holds(client, own_redis) == set()
    offsets = [offset for offset, _ in await entries(client)]
    assert offsets == list(range(1 if how == "erase" else 41, 61))


@pytest.mark.parametrize("how", ["erase", "trim"])
async def test_f2_nothing_is_left_of_what_was_cut_off_before_because_the_log_grew(
    client: redis.asyncio.Redis, own_redis: RedisServer, how: str
) -> None:
    await fill(client, 60, stored=60)
    await client.xtrim(STREAM, minid="41-0", approximate=False)  # as commit.lua does
    call = erasing.erase_call(CHANNEL, 1, {30: b"gone"}) if how == "erase" else erasing.trim_call(CHANNEL, 35)
    await run(client, [call])
    assert await holds(client, own_redis) == set()
    assert [offset for offset, _ in await entries(client)] == list(range(41, 61))
    await client.xtrim(STREAM, minid="51-0", approximate=False)
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 2, {30: b"gone"})])
    assert erasing.erased(result) == (True, 0), "it was made anew since"
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 2, {45: b"gone"})])
    assert erasing.erased(result) == (True, 10)


async def test_f4_ids_fields_and_time_to_live_stay_and_there_is_no_hole(client: redis.asyncio.Redis) -> None:
    await fill(client, 60, stored=50)
    before = await entries(client)
    await client.expire(STREAM, 500)
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 3, {30: b"gone", 50: b"gone too", 51: b"no"})])
    assert erasing.erased(result) == (True, 60)
    expected = {30: b"gone", 50: b"gone too"}
    assert await entries(client) == [
        (offset, {**fields, b"p": expected.get(offset, fields[b"p"])}) for offset, fields in before
    ]
    assert [list(fields) for _, fields in await entries(client)] == [list(fields) for _, fields in before]
    assert 490 < await client.ttl(STREAM) <= 500
    assert await client.hmget(META, "epoch", "top", "stored", "erased") == [b"e", b"60", b"50", b"3"]
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 2, {30: b"gone", 50: b"gone too"})])
    assert erasing.erased(result) == (True, 0), "a repetition writes nothing again"
    assert await client.hget(META, "erased") == b"3"


async def test_only_the_newest_readable_entries_stay_and_all_others_that_are_not(client: redis.asyncio.Redis) -> None:
    await fill(client, 700, stored=600, secret=590)
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 1, {590: b"gone"})])
    kept = erasing.MOST_WRITTEN - 100
    assert erasing.erased(result) == (True, erasing.MOST_WRITTEN)
    assert [offset for offset, _ in await entries(client)] == list(range(600 - kept + 1, 701))
    call = read_call(CHANNEL, stored=True, incarnation="now", since_offset=500, limit=200, reverse=False)
    found = page((await run(client, [call]))[0])
    assert found is not None
    assert [offset for offset, _ in found.entries] == list(range(501, 601))
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 2, {595: b"gone"}, keep=0)])
    assert erasing.erased(result) == (True, 100)
    assert [offset for offset, _ in await entries(client)] == list(range(601, 701))


@pytest.mark.parametrize(("size", "above"), [(20, erasing.MOST_WRITTEN + 1), (100_000, 20)])
async def test_a_call_writes_a_bounded_amount_and_says_when_bytes_may_be_left(
    client: redis.asyncio.Redis, size: int, above: int
) -> None:
    await fill(client, 40 + above, stored=40, size=size, secret=39)
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 1, {39: b"gone"})])
    assert erasing.erased(result) == (False, 0)
    assert [offset for offset, _ in await entries(client)] == list(range(41, 41 + above)), "nothing is readable"
    if size == 20:
        assert SECRET in await dump(client), "it shares a node with what is not readable"
    await client.hset(META, "stored", 40 + above)
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 1, {})])
    assert erasing.erased(result).is_clean
    assert 0 < erasing.erased(result).entries <= erasing.KEPT
    assert SECRET not in await dump(client)


async def test_large_entries_are_kept_up_to_a_mebibyte(client: redis.asyncio.Redis) -> None:
    await fill(client, 40, stored=40, size=100_000, secret=39)
    (result,) = await run(client, [erasing.erase_call(CHANNEL, 1, {39: b"gone"})])
    assert erasing.erased(result) == (True, 11)
    assert [offset for offset, _ in await entries(client)] == list(range(30, 41))


async def test_a_full_redis_erases_all_the_same(client: redis.asyncio.Redis) -> None:
    await fill(client, 60, stored=60)
    await client.config_set("maxmemory", "1")
    await run(client, [erasing.erase_call(CHANNEL, 1, {30: b"gone"})])
    await client.config_set("maxmemory", "0")
    assert len(await entries(client)) == 60
    assert SECRET not in await dump(client)


async def test_a_log_without_meta_goes(client: redis.asyncio.Redis) -> None:
    await fill(client, 60, stored=60)
    await client.delete(META)
    await run(client, [erasing.erase_call(CHANNEL, 1, {30: b"gone"})])
    assert await entries(client) == []


# The store.


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def files_with(path: Path, secret: bytes) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir() if secret in one.read_bytes())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteLogStore]:
    made = SqliteLogStore(tmp_path / "log.sqlite3", clock=clock)
    await made.open(CHANNEL)
    yield made
    await made.close()


def rows(secret_bytes: int) -> list[Row]:
    secret = SECRET * (secret_bytes // len(SECRET) + 1)
    contents = [secret if offset == 30 else os.urandom(100) for offset in range(1, 61)]
    return [Row(CHANNEL, offset, os.urandom(16), content, f"1:u{offset}") for offset, content in enumerate(contents, 1)]


@pytest.mark.parametrize("secret_bytes", [1, 50_000], ids=["in its row", "over several pages"])
@pytest.mark.parametrize("how", ["erase", "remove"])
async def test_f1_nothing_is_left_in_the_files_of_the_store(
    store: SqliteLogStore, clock: Clock, tmp_path: Path, how: str, secret_bytes: int
) -> None:
    file = tmp_path / "log.sqlite3"
    await store.write(rows(secret_bytes))
    assert store.unscrubbed_since is None
    if how == "erase":
        await store.scrub()  # so it is in the database file itself
        assert files_with(file, SECRET) == ["log.sqlite3"]
        await store.erase(CHANNEL, {30: b"gone"})
    else:
        await store.begin_removal(CHANNEL, 40)
        clock.now += 400
        for removal in await store.removals():
            await store.finish_removal(removal)
    assert files_with(file, SECRET) != []
    assert store.unscrubbed_since == clock.now
    assert await store.scrub()
    assert files_with(file, SECRET) == []
    assert store.unscrubbed_since == clock.now, "the read model follows"
    clock.now += 10
    assert await store.scrub()
    assert store.unscrubbed_since is None
    left = await store.read(CHANNEL, since_offset=0, upto=60, limit=99, reverse=False)
    assert [offset for offset, _ in left] == list(range(1 if how == "erase" else 41, 61))


async def test_f1_a_reader_that_stays_is_waited_for_and_the_next_time_it_is_done(
    store: SqliteLogStore, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "log.sqlite3"
    await store.write(rows(1))
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM log").fetchone()
    await store.erase(CHANNEL, {30: b"gone"})
    erased_at, clock.now = clock.now, clock.now + 10
    assert not await store.scrub()
    assert store.unscrubbed_since == erased_at, "the alert counts from the erasure"
    reader.close()
    assert await store.scrub()
    assert files_with(file, SECRET) == []


async def test_f1_nobody_waits_long_to_write_because_a_reader_stays(store: SqliteLogStore, tmp_path: Path) -> None:
    await store.write(rows(1))
    reader = sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM log").fetchone()
    await store.erase(CHANNEL, {30: b"gone"})
    writer = sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None, timeout=0)
    scrubbing = asyncio.create_task(store.scrub())
    longest_s = since = 0.0
    while not scrubbing.done():
        await asyncio.sleep(0.01)
        try:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("ROLLBACK")
            since = 0.0
        except sqlite3.OperationalError:
            since = since or time.monotonic()
            longest_s = max(longest_s, time.monotonic() - since)
    assert not scrubbing.result()
    assert longest_s < 1
    reader.close()
    writer.close()


async def test_f1_what_a_crash_left_in_the_log_of_the_store_is_known_at_the_next_start(
    store: SqliteLogStore, clock: Clock, tmp_path: Path
) -> None:
    await store.write(rows(1))
    await store.erase(CHANNEL, {30: b"gone"})
    copy = tmp_path / "crashed" / "log.sqlite3"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes((tmp_path / f"log.sqlite3{suffix}").read_bytes())
    again = SqliteLogStore(copy, clock=clock)
    assert again.unscrubbed_since == clock.now
    assert await again.scrub()
    assert files_with(copy, SECRET) == []
    await again.close()


async def test_free_pages_are_overwritten_whatever_the_build_of_sqlite(
    store: SqliteLogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's does it by default: here it is off until the store turns it on."""
    connect = sqlite3.connect

    def connect_to_another_build(*arguments: Any, **options: Any) -> sqlite3.Connection:
        made: sqlite3.Connection = connect(*arguments, **options)
        made.execute("PRAGMA secure_delete = OFF")
        return made

    monkeypatch.setattr(sqlite3, "connect", connect_to_another_build)
    file = tmp_path / "another" / "log.sqlite3"
    other = SqliteLogStore(file)
    await other.open(CHANNEL)
    await other.write(rows(50_000))
    await other.erase(CHANNEL, {30: b"gone"})
    await other.scrub()
    assert files_with(file, SECRET) == []
    await other.close()
