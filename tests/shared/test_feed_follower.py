"""Followers of the feed: every publication, or a gap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis.asyncio

from services.shared.feed import follower as module
from services.shared.feed.follower import FeedFollower, Hint, hint_of
from services.shared.hotlog import keys
from services.shared.process.cancellation import end_task
from tests.support.feed import tell_publications
from tests.support.full import sized
from tests.support.waiting import until


class Followed:
    """A follower, and what it told."""

    def __init__(self, url: str) -> None:
        self.hints: list[Hint] = []
        self.gaps: list[str] = []
        self.order: list[tuple[str, int] | str] = []
        self.follower = FeedFollower(url, self._told, self._missed)
        self._task: asyncio.Task[None] | None = None

    def _told(self, entries: Sequence[tuple[bytes, Sequence[bytes], bytes]]) -> None:
        for channel, fields, entry_id in entries:
            hint = hint_of(fields, entry_id)
            assert hint is not None
            assert hint.channel == channel.decode()
            self.hints.append(hint)
            self.order.append((hint.channel, hint.offset))

    def _missed(self, reason: str) -> None:
        self.gaps.append(reason)
        self.order.append(reason)

    async def start(self) -> None:
        self._task = asyncio.create_task(self.follower.run())
        await until(lambda: self.gaps)

    async def stop(self) -> None:
        if self._task is not None:
            await end_task(self._task)


@pytest.fixture
async def followed(redis_url: str) -> AsyncIterator[Followed]:
    one = Followed(redis_url)
    yield one
    await one.stop()


async def test_it_tells_what_comes_after_its_beginning(redis_conn: redis.asyncio.Redis, followed: Followed) -> None:
    await tell_publications(redis_conn, "conv:g.1", 1, 2)
    await followed.start()
    await tell_publications(redis_conn, "conv:g.1", 3, author="änn")
    await tell_publications(redis_conn, "conv:g.2", 1)
    await until(lambda: len(followed.hints) == 2)
    assert followed.gaps == ["new"]
    assert {(hint.channel, hint.offset, hint.author) for hint in followed.hints} == {
        ("conv:g.1", 3, "änn"),
        ("conv:g.2", 1, "ann"),
    }


async def test_it_tells_hidden_entries_with_users(redis_conn: redis.asyncio.Redis, followed: Followed) -> None:
    await followed.start()
    fields = {"c": "conv:g.1", "e": "e", "h": 7, "a": "ann", "l": "8 3 0", "u": '["bob","ü"]'}
    entry: Any = await redis_conn.xadd(keys.commits(keys.feed_shard("conv:g.1")), fields)  # type: ignore[arg-type]
    await until(lambda: followed.hints)
    time_ms = int(entry.split(b"-")[0])
    assert followed.hints == [Hint("conv:g.1", "e", 7, 8, 3, "ann", time_ms, ("bob", "ü"))]


@pytest.mark.parametrize("field", ["r", "g"])
async def test_what_redis_lost_is_a_gap(redis_conn: redis.asyncio.Redis, followed: Followed, field: str) -> None:
    await followed.start()
    await redis_conn.xadd(keys.commits(3), {field: "lost", "s": "feed3"})
    await until(lambda: followed.gaps == ["new", "lost"])


async def test_a_stream_that_was_trimmed_past_it_is_a_gap(
    redis_conn: redis.asyncio.Redis, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COMPARE_S", 0.05)
    await followed.start()
    pipeline = redis_conn.pipeline(transaction=True)
    name = keys.commits(keys.feed_shard("conv:g.1"))
    for offset in range(1, 50):
        pipeline.xadd(name, {"c": "conv:g.1", "e": "e", "o": offset, "a": ""}, maxlen=5, approximate=False)
    await pipeline.execute()
    await until(lambda: followed.gaps == ["new", "trimmed"])
    await tell_publications(redis_conn, "conv:g.1", 50)
    await until(lambda: followed.hints and followed.hints[-1].offset == 50)
    assert followed.gaps == ["new", "trimmed"]


@pytest.mark.parametrize("how", ["emptied", "back"])
async def test_a_redis_that_went_back_is_a_gap(
    redis_conn: redis.asyncio.Redis, followed: Followed, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "_COMPARE_S", 0.05)
    name = keys.commits(keys.feed_shard("conv:g.1"))
    await tell_publications(redis_conn, "conv:g.1", 1)
    copy: Any = await redis_conn.dump(name)
    await followed.start()
    await tell_publications(redis_conn, "conv:g.1", 2, 3)
    await until(lambda: len(followed.hints) == 2)
    await redis_conn.delete(name)
    if how == "back":
        await redis_conn.restore(name, 0, copy)
    await until(lambda: followed.gaps == ["new", "lost"])
    await tell_publications(redis_conn, "conv:g.1", 3, 4)
    await until(lambda: [hint.offset for hint in followed.hints] == [2, 3, 3, 4])


async def test_it_begins_again_when_it_is_told_of_another_redis(
    redis_conn: redis.asyncio.Redis, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COMPARE_S", 0.0)
    monkeypatch.setattr(module, "_BLOCK_S", 0.02)
    await followed.start()
    for number in range(1, 30):
        followed.follower.restart()
        await asyncio.sleep(0.001 * number)
    gaps = len(followed.gaps)
    assert set(followed.gaps[1:]) == {"lost"}
    followed.follower.restart()
    await until(lambda: len(followed.gaps) > gaps)
    await tell_publications(redis_conn, "conv:g.1", 1)
    await until(lambda: followed.hints)


async def test_however_much_is_told_it_reads_ten_times_a_second(
    redis_conn: redis.asyncio.Redis, followed: Followed
) -> None:
    """Each read costs as much as many entries. Mutant: the next read waits for 20 ms."""

    async def reads() -> int:
        stats: Any = await redis_conn.info("commandstats")
        return int(stats.get("cmdstat_xread", {"calls": 0})["calls"])

    await followed.start()
    now = asyncio.get_running_loop().time
    before, began, told = await reads(), now(), 0
    while now() < began + 0.7:
        told += 1
        await tell_publications(redis_conn, "conv:g.1", told)
    await until(lambda: len(followed.hints) == told)
    took_s = now() - began
    assert await reads() - before <= took_s / 0.1 + 2
    assert [hint.offset for hint in followed.hints] == list(range(1, told + 1))


@pytest.mark.parametrize("seed", range(sized(2, 40)))
async def test_everything_is_told_in_order_or_a_gap_is(
    redis_conn: redis.asyncio.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Writers, trims, connections that break: a gap covers what was not told."""
    print(f"seed {seed}")
    monkeypatch.setattr(module, "_COMPARE_S", 0.03)
    monkeypatch.setattr(module, "_MOST", 7)
    rng = random.Random(seed)
    followed = Followed(redis_url)
    await followed.start()
    channels = [f"conv:g.{number}" for number in range(5)]
    tops = dict.fromkeys(channels, 0)
    for _ in range(sized(60, 400)):
        channel = rng.choice(channels)
        count = rng.choice([1, 1, 2, 5, 40])
        most = rng.choice([30, 1_000, 1_000])
        pipeline = redis_conn.pipeline(transaction=True)
        for _ in range(count):
            tops[channel] += 1
            fields = {"c": channel, "e": "e", rng.choice("oh"): tops[channel], "a": "ann"}
            name = keys.commits(keys.feed_shard(channel))
            pipeline.xadd(name, fields, maxlen=most, approximate=False)  # type: ignore[arg-type]
        await pipeline.execute()
        if rng.random() < 0.05:
            await redis_conn.execute_command(  # type: ignore[no-untyped-call]
                "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
            )
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.03]))
    gaps = len(followed.gaps)
    for channel in channels:
        tops[channel] += 1
        await tell_publications(redis_conn, channel, tops[channel])

    def told() -> bool:
        return followed.gaps[gaps:] != [] or all((channel, tops[channel]) in followed.order for channel in channels)

    await until(told)
    await asyncio.sleep(0.1)  # a comparison that was due
    await followed.stop()
    for channel in channels:
        missing: set[int] = set()
        last = 0
        for entry in followed.order[1:]:
            if isinstance(entry, str):
                missing.clear()
                last = -1
            elif entry[0] == channel:
                assert last < 0 or entry[1] > last, "out of order, or twice"
                if last >= 0:
                    missing |= set(range(last + 1, entry[1]))
                last = entry[1]
        assert not missing, f"{channel}: {sorted(missing)[:5]} were not told, and no gap"
