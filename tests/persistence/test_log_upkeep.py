"""The log of `stored` channels besides appending.

Reading, sweeps, removals, the end. Real Redis, real SQLite.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.domain.log import Log
from services.persistence.domain.outcomes import AppendedPosition, Outcome
from services.persistence.domain.ports import ChannelState, Row
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import KEY_TTL_S
from services.shared.redis.pipeline import RedisPipeline
from tests.support.log import begin
from tests.support.persistence import CHANNEL, Process, Site, both, request
from tests.support.waiting import until

# Reading and opening.


async def test_opening_gives_a_new_channel_its_epoch_and_an_old_one_its_top(site: Site, process: Process) -> None:
    new = await process.log.open(CHANNEL)
    assert (new.top, bool(new.epoch)) == (0, True)
    position = await process.append("first")
    assert position.epoch == new.epoch
    assert await process.log.open(CHANNEL) == ChannelState(new.epoch, 1)
    await site.client.flushall()
    assert await process.log.open(CHANNEL) == ChannelState(new.epoch, 1)


async def test_opening_fails_where_redis_does_not_keep_what_was_brought(
    redis_pipeline: RedisPipeline, site: Site
) -> None:
    incarnations = itertools.count()  # another one at each call: what was compared is of a former one
    log = Log(
        RedisHotLog(redis_pipeline, lambda: f"{next(incarnations)}"),
        site.store,
        max_unstored=10,
        max_waiting=10,
        max_batch=10,
    )
    with pytest.raises(Unavailable):
        await log.open(CHANNEL)


async def test_asking_whether_a_channel_has_begun_begins_none(site: Site, process: Process) -> None:
    assert not await process.log.has_begun(CHANNEL)
    assert not await process.log.has_begun(CHANNEL)
    await process.append("first")
    assert await process.log.has_begun(CHANNEL)
    await site.client.flushall()
    assert await process.log.has_begun(CHANNEL)  # the store knows it


async def test_reading_ends_at_what_is_readable(site: Site, process: Process) -> None:
    for number in range(1, 5):
        await process.append(f"{number}")
    await process.crash("after it is stored", "5")
    assert len(await site.stored()) == 5
    found, top = await process.log.read(CHANNEL, since_offset=2, limit=10, reverse=False)
    assert ([offset for offset, _ in found], top.top) == ([3, 4], 4)
    found, _ = await process.log.read(CHANNEL, since_offset=0, limit=2, reverse=True)
    assert [offset for offset, _ in found] == [4, 3]
    found, _ = await process.log.read(CHANNEL, since_offset=0, limit=10, reverse=False, max_bytes=1)
    assert [offset for offset, _ in found] == [1]


# Sweeps.


@both
@pytest.mark.parametrize("when", ["before it is stored", "after it is stored"])
async def test_a_sweep_finishes_what_a_process_left_and_counts_it(site: Site, when: str, apart: bool) -> None:
    dying, sweeping = site.process(apart=apart), site.process(apart=apart)
    for channel in ("chat:a", "chat:b"):
        await dying.append("first", channel=channel)
    await dying.crash(when, "second", channel="chat:a")
    assert await sweeping.log.sweep(0.0, 100) == 1
    assert await site.stored() == await site.readable() == [(1, "first"), (2, "second")]
    assert await sweeping.log.sweep(0.0, 100) == 0
    assert await site.client.zcard(keys.dirty()) == 0


async def test_a_sweep_leaves_channels_that_were_marked_a_moment_ago(site: Site, process: Process) -> None:
    await process.append("first")
    await process.crash("before it is stored", "second")
    assert await process.log.sweep(60.0, 100) == 0
    assert await site.readable() == [(1, "first")]


async def test_a_sweep_takes_no_more_channels_than_it_may(site: Site, process: Process) -> None:
    for number in range(5):
        await process.append("first", channel=f"chat:{number}")
        await process.crash("before it is stored", "second", channel=f"chat:{number}")
    assert await process.log.sweep(0.0, 2) == 2
    assert await process.log.sweep(0.0, 100) == 3


async def test_a_sweep_leaves_to_the_batch_under_way_what_is_of_its_channel(site: Site) -> None:
    process = site.process(apart=True)
    await process.append("first")
    may_write = process.store.hold_writes()
    (second,) = begin(process.log, [request("second")])
    await until(lambda: len(process.store.writes) == 2)
    assert await process.log.sweep(0.0, 100) == 0  # at once, though the write has not ended
    assert len(process.store.writes) == 2
    may_write.set()
    assert isinstance(await second, AppendedPosition)


async def test_a_sweep_ends_after_three_channels_that_fail_and_what_it_finished_counts(site: Site) -> None:
    process = site.process()
    channels = [f"chat:{number}" for number in range(9)]
    for channel in channels:
        await process.append("first", channel=channel)
        await process.crash("before it is stored", "second", channel=channel)
    process.store.writes.clear()
    process.store.answers = {channel: Unavailable("no room") for channel in channels}
    assert await process.log.sweep(0.0, 100) == 0
    assert len(process.store.writes) == 3
    process.store.answers = {}
    assert await process.log.sweep(0.0, 100) == 9


async def test_a_sweep_without_a_store_says_so(site: Site, process: Process) -> None:
    await process.append("first")
    await process.crash("before it is stored", "second")

    async def away(_: Sequence[Row]) -> None:
        raise Unavailable("away")

    process.store.before_write = away
    with pytest.raises(Unavailable):
        await process.log.sweep(0.0, 100)
    process.store.before_write = None
    assert await process.log.sweep(0.0, 100) == 1


# Removals.


async def test_a_removed_history_is_read_by_nobody_and_offset_epoch_and_keys_stay(site: Site, process: Process) -> None:
    first = await process.append("first", key="k")
    await process.append("second")
    await process.log.remove_history(CHANNEL)
    found, top = await process.log.read(CHANNEL, since_offset=0, limit=10, reverse=False)
    assert (found, top) == ([], ChannelState(first.epoch, 2, removed=2))
    assert await site.readable() == []
    assert (await process.append("again", key="k")) == AppendedPosition(1, first.epoch, True)
    assert (await process.append("third")).offset == 3
    assert await site.readable() == [(3, "third")]


async def test_a_removal_is_finished_once_no_key_of_it_counts(site: Site, process: Process) -> None:
    await process.append("first")
    await process.log.remove_history(CHANNEL)
    await process.log.tidy()
    assert [removal.is_due for removal in await site.store.removals()] == [False]
    site.later_s = KEY_TTL_S
    await process.log.tidy()
    assert await site.store.removals() == []
    assert await site.stored() == []


async def test_a_removal_that_can_not_be_gone_on_with_holds_up_no_other_and_is_told(
    site: Site, process: Process
) -> None:
    for channel in ("chat:a", "chat:b"):
        await process.append("first", channel=channel)
        await process.log.remove_history(channel)
    site.later_s = KEY_TTL_S
    process.hot.silent = frozenset({"chat:a"})
    with pytest.raises(Unavailable):
        await process.log.tidy()
    assert [removal.channel for removal in await site.store.removals()] == ["chat:a"]
    process.hot.silent = frozenset()
    await process.log.tidy()
    assert await site.store.removals() == []


# The end.


async def test_draining_waits_for_what_is_being_written(process: Process) -> None:
    await process.append("first")
    may_write = process.store.hold_writes()
    outcomes = begin(process.log, [request(f"{number}") for number in range(3)])
    draining = asyncio.create_task(process.log.drain(5.0))
    await asyncio.sleep(0.05)
    assert not draining.done()
    may_write.set()
    await draining
    assert [type(one.result()) for one in outcomes] == [AppendedPosition] * 3


async def test_draining_ends_after_its_time_and_says_that_something_is_left(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    await process.append("first")
    may_write = process.store.hold_writes()
    begin(process.log, [request("second")])
    await process.log.drain(0.05)
    assert "unfinished" in caplog.text
    may_write.set()


async def test_what_still_waits_at_the_end_is_unknown(site: Site) -> None:
    process = site.process(max_batch=1)
    await process.append("first")

    async def wait(_: Sequence[Row]) -> None:
        await asyncio.Event().wait()

    process.store.before_write = wait
    outcomes: list[asyncio.Future[Outcome]] = begin(process.log, [request(f"{number}") for number in range(3)])
    await until(lambda: len(process.store.writes) == 2)
    await process.close()
    assert [type(one.result()) for one in outcomes[1:]] == [Unavailable] * 2
