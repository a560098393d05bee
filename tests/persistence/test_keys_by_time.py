"""An idempotency key has one place for 300 s, by the clock of Redis.

However many publications came behind it.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from services.persistence.__main__ import _open_store
from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.redis.heartbeat import RedisHeartbeat
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.config import PersistenceConfig
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import Heartbeat, LogStore, Row, Written
from services.shared.dynamodb.client import DynamoDb
from services.shared.errors import Unavailable
from services.shared.hotlog.keys import pair
from services.shared.redis.clock import RedisClock
from services.shared.redis.pipeline import RedisPipeline
from tests.persistence.test_crashes import CHANNEL, Replica
from tests.support.dynamodb_tables import own_tables

BEHIND = 12_000


@pytest.fixture(params=["sqlite", "dynamodb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LogStore]:
    if request.param == "sqlite":
        made = SqliteLogStore(tmp_path / "log.sqlite3")
        yield made
        await made.close()
        return
    settings = await own_tables(request.getfixturevalue("dynamodb"))
    kept = DynamoDbLogStore(DynamoDb(settings), settings.log_table)
    yield kept
    await kept.close()


async def _repeated(replica: Replica, data: str, key: str) -> AppendedPosition:
    """As publishers do: an unknown outcome is repeated under the key.

    Bringing so many keys may take a while, for which everybody is told to come again.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            return await replica.append(data, key=key)
        except Unavailable:
            assert time.monotonic() < deadline


async def _store_many(store: LogStore, first: int, keyed: str) -> None:
    """Another replica stores so many, the first under a key of a client's.

    The rest are under keys of clients, too.
    """
    rows = [
        Row(CHANNEL, offset, os.urandom(16), b"x", pair("u", keyed if offset == first else f"other-{offset}"))
        for offset in range(first, first + BEHIND + 1)
    ]
    for start in range(0, len(rows), 1_000):
        written = (await store.write(rows[start : start + 1_000]))[CHANNEL]
        assert isinstance(written, Written)
        assert not written.conflict


async def test_over_an_emptied_redis(store: LogStore, redis_pipeline: RedisPipeline) -> None:
    await store.open(CHANNEL)
    await _store_many(store, 1, "k")
    replica = Replica(redis_pipeline, store)
    again = await _repeated(replica, "again", "k")
    assert (again.offset, again.repeated_key) == (1, True)
    assert (await _repeated(replica, "new", "new")).offset == BEHIND + 2
    await replica.close()


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "found by a conflict"])
async def test_over_a_redis_that_went_back(
    store: LogStore, redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis, noticed: bool
) -> None:
    replica = Replica(redis_pipeline, store)
    await _repeated(replica, "one", "one")
    await _store_many(store, 2, "k")
    if noticed:
        replica.incarnation = "another"
    again = await _repeated(replica, "again", "k")
    assert (again.offset, again.repeated_key) == (2, True)
    last = await _repeated(replica, "once more", f"other-{BEHIND}")
    assert (last.offset, last.repeated_key) == (BEHIND, True)
    assert (await _repeated(replica, "new", "new")).offset == BEHIND + 3
    await replica.close()


async def test_a_wall_clock_that_is_set_changes_no_age(tmp_path: Path) -> None:
    wall, monotonic = 1_800_000_000.0, 50.0
    clock = RedisClock(lambda: wall, lambda: monotonic)
    assert clock() == wall  # Redis has not been asked yet
    clock.sync(1_700_000_000.0)
    store = SqliteLogStore(tmp_path / "log.sqlite3", clock=clock)
    await store.open(CHANNEL)
    await store.write([Row(CHANNEL, 1, os.urandom(16), b"x", pair("u", "k"))])
    wall += 900
    monotonic += 100
    clock.sync(1_700_000_100.0)
    assert [(one.key, one.ttl_s) for one in await store.recent_keys(CHANNEL, 300)] == [("k", 200)]
    wall -= 1_800
    monotonic += 201
    assert await store.recent_keys(CHANNEL, 300) == []
    await store.close()


async def test_stores_go_by_the_clock_of_redis(redis_url: str, tmp_path: Path) -> None:
    clock = RedisClock(lambda: 0.0)
    opened = _open_store(PersistenceConfig(db=tmp_path / "log.sqlite3"), clock)
    heartbeat = RedisHeartbeat(redis_url, on_time=clock.sync)
    await heartbeat.count_and_compare(Heartbeat(0, 0, store="a"))
    assert abs(clock() - time.time()) < 60  # no longer that of the wall, which is at 0
    await opened.store.open(CHANNEL)
    await opened.store.write([Row(CHANNEL, 1, os.urandom(16), b"x", pair("u", "k"))])
    (known,) = await opened.store.recent_keys(CHANNEL, 300)
    assert 200 < known.ttl_s <= 300
    await heartbeat.close()
    await opened.store.close()


async def test_keys_that_the_platform_made_are_not_brought_once_nobody_repeats_them(tmp_path: Path) -> None:
    now = 1_000.0
    store = SqliteLogStore(tmp_path / "log.sqlite3", clock=lambda: now)
    await store.open(CHANNEL)
    own = os.urandom(16)
    await store.write([Row(CHANNEL, 1, own, b"x", pair("u", own.hex())), Row(CHANNEL, 2, own, b"x", pair("u", "k"))])
    assert [one.offset for one in await store.recent_keys(CHANNEL, 300)] == [2, 1]
    now += 61
    assert [one.offset for one in await store.recent_keys(CHANNEL, 300)] == [2]
    await store.close()
