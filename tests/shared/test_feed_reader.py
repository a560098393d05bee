"""Readers of the feed: groups, repeats, gaps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio

from services.shared.errors import ThalamusError
from services.shared.feed.events import Event, EventType
from services.shared.feed.reader import Backlog, FeedReader
from services.shared.hotlog import keys
from tests.support.feed import tell_publications
from tests.support.webhooks import tell

CHANNEL = "chat:1"
Open = Callable[..., FeedReader]


@pytest.fixture
async def reader(redis_url: str) -> AsyncIterator[Open]:
    """Make readers, which are closed in the end."""
    made: list[FeedReader] = []

    def make(**options: object) -> FeedReader:
        made.append(FeedReader(redis_url, "g", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def publish(client: redis.asyncio.Redis, *offsets: int, **options: Any) -> None:
    await tell_publications(client, CHANNEL, *offsets, **options)


def numbers(events: list[Event]) -> list[int]:
    return [event.number for event in events if event.type is not EventType.GAP]


def gaps(events: list[Event]) -> list[tuple[str, int | None]]:
    return [(event.reason, event.missed) for event in events if event.type is EventType.GAP]


async def test_a_new_group_is_told_a_gap_then_what_comes(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    await publish(redis_conn, 1)
    first = reader()
    begun = await first.next(wait_s=0)
    assert gaps(begun) == [("new", None)]
    assert not numbers(begun)
    await first.done(begun)
    await publish(redis_conn, 2, 3)
    found = await first.next()
    assert numbers(found) == [2, 3]
    assert found[0].as_json() == {
        "id": found[0].id,
        "type": "publication",
        "number": 2,
        "channel": CHANNEL,
        "epoch": "e",
        "user": "ann",
        "time": int(found[0].id.split("-")[1]),
    }
    assert found[0].id.startswith(f"feed{keys.feed_shard(CHANNEL)}-")
    assert await first.backlog() == Backlog(0, 2)
    await first.done(found)
    assert await first.backlog() == Backlog(0, 0)
    await publish(redis_conn, 4)
    assert await first.backlog() == Backlog(1, 0)


async def test_a_group_may_begin_with_what_is_kept(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    await publish(redis_conn, 1, 2)
    found = await reader(from_start=True).next()
    assert numbers(found) == [1, 2]
    assert gaps(found) == [("new", None)]


async def test_readers_of_a_group_share_its_events(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    first, second = reader(from_start=True), reader(from_start=True)
    await publish(redis_conn, *range(1, 9))
    one, other = await first.next(limit=5), await second.next(limit=5)
    assert (numbers(one), numbers(other)) == ([1, 2, 3, 4, 5], [6, 7, 8])


async def test_what_a_dead_reader_took_goes_to_another_one(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    dead, living = reader(from_start=True, claim_after_s=0.05), reader(from_start=True, claim_after_s=0.05)
    await publish(redis_conn, 1, 2)
    taken = await dead.next()
    again = await living.next(wait_s=5)
    assert {event.id for event in again} == {event.id for event in taken}
    await living.done(again)
    assert await living.backlog() == Backlog(0, 0)


async def test_consumers_that_are_long_gone_are_forgotten_unless_they_hold_events(
    redis_conn: redis.asyncio.Redis, reader: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.shared.feed.reader._GONE_S", 0.05)
    gone, holds, last = (
        reader(consumer=name, from_start=True, claim_after_s=1_000.0) for name in ("gone", "holds", "last")
    )
    await publish(redis_conn, 1)
    assert numbers(await holds.next()) == [1]
    await gone.next(wait_s=0)
    await asyncio.sleep(0.1)
    await last.next(wait_s=0)
    known = await redis_conn.xinfo_consumers(keys.commits(keys.feed_shard(CHANNEL)), "g")
    assert {one["name"] for one in known} == {b"holds", b"last"}


async def test_what_was_trimmed_unread_is_told_as_a_gap(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    first = reader()
    await first.done(await first.next(wait_s=0))
    await publish(redis_conn, 1, 2)
    await first.done(await first.next())
    await publish(redis_conn, *range(3, 10), maxlen=3, approximate=False)
    found = await first.next()
    assert numbers(found) == [7, 8, 9]
    assert gaps(found) == [("trimmed", 4)]
    await publish(redis_conn, *range(10, 13), maxlen=3, approximate=False)
    found = await first.next()
    assert numbers(found) == [10, 11, 12]
    assert not gaps(found)


async def test_what_was_trimmed_unacknowledged_is_told_too(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    dead, living = reader(from_start=True, claim_after_s=0.05), reader(from_start=True, claim_after_s=0.05)
    await publish(redis_conn, 1, 2, 3)
    await dead.next()
    await redis_conn.xtrim(keys.commits(keys.feed_shard(CHANNEL)), maxlen=1, approximate=False)
    found: list[Event] = []
    while len(found) < 3:
        taken = await living.next(wait_s=5)
        await living.done(taken)
        found += taken
    assert numbers(found) == [3]
    assert sorted(gaps(found)) == [("new", None), ("trimmed", 2)]


async def test_a_redis_that_may_have_lost_data_is_told_as_a_gap(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    first = reader()
    await first.done(await first.next(wait_s=0))
    await redis_conn.set(keys.incarnation(), "other 1 0")
    assert not await first.next(wait_s=0)  # restarted, and it has lost nothing
    await redis_conn.set(keys.incarnation(), "other 2 0")
    assert gaps(await first.next(wait_s=0)) == [("lost", None)]


async def test_a_redis_that_lost_all_begins_the_group_anew(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    first = reader()
    await first.done(await first.next(wait_s=0))
    await redis_conn.flushall()
    assert gaps(await first.next(wait_s=0)) == [("new", None)]
    await publish(redis_conn, 1)
    assert numbers(await first.next()) == [1]


async def test_a_stream_that_is_gone_begins_the_group_anew(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    first = reader(from_start=True)
    await first.done(await first.next(wait_s=0))
    await redis_conn.delete(keys.commits(keys.feed_shard(CHANNEL)))
    await publish(redis_conn, 1)
    found = await first.next()
    assert numbers(found) == [1]
    assert gaps(found) == [("new", None)]


async def test_types_that_nobody_asked_for_are_acknowledged(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    first = reader(types=[EventType.JOIN], from_start=True)
    stream = keys.lifecycle(keys.feed_shard(CHANNEL))
    for kind in ("join", "leave", "of a later version"):
        await redis_conn.xadd(stream, {"k": kind, "n": 1, "c": CHANNEL, "m": ""})
    await publish(redis_conn, 1)
    found = await first.next()
    assert [event.type for event in found] == [EventType.GAP, EventType.JOIN]
    await first.done(found)
    assert await first.backlog() == Backlog(0, 0)


async def test_events_that_come_one_by_one_are_read_together(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    first = reader(claim_after_s=1e6)
    await first.done(await first.next(wait_s=0))
    took: list[Event] = []

    async def follow() -> None:
        while len(took) < 200:
            took.extend(await first.next())

    async def reads() -> int:
        return int((await redis_conn.info("commandstats"))["cmdstat_evalsha"]["calls"])

    before, began, following = await reads(), time.monotonic(), asyncio.create_task(follow())
    for offset in range(1, 201):
        await publish(redis_conn, offset)
    async with asyncio.timeout(20):
        await following
    assert await reads() - before <= (time.monotonic() - began) / 0.02 + 3
    assert numbers(took) == list(range(1, 201))


async def test_numbers_grow_though_redis_came_back_with_less(redis_conn: redis.asyncio.Redis) -> None:
    await tell(redis_conn, "connect", "ann")
    kept = await redis_conn.get("t:test:counter:/uann")
    assert kept is not None
    told = [await tell(redis_conn, "connect", "ann") for _ in range(20)]
    assert told == sorted(set(told))
    while (now := await redis_conn.time()) and now[0] * 1000 + now[1] // 1000 <= told[-1]:
        await asyncio.sleep(0.001)
    await redis_conn.set("t:test:counter:/uann", kept)
    assert await tell(redis_conn, "disconnect", "ann") > told[-1]
    assert await redis_conn.ttl("t:test:counter:/uann") > 29 * 86_400


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a:b"])
def test_a_group_has_a_plain_name(name: str, redis_url: str) -> None:
    with pytest.raises(ThalamusError, match="group"):
        FeedReader(redis_url, name)


async def test_a_stream_with_a_long_backlog_lets_the_others_be_read(
    redis_conn: redis.asyncio.Redis, reader: Open
) -> None:
    first = reader(from_start=True)
    busy = next(name for name in map(str, range(999)) if keys.feed_shard(name) == 0)
    await tell_publications(redis_conn, busy, *range(1, 1_001))
    for shard in range(keys.FEED_SHARDS):
        await redis_conn.xadd(keys.lifecycle(shard), {"k": "vacated", "n": 1, "c": f"c{shard}", "m": ""})
    found: list[Event] = []
    for _ in range(3):
        found += await first.next(limit=50, wait_s=0)
    assert {event.channel for event in found} >= {f"c{shard}" for shard in range(keys.FEED_SHARDS)}


async def test_a_record_that_is_gone_hides_no_gap(redis_conn: redis.asyncio.Redis, reader: Open) -> None:
    first = reader()
    await first.done(await first.next(wait_s=0))
    await publish(redis_conn, *range(1, 6))
    await redis_conn.delete(keys.feed_group("g"))
    found = await first.next()
    assert gaps(found) == [("new", None)]
    await first.done(found)
    await publish(redis_conn, *range(6, 16), maxlen=3, approximate=False)
    found = await first.next()
    assert numbers(found) == [13, 14, 15]
    assert ("trimmed", 7) in gaps(found)
