"""The log of stored channels, on a real Redis and a real SQLite.

Whatever crashes, goes back or is lost in between.

Invariants: one publication per offset, for ever; nothing readable that is not stored; a key has one position; what was
numbered becomes readable or never will.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import redis.asyncio
from prometheus_client import Counter

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import ChannelState, HotLog, LogStore, Row, Written
from services.persistence.metrics import BATCHES, COMMITS, STORED
from services.shared.errors import Busy, Unavailable
from services.shared.hotlog import hotlog, keys
from services.shared.hotlog.hotlog import Appended, Batch, Item
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.log import append, unstamped
from tests.support.scripts import run

CHANNEL = "chat:crash"


class Crash(Exception):
    """A process ended here."""


class CrashingStore:
    """The real store, with a crash before or after the next write."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self.crash = ""

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def write(self, rows: Sequence[Row]) -> Mapping[str, Written | Unavailable]:
        if self.crash == "before":
            raise Crash
        written = await self._store.write(rows)
        if self.crash == "after":
            raise Crash
        return written


class Replica:
    """One persistence process: a `Log` with its writer running."""

    def __init__(self, client: RedisPipeline, store: LogStore, **limits: Any) -> None:
        self.incarnation = ""
        hot: HotLog = RedisHotLog(client, lambda: self.incarnation)
        options: dict[str, Any] = {"max_unstored": 1_000, "max_waiting": 10_000, "max_batch": 256, **limits}
        self.log = Log(hot, store, **options)
        self._task = asyncio.create_task(self.log.run())

    async def append(self, data: str, *, key: str = "", user: str = "u", channel: str = CHANNEL) -> AppendedPosition:
        item = Item(os.urandom(16), data.encode(), user, key or os.urandom(8).hex())
        (outcome,) = await append(self.log, [Request(channel, item, 1_000, 86_400)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        await end_task(self._task)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteLogStore]:
    made = SqliteLogStore(tmp_path / "log.sqlite3")
    yield made
    await made.close()


@pytest.fixture
async def replica(redis_pipeline: RedisPipeline, store: SqliteLogStore) -> AsyncIterator[Replica]:
    made = Replica(redis_pipeline, store)
    yield made
    await made.close()


async def readable(client: redis.asyncio.Redis, channel: str = CHANNEL, incarnation: str = "") -> list[tuple[int, str]]:
    call = hotlog.read_call(channel, stored=True, incarnation=incarnation, since_offset=0, limit=10_000, reverse=False)
    page = hotlog.page((await run(client, [call]))[0])
    return [(offset, unstamped(payload).decode()) for offset, payload in page.entries] if page else []


async def stored(store: LogStore, channel: str = CHANNEL) -> list[tuple[int, str]]:
    found = await store.read(channel, since_offset=0, upto=1 << 40, limit=100_000, reverse=False)
    return [(offset, unstamped(payload).decode()) for offset, payload in found]


async def test_offsets_count_from_one_and_store_and_readers_agree(
    replica: Replica, redis_conn: redis.asyncio.Redis, store: SqliteLogStore
) -> None:
    positions = [await replica.append(str(number)) for number in range(20)]
    assert [position.offset for position in positions] == list(range(1, 21))
    assert len({position.epoch for position in positions}) == 1
    expected = [(number + 1, str(number)) for number in range(20)]
    assert await readable(redis_conn) == await stored(store) == expected


async def test_nothing_is_readable_or_announced_while_the_store_has_not_got_it(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    crashing = CrashingStore(store)
    replica = Replica(redis_pipeline, crashing)  # type: ignore[arg-type]
    await replica.append("first")
    crashing.crash = "before"
    async with redis_conn.pubsub() as listener:
        await listener.subscribe(keys.pub(CHANNEL))
        await listener.get_message(timeout=60)
        with pytest.raises(Unavailable):
            await replica.append("second")
        assert await readable(redis_conn) == [(1, "first")]
        assert await listener.get_message(timeout=0.1) is None
    await replica.close()


@pytest.mark.parametrize("crash", ["before", "after"])
async def test_what_a_crash_left_another_replica_finishes(
    crash: str, redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    crashing = CrashingStore(store)
    dying, other = Replica(redis_pipeline, crashing), Replica(redis_pipeline, store)  # type: ignore[arg-type]
    await dying.append("first")
    crashing.crash = crash
    with pytest.raises(Unavailable):
        await dying.append("second", key="k")
    assert await readable(redis_conn) == [(1, "first")]
    await other.log.sweep(0.0, 100)
    assert await readable(redis_conn) == await stored(store) == [(1, "first"), (2, "second")]
    assert await other.append("second again", key="k") == AppendedPosition(
        2, (await other.log.open(CHANNEL)).epoch, True
    )
    assert await redis_conn.zcard(keys.dirty()) <= 1
    for one in (dying, other):
        await one.close()


async def test_the_next_append_finishes_what_a_crash_left(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    crashing = CrashingStore(store)
    dying, other = Replica(redis_pipeline, crashing), Replica(redis_pipeline, store)  # type: ignore[arg-type]
    crashing.crash = "before"
    with pytest.raises(Unavailable):
        await dying.append("left")
    position = await other.append("next")
    assert position.offset == 2
    assert await readable(redis_conn) == await stored(store) == [(1, "left"), (2, "next")]
    for one in (dying, other):
        await one.close()


async def test_an_empty_redis_costs_nothing(
    replica: Replica, redis_conn: redis.asyncio.Redis, store: SqliteLogStore
) -> None:
    first = await replica.append("first", key="k")
    await redis_conn.flushall()
    again = await replica.append("repeated", key="k")
    assert (again.offset, again.epoch, again.repeated_key) == (1, first.epoch, True)
    second = await replica.append("second")
    assert (second.offset, second.epoch) == (2, first.epoch)
    assert await stored(store) == [(1, "first"), (2, "second")]
    assert await replica.log.open(CHANNEL) == ChannelState(first.epoch, 2)


async def test_a_redis_that_went_back_reuses_no_offset_and_forgets_no_key(
    replica: Replica, redis_conn: redis.asyncio.Redis, store: SqliteLogStore
) -> None:
    await replica.append("one")
    names = [keys.log(CHANNEL), keys.meta(CHANNEL)]
    dumped = [await redis_conn.dump(name) for name in names]
    await replica.append("two", key="k")
    await replica.append("three")
    await redis_conn.flushall()
    for name, value in zip(names, dumped, strict=True):
        assert value is not None
        await redis_conn.restore(name, 0, value)
    repeated = await replica.append("two repeated", key="k")
    assert (repeated.offset, repeated.repeated_key) == (2, True)
    assert (await replica.append("four")).offset == 4
    assert await stored(store) == [(1, "one"), (2, "two"), (3, "three"), (4, "four")]


async def test_a_disk_that_is_full_is_said_and_works_again_once_there_is_room(
    tmp_path: Path, redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline
) -> None:
    store = SqliteLogStore(tmp_path / "full.sqlite3")
    replica = Replica(redis_pipeline, store)
    await replica.append("first")
    writer = store.database._connections["write"]  # noqa: SLF001  # the bound below is one of this connection
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(Unavailable):
        await asyncio.gather(*(replica.append("x" * 8_000) for _ in range(10)))
    # The connection was made anew, without the bound: there is room.
    await replica.append("last")
    await replica.log.sweep(0.0, 100)
    found = await stored(store)
    assert [offset for offset, _ in found] == list(range(1, len(found) + 1))
    assert found[-1][1] == "last"
    assert await readable(redis_conn) == found
    await replica.close()
    await store.close()


def counted(metric: Counter) -> float:
    """The value of a counter without labels."""
    (family,) = metric.collect()
    return next(sample.value for sample in family.samples if sample.name.endswith("_total"))


async def test_many_appends_at_once_share_batches_and_transactions(replica: Replica) -> None:
    before = [counted(metric) for metric in (BATCHES, COMMITS, STORED)]
    await asyncio.gather(*(replica.append(str(number), channel=f"chat:{number % 50}") for number in range(1_000)))
    batches, commits, rows = (
        counted(metric) - was for metric, was in zip((BATCHES, COMMITS, STORED), before, strict=True)
    )
    assert rows == 1_000
    assert rows / batches >= 4
    assert commits == batches


async def test_a_channel_whose_store_lags_too_far_is_busy(redis_pipeline: RedisPipeline, store: SqliteLogStore) -> None:
    crashing = CrashingStore(store)
    replica = Replica(redis_pipeline, crashing, max_unstored=3)  # type: ignore[arg-type]
    crashing.crash = "before"
    for _ in range(3):
        with pytest.raises(Unavailable):
            await replica.append("unstored")
    with pytest.raises(Busy):
        await replica.append("refused")
    await replica.close()


async def test_of_a_batch_that_finds_too_little_room_the_first_get_it_and_the_others_are_told(
    redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    replica = Replica(redis_pipeline, store, max_unstored=3)
    await replica.log.open(CHANNEL)
    outcomes = await asyncio.gather(*(replica.append(str(number)) for number in range(5)), return_exceptions=True)
    assert [outcome.offset for outcome in outcomes if isinstance(outcome, AppendedPosition)] == [1, 2, 3]
    assert [type(outcome) for outcome in outcomes[3:]] == [Busy, Busy]
    assert await stored(store) == [(1, "0"), (2, "1"), (3, "2")]
    await replica.close()


async def test_however_many_channels_a_batch_has_all_are_marked(redis_pipeline: RedisPipeline) -> None:
    channels = [f"chat:{number}" for number in range(5_001)]
    assert await redis_pipeline.run([hotlog.mark_call(channels)], timeout_s=2) == [1]
    (found,) = await redis_pipeline.run([hotlog.settled_call(-1, 10_000)], timeout_s=2)
    assert sorted(found[::2]) == sorted(channel.encode() for channel in channels)


async def test_history_is_paged_both_ways_and_survives_the_trimming_of_the_hot_log(replica: Replica) -> None:
    for start in range(0, 2_500, 250):
        await asyncio.gather(*(replica.append(str(number)) for number in range(start, start + 250)))
    forwards: list[int] = []
    while True:
        page, _ = await replica.log.read(
            CHANNEL, since_offset=forwards[-1] if forwards else 0, limit=300, reverse=False
        )
        forwards += [offset for offset, _ in page]
        if len(page) < 300:
            break
    assert forwards == list(range(1, 2_501))
    backwards: list[int] = []
    while True:
        page, _ = await replica.log.read(
            CHANNEL, since_offset=backwards[-1] if backwards else 0, limit=300, reverse=True
        )
        backwards += [offset for offset, _ in page]
        if not page or page[-1][0] == 1:
            break
    assert backwards == list(range(2_500, 0, -1))


@pytest.mark.parametrize("seed", range(12))
async def test_random_crashes_losses_and_rollbacks_keep_every_promise(
    seed: int, redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    """Two replicas; at any step one may crash, or Redis come back otherwise.

    Before or after its write; empty or older.
    """
    print(f"seed {seed}")
    rng = random.Random(seed)
    crashing = CrashingStore(store)
    replicas = [Replica(redis_pipeline, crashing), Replica(redis_pipeline, store)]  # type: ignore[arg-type]
    acked: dict[int, str] = {}
    first_position: dict[str, int] = {}
    snapshot: list[tuple[Any, bytes]] = []
    for step in range(80):
        action = rng.random()
        if action < 0.75:
            key = f"k{rng.randint(0, 30)}" if rng.random() < 0.5 else ""
            crashing.crash = rng.choice(["", "", "", "before", "after"])
            try:
                position = await rng.choice(replicas).append(f"s{step}", key=key)
            except Unavailable:
                continue
            if position.repeated_key:
                if key in first_position:
                    assert first_position[key] == position.offset
            else:
                assert position.offset not in acked
                acked[position.offset] = f"s{step}"
            if key:
                assert first_position.setdefault(key, position.offset) == position.offset
        elif action < 0.85:
            await replicas[1].log.sweep(0.0, 100)
        elif action < 0.9:
            snapshot = [
                (name, value)
                for name in await redis_conn.keys("*")
                if (value := await redis_conn.dump(name)) is not None
            ]
        else:
            await redis_conn.flushall()
            for name, value in snapshot if rng.random() < 0.5 else []:
                await redis_conn.restore(name, 0, value)
            for replica in replicas:
                replica.incarnation = f"incarnation{step}"  # they notice the new incarnation of Redis
    crashing.crash = ""
    last = await replicas[1].append("marker")
    found = dict(await stored(store))
    assert sorted(found) == list(range(1, last.offset + 1))
    assert {offset: found[offset] for offset in acked} == acked
    assert (await replicas[1].log.open(CHANNEL)).top == last.offset
    for offset, text in await readable(redis_conn, incarnation=replicas[1].incarnation):
        assert found[offset] == text
    for replica in replicas:
        await replica.close()


async def test_a_key_of_what_was_removed_keeps_its_position_also_over_an_empty_redis(
    replica: Replica, redis_conn: redis.asyncio.Redis
) -> None:
    await replica.append("one", key="k")
    await replica.append("two")
    await replica.log.remove_history(CHANNEL)
    for _ in range(2):
        again = await replica.append("one again", key="k")
        assert (again.offset, again.repeated_key) == (1, True)
        await redis_conn.flushall()
    assert (await replica.append("three")).offset == 3
    found, _ = await replica.log.read(CHANNEL, since_offset=0, limit=9, reverse=False)
    assert [(offset, unstamped(payload)) for offset, payload in found] == [(3, b"three")]


async def test_a_removal_whose_process_died_before_redis_was_trimmed_is_gone_on_with_by_another(
    replica: Replica, redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, tmp_path: Path
) -> None:
    """And what was published meanwhile stays where readers find it quickly."""
    await replica.append("one")
    later = SqliteLogStore(tmp_path / "log.sqlite3", clock=lambda: time.time() + 301)
    await later.begin_removal(CHANNEL, 1)  # and then it died
    assert await readable(redis_conn) == [(1, "one")]
    await replica.append("two")
    other = Replica(redis_pipeline, later)
    for _ in range(2):
        await other.log.tidy()
        assert await readable(redis_conn) == await stored(later) == [(2, "two")]
    assert [one.upto for one in await later.removals()] == [1]
    much_later = SqliteLogStore(tmp_path / "log.sqlite3", clock=lambda: time.time() + 602)
    third = Replica(redis_pipeline, much_later)
    await third.log.tidy()
    assert await much_later.removals() == []
    assert await stored(much_later) == [(2, "two")]
    for one in (other, third):
        await one.close()
    for store in (later, much_later):
        await store.close()


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("behind", ["", "two"])
async def test_a_redis_from_before_a_removal_does_not_bring_it_back(
    finished: bool, behind: str, replica: Replica, redis_conn: redis.asyncio.Redis, store: SqliteLogStore
) -> None:
    """Nothing was published since, so what it has is what the store had."""
    await replica.append("one")
    if behind:
        await store.begin_removal(CHANNEL, 1)  # its log is not trimmed yet
        await replica.append(behind)
    names = await redis_conn.keys("*")
    copy = [(name, await redis_conn.dump(name)) for name in names]
    if not behind:
        await replica.log.remove_history(CHANNEL)
    if finished:
        for removal in await store.removals():
            await store.finish_removal(removal)
    await redis_conn.flushall()
    for name, value in copy:
        await redis_conn.restore(name, 0, value)  # type: ignore[arg-type]
    replica.incarnation = "another"
    await replica.log.open(CHANNEL)
    found = await readable(redis_conn, incarnation="another")
    assert [text for _, text in found] == [text for _, text in await stored(store)] == ([behind] if behind else [])


async def test_a_removal_that_can_not_be_gone_on_with_holds_up_no_other(
    replica: Replica, store: SqliteLogStore, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for channel in ("chat:a", "chat:b"):
        await replica.append("x", channel=channel)
        await store.begin_removal(channel, 1)
    trim = RedisHotLog.trim

    async def trim_others(hot: RedisHotLog, channel: str, upto: int) -> None:
        if channel == "chat:a":
            raise Unavailable("by the test")
        await trim(hot, channel, upto)

    monkeypatch.setattr(RedisHotLog, "trim", trim_others)
    with pytest.raises(Unavailable):
        await replica.log.tidy()
    assert await readable(redis_conn, "chat:b") == []


@pytest.mark.parametrize("crash", ["before", "after"])
async def test_history_that_is_removed_takes_nothing_that_is_not_stored_yet(
    crash: str, redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    crashing = CrashingStore(store)
    replica = Replica(redis_pipeline, crashing)  # type: ignore[arg-type]
    await replica.append("one")
    crashing.crash = crash
    with pytest.raises(Unavailable):
        await replica.append("two", key="k")
    crashing.crash = ""
    await replica.log.remove_history(CHANNEL)
    third = await replica.append("three")
    assert third.offset == 3
    assert (await replica.append("two again", key="k")).offset == 2
    assert await readable(redis_conn) == await stored(store) == [(2, "two"), (3, "three")]
    await replica.close()


async def test_history_removed_between_two_replicas_loses_no_ack(
    redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    """A has numbered and not stored, and B numbers behind it.

    The history is removed before B looks for A's entry.
    """
    crashing = CrashingStore(store)
    first, second = Replica(redis_pipeline, crashing), Replica(redis_pipeline, store)  # type: ignore[arg-type]
    await second.append("one")
    crashing.crash = "before"
    with pytest.raises(Unavailable):
        await first.append("two")
    removing = first.log.remove_history(CHANNEL)
    _, position = await asyncio.gather(removing, second.append("three"))
    assert position.offset == 3
    found = dict(await stored(store))
    assert (found[2], found[3]) == ("two", "three")
    assert (await second.append("four")).offset == 4
    for one in (first, second):
        await one.close()


async def test_a_log_that_somebody_deleted_goes_on_above_what_the_store_has(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    crashing = CrashingStore(store)
    replica = Replica(redis_pipeline, crashing)  # type: ignore[arg-type]
    await replica.append("one")
    crashing.crash = "before"
    with pytest.raises(Unavailable):
        await replica.append("numbered only")
    crashing.crash = ""
    await redis_conn.delete(keys.log(CHANNEL))
    assert (await replica.append("two", key="k")).offset == 2
    assert (await replica.append("three")).offset == 3
    assert await stored(store) == [(1, "one"), (2, "two"), (3, "three")]
    await replica.close()


async def test_what_was_numbered_in_another_incarnation_is_not_made_readable_in_this_one(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    hot = RedisHotLog(redis_pipeline, lambda: "life1")
    await store.open(CHANNEL)
    log = Log(hot, store, max_unstored=10, max_waiting=10, max_batch=10)
    await log.open(CHANNEL)
    epoch = (await store.open(CHANNEL)).epoch
    item = Item(os.urandom(16), b"x", "u", "k")
    assert await hot.append([Batch(CHANNEL, 10, 60, [item])], 10) == [Appended(epoch, 0, ANY, [1])]
    await redis_conn.hset(keys.meta(CHANNEL), "life", "life2")  # compared with the store again meanwhile
    assert await hot.commit([(CHANNEL, epoch, 1, 10)], "life1") == [-1]


async def test_a_key_of_what_another_replica_dropped_leads_nowhere(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, store: SqliteLogStore
) -> None:
    """B has numbered; A finds Redis behind the store and advances it.

    B's key must not lead to another's place.
    """
    crashing = CrashingStore(store)
    first, second = Replica(redis_pipeline, store), Replica(redis_pipeline, crashing)  # type: ignore[arg-type]
    await first.append("one")
    crashing.crash = "before"
    with pytest.raises(Unavailable):
        await second.append("two", key="kb")
    state = await store.open(CHANNEL)
    await redis_conn.hset(keys.meta(CHANNEL), "stored", "0")  # as in a Redis that went back
    await RedisHotLog(redis_pipeline, lambda: "").advance(CHANNEL, state, 0, [], [])
    assert (await first.append("three")).offset == 2
    crashing.crash = ""
    repeated = await second.append("two", key="kb")
    assert (repeated.offset, repeated.repeated_key) == (3, False)
    assert await stored(store) == [(1, "one"), (2, "three"), (3, "two")]
    for one in (first, second):
        await one.close()
