"""Two replicas at one channel, step by step.

What one of them found out is old by the time it acts on it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import Row
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import STAMP_BYTES, Item
from services.shared.hotlog.keys import pair
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.log import append, unstamped

CHANNEL = "chat:two"


def request(key: str, publication_id: bytes | None = None) -> Request:
    return Request(CHANNEL, Item(publication_id or os.urandom(16), key.encode(), "u", key), 1_000, 3_600)


class SlowStore:
    """The store, but that `recent_keys` answers when it may."""

    def __init__(self, store: SqliteLogStore) -> None:
        self._store = store
        self.has_read, self.may_answer = asyncio.Event(), asyncio.Event()

    async def recent_keys(self, channel: str, within_s: float) -> Any:
        found = await self._store.recent_keys(channel, within_s)
        self.has_read.set()
        await self.may_answer.wait()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteLogStore]:
    made = SqliteLogStore(tmp_path / "log.sqlite3")
    yield made
    await made.close()


def replica(conn: RedisPipeline, store: Any) -> tuple[Log, RedisHotLog, asyncio.Task[None]]:
    hot = RedisHotLog(conn, lambda: "incarnation")
    log = Log(hot, store, max_unstored=100, max_waiting=1_000, max_batch=64)
    return log, hot, asyncio.create_task(log.run())


async def stored(store: SqliteLogStore) -> list[str]:
    found = await store.read(CHANNEL, since_offset=0, upto=100, limit=100, reverse=False)
    return [unstamped(publication).decode() for _, publication in found]


async def test_a_key_has_one_position_though_two_replicas_resolve_the_same_conflict(
    redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    slow = SlowStore(store)
    slow.may_answer.set()
    (first, _, running1), (second, _, running2) = replica(redis_pipeline, slow), replica(redis_pipeline, store)
    await append(first, [request("first")])
    await store.write(
        [Row(CHANNEL, 2, os.urandom(16), b"foreign" + bytes(STAMP_BYTES), pair("u", "foreign"))]
    )  # Redis is one behind
    slow.has_read.clear()
    slow.may_answer.clear()
    publication_id = os.urandom(16)
    waiting = asyncio.create_task(append(first, [request("k", publication_id)]))
    await slow.has_read.wait()
    (there,) = await append(second, [request("k", publication_id)])  # an edge that did not want to wait any longer
    slow.may_answer.set()
    (here,) = await waiting
    assert isinstance(there, AppendedPosition)
    assert isinstance(here, AppendedPosition)
    assert (here.offset, there.offset) == (3, 3)
    assert await stored(store) == ["first", "foreign", "k"]
    for running in (running1, running2):
        await end_task(running)


async def test_what_could_not_be_committed_is_looked_at_again(
    redis_pipeline: RedisPipeline, store: SqliteLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another incarnation began between the store and the commit."""
    log, hot, running = replica(redis_pipeline, store)
    await append(log, [request("first")])
    commit = hot.commit

    def answer(outcome: int | Exception) -> None:
        async def answered(channels: Any, incarnation: str) -> list[int | Exception]:
            return [outcome for _ in channels]

        monkeypatch.setattr(hot, "commit", answered)

    answer(Unavailable("as if Redis had gone"))
    await append(log, [request("second")])
    answer(-1)
    await log.sweep(0.0, 10)
    monkeypatch.setattr(hot, "commit", commit)
    await log.sweep(0.0, 10)
    assert (await log.open(CHANNEL)).top == 2
    assert await stored(store) == ["first", "second"]
    await end_task(running)
