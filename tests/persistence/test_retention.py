"""Retention removes what is too old, or too much, and nothing else.

On a real Redis, with SQLite and DynamoDB. Time is passed in.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain import retention
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import Removal
from services.persistence.domain.retention import PAUSE_S, Swept
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from services.shared.errors import Unavailable
from services.shared.hotlog import hotlog
from services.shared.hotlog.hotlog import Item
from services.shared.namespaces import Namespaces
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.dynamodb import settings_of
from tests.support.full import FULL
from tests.support.log import append
from tests.support.retention import retention_of, with_retention
from tests.support.scripts import run
from tests.support.waiting import until

BUCKET = 7  # small, so that ends of buckets are everywhere
DAY = 86_400.0
LIMITS = {"old": (30, 0), "many": (0, 12), "both": (10, 20)}
STEPS = {"sqlite": 4_000 if FULL else 200, "dynamodb": 400 if FULL else 25}
SEEDS = range(8) if FULL else (1,)


class Failing:
    """A store, or hot log, of which an operation fails before or after it was done."""

    def __init__(self, real: object) -> None:
        self.real, self.fails = real, dict[str, str]()
        self.error: type[BaseException] = Unavailable

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)
        if name not in self.fails:
            return real

        async def fails(*arguments: object, **named: object) -> object:
            when = self.fails.pop(name)
            if when == "after":
                await real(*arguments, **named)
            raise self.error(f"{name} failed {when} it was done")

        return fails


class World:
    """One Redis and one store, with two replicas of persistence."""

    def __init__(self, client: redis.asyncio.Redis, pipeline: RedisPipeline, namespaces: Namespaces) -> None:
        self.now, self.client, self.incarnation = 1_700_000_000.0, client, "1"
        self.namespaces, self._pipeline, self._number = namespaces, pipeline, 0
        self.store: SqliteLogStore | DynamoDbLogStore
        self.replicas: list[Replica] = []

    def clock(self) -> float:
        return self.now

    def begin(self, store: SqliteLogStore | DynamoDbLogStore) -> None:
        self.store = store
        self.replicas = [Replica(self, self._pipeline) for _ in range(2)]

    async def end(self) -> None:
        """End the replicas, and close the store."""
        for replica in self.replicas:
            await end_task(replica.running)
        await self.store.close()

    async def lose_redis(self) -> None:
        await self.client.flushall()
        self._number += 1
        self.incarnation = f"lost{self._number}"

    async def readable(self, channel: str) -> list[int]:
        """What edges see in Redis."""
        call = hotlog.read_call(
            channel, stored=True, incarnation=self.incarnation, since_offset=0, limit=10_000, reverse=False
        )
        page = hotlog.page((await run(self.client, [call]))[0])
        return [offset for offset, _ in page.entries] if page else []


class Replica:
    def __init__(self, world: World, pipeline: RedisPipeline) -> None:
        self.store: Any = Failing(world.store)
        self.hot: Any = Failing(RedisHotLog(pipeline, lambda: world.incarnation))
        first = self._retain if world.store.apart else None
        options: dict[str, Any] = {"max_unstored": 1_000, "max_waiting": 1_000, "max_batch": 256}
        self.log = Log(self.hot, self.store, first=first, **options)
        self.retention, self.turn = retention_of(
            self.log,
            self.hot,
            self.store,
            world.namespaces,
            world.clock,
        )
        self.running = asyncio.create_task(self.log.run())

    async def _retain(self, channel: str) -> None:
        await self.store.retain(channel)

    async def publish(self, channel: str, count: int) -> list[AppendedPosition]:
        items = [Item(os.urandom(16), b"x", "ann", os.urandom(8).hex()) for _ in range(count)]
        outcomes = await append(self.log, [Request(channel, item, 50, 3_600) for item in items])
        return [one for one in outcomes if isinstance(one, AppendedPosition)]

    async def offsets(self, channel: str, *, reverse: bool = False, since: int = 0) -> list[int]:
        rows, _ = await self.log.read(channel, since_offset=since, limit=10_000, reverse=reverse)
        return [offset for offset, _ in rows]


Worlds = Callable[[Namespaces], World]


@pytest.fixture(params=["sqlite", "dynamodb"])
async def world(
    request: pytest.FixtureRequest,
    redis_conn: redis.asyncio.Redis,
    redis_pipeline: RedisPipeline,
    tmp_path: Path,
) -> AsyncIterator[World]:
    made = World(redis_conn, redis_pipeline, with_retention(**LIMITS, keep=(0, 0)))
    if request.param == "sqlite":
        store: SqliteLogStore | DynamoDbLogStore = SqliteLogStore(tmp_path / "log.sqlite3", clock=made.clock)
    else:
        settings = settings_of(request.getfixturevalue("dynamodb"), f"{uuid.uuid4().hex}-")
        db = DynamoDb(settings)
        await tables.create(db, settings)
        store = DynamoDbLogStore(db, settings.log_table, bucket_offsets=BUCKET, clock=made.clock, deadline_s=60)
    made.begin(store)
    yield made
    await made.end()


class Model:
    """When each publication was stored, and up to where they are removed."""

    def __init__(self, channel: str, days: int, messages: int) -> None:
        self.channel, self.days, self.messages = channel, days, messages
        self.at: list[float] = []
        self.removed = 0

    def sweep(self, now: float) -> None:
        old = [offset for offset, at in enumerate(self.at, 1) if self.days and at < now - self.days * DAY]
        spare = len(self.at) - self.messages if self.messages else 0
        many = [offset for offset, at in enumerate(self.at, 1) if offset <= spare and at < now - 300]
        self.removed = max(self.removed, *old, *many, 0)


async def test_a_store_of_before_a_sweep_put_back_under_a_running_redis_is_swept_again(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, tmp_path: Path
) -> None:
    """Nobody reads more than the copy has, and what goes from it has another epoch."""
    path, copy = tmp_path / "log.sqlite3", tmp_path / "copy.sqlite3"
    world = World(redis_conn, redis_pipeline, with_retention(**LIMITS))
    world.begin(SqliteLogStore(path, clock=world.clock))
    replica = world.replicas[0]
    before = (await replica.publish("many:a", 40))[0].epoch
    with closing(sqlite3.connect(path)) as running, closing(sqlite3.connect(copy)) as target:
        running.backup(target)
    world.now += 301
    assert (await replica.retention.sweep() or Swept()).removed == 28
    assert (await replica.publish("many:a", 5))[-1].offset == 45
    await world.end()
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    copy.rename(path)
    store = SqliteLogStore(path, clock=world.clock)
    await store.begin_new_epochs(await store.heartbeat())  # as `thalamus store restore` does
    world.incarnation = "restored"
    world.begin(store)
    replica = world.replicas[0]
    assert await replica.offsets("many:a") == [*range(1, 41)]
    assert await replica.retention.sweep() == Swept(channels=1, failed=0, removed=28)
    assert await replica.offsets("many:a") == [*range(29, 41)]
    assert [one for one in await world.readable("many:a") if one <= 28 or one > 40] == []
    position = (await replica.publish("many:a", 1))[0]
    assert (position.offset, position.epoch != before) == (41, True)
    await world.end()


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_kept_is_what_the_options_say_whatever_fails_meanwhile(world: World, seed: int) -> None:
    """Sweeps that fail anywhere, losses of Redis, two replicas, in random order."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    models = [Model(f"{name}:a", *LIMITS.get(name, (0, 0))) for name in (*LIMITS, "keep")]
    epochs: dict[str, str] = {}
    for _ in range(STEPS["dynamodb" if world.store.apart else "sqlite"]):
        replica, model = chance.choice(world.replicas), chance.choice(models)
        match chance.choice(["publish"] * 4 + ["wait", "sweep", "sweep", "fail", "tidy", "lose"]):
            case "publish":
                positions = await replica.publish(model.channel, chance.choice([1, 1, 3, 9]))
                expected = range(len(model.at) + 1, len(model.at) + 1 + len(positions))
                assert [one.offset for one in positions] == [*expected]
                assert {one.epoch for one in positions} == {epochs.setdefault(model.channel, positions[0].epoch)}
                model.at += [world.now] * len(positions)
            case "wait":
                world.now += chance.choice([60, 400, DAY / 2, 6 * DAY, 25 * DAY])
            case "fail":
                fails = chance.choice(
                    [(replica.store, "begin_removal"), (replica.store, "stored_at"), (replica.hot, "trim")]
                )
                fails[0].fails[fails[1]] = chance.choice(["before", "after"])
                await replica.retention.sweep()
                fails[0].fails.clear()
                await world.replicas[0].retention.sweep()
                for one in models:
                    one.sweep(world.now)
                await replica.log.tidy()  # what was hidden in the store alone leaves Redis now
            case "tidy":
                await replica.log.tidy()
            case "lose":
                await world.lose_redis()
            case _:
                await replica.retention.sweep()
                for one in models:
                    one.sweep(world.now)
        for one in models:
            wanted = [*range(one.removed + 1, len(one.at) + 1)]
            assert await replica.offsets(one.channel) == wanted, one.channel
            assert await replica.offsets(one.channel, reverse=True) == wanted[::-1]
            assert [offset for offset in await world.readable(one.channel) if offset <= one.removed] == []
            top = await replica.log.open(one.channel)
            assert (top.top, top.removed) == (len(one.at), one.removed)


async def test_a_sweep_says_what_it_did_and_the_next_one_is_due_after_an_hour(world: World) -> None:
    replica = world.replicas[0]
    await replica.publish("many:a", 40)
    await replica.publish("keep:a", 40)
    world.now += 299
    assert await replica.retention.sweep() == Swept(channels=1, failed=0, removed=0)
    world.now += 2
    assert await replica.retention.sweep() == Swept(channels=1, failed=0, removed=28)
    assert replica.turn.ended[-1] == (Swept(1, 0, 28), PAUSE_S)
    kept = await replica.retention.kept("many:a")
    assert (kept.extent, kept.oldest_at) == ((28, 40), world.now - 301)


@pytest.mark.parametrize("error", [Unavailable, OverflowError, ExceptionGroup])
async def test_a_channel_that_fails_does_not_keep_others_from_being_swept(world: World, error: type[Exception]) -> None:
    replica = world.replicas[0]
    replica.store.error = error if error is not ExceptionGroup else _group
    for number in range(9):
        await replica.publish(f"many:{number}", 20)
    world.now += 301
    replica.store.fails["stored_at"] = "before"
    assert await replica.retention.sweep() == Swept(channels=8, failed=1, removed=8 * 8)
    assert await replica.retention.sweep() == Swept(channels=9, failed=0, removed=8)


def _group(text: str) -> ExceptionGroup[ValueError]:
    return ExceptionGroup(text, [ValueError(text)])


@pytest.mark.parametrize("error", [Unavailable, ValueError])
async def test_a_sweep_that_fails_is_tried_again_and_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A process ends as soon as one of its tasks does."""
    monkeypatch.setattr(retention, "_FIRST_S", 0.0)
    monkeypatch.setattr(retention, "_LOOK_S", 0.01)
    replica = world.replicas[0]
    await replica.publish("many:a", 20)
    world.now += 301
    replica.store.error, replica.store.fails["retained"] = error, "before"
    running = asyncio.create_task(replica.retention.run())
    try:
        await until(lambda: replica.turn.ended or running.done(), 60, "a sweep")
        assert not running.done()
        assert replica.turn.ended[0][0].removed == 8
    finally:
        await end_task(running)


async def test_a_sweep_that_is_cancelled_ends(world: World) -> None:
    replica = world.replicas[0]
    await replica.publish("many:a", 20)
    replica.store.error, replica.store.fails["extent"] = asyncio.CancelledError, "before"
    with pytest.raises(asyncio.CancelledError):
        await replica.retention.sweep()


async def test_a_replica_whose_turn_it_is_not_any_more_ends_its_sweep(world: World) -> None:
    replica = world.replicas[0]
    for number in range(10):
        await replica.publish(f"many:{number}", 20)
    world.now += 301
    replica.turn.is_lost = True
    assert await replica.retention.sweep() is None
    assert replica.turn.ended == []
    assert (await world.replicas[1].retention.sweep() or Swept()).removed == (10 - 8) * 8
    replica.turn.is_ours = False
    assert await replica.retention.sweep() is None


async def test_the_contents_go_from_the_store_once_no_key_counts(world: World) -> None:
    replica = world.replicas[0]
    await replica.publish("many:a", 40)
    world.now += 301
    await replica.retention.sweep()
    await replica.log.tidy()
    assert len(await world.store.removals()) == 1, "its keys may count"
    world.now += 301
    await replica.log.tidy()
    assert await world.store.removals() == list[Removal]()
    assert (await replica.publish("many:a", 1))[0].offset == 41
    assert await replica.offsets("many:a") == [*range(29, 42)]
