"""Reading logs: what comes from Redis or the store, is complete, is shared.

Rules have the numbers of the module. Pages, bounds and history are in `test_log_reader_pages.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.edge.domain.channels.log_reader import TooMuch, read_backoff, within
from services.edge.domain.model import HistoryPage, Publication, StreamPosition
from services.shared.errors import Unavailable
from services.shared.namespaces import Namespace
from tests.support.edge import settle
from tests.support.two_logs import CHANNEL, EPOCH, HOT, NOW_MS, STORED, Logs, both, offsets, upto

# Newest positions.


async def test_the_newest_position_of_a_hot_log_is_that_of_redis_which_begins_it() -> None:
    logs = Logs()
    begun = await logs.reader.top(CHANNEL, HOT)
    assert begun == StreamPosition(0, logs.redis.logs[CHANNEL].epoch)
    logs.fill(7)
    assert await logs.reader.top(CHANNEL, HOT) == StreamPosition(7, EPOCH)


async def test_the_newest_position_of_a_stored_log_comes_from_redis_and_from_the_store_where_redis_has_none() -> None:
    logs = Logs()
    logs.fill(7)
    assert await logs.reader.top(CHANNEL, STORED) == StreamPosition(7, EPOCH)
    logs.disk.down = True  # it is not asked
    assert await logs.reader.top(CHANNEL, STORED) == StreamPosition(7, EPOCH)
    logs.disk.down = False
    del logs.redis.logs[CHANNEL]
    assert await logs.reader.top(CHANNEL, STORED) == StreamPosition(7, EPOCH)


@both
async def test_asking_whether_a_log_has_begun_begins_none(namespace: Namespace) -> None:
    logs = Logs()
    assert not await logs.reader.has_begun(CHANNEL, namespace)
    assert not logs.redis.logs
    assert not logs.disk.logs
    logs.fill(0)
    assert await logs.reader.has_begun(CHANNEL, namespace)


async def test_a_stored_log_that_only_the_store_has_has_begun_a_hot_one_has_not() -> None:
    logs = Logs()
    logs.fill(1)
    del logs.redis.logs[CHANNEL]
    assert await logs.reader.has_begun(CHANNEL, STORED)
    assert not await logs.reader.has_begun(CHANNEL, HOT)


# Rule 2: complete or nothing.


@both
async def test_everything_after_a_position_comes_in_order_with_the_newest_position(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(7)
    page = await logs.reader.after(CHANNEL, namespace, StreamPosition(3, EPOCH))
    assert page is not None
    assert (offsets(page), page.top) == (upto(7, 4), StreamPosition(7, EPOCH))
    assert await logs.after(namespace, 7) == []
    assert await logs.after(namespace, 0) == upto(7)


@both
async def test_another_epoch_and_a_position_beyond_the_newest_can_not_be_continued(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(7)
    assert await logs.after(namespace, 3, "another") is None
    assert await logs.after(namespace, 8) is None


async def test_a_hot_log_with_a_hole_is_not_given_out_and_the_store_is_not_asked() -> None:
    logs = Logs()
    logs.fill(7, redis_from=4)
    assert await logs.after(HOT, 2) is None
    assert await logs.after(HOT, 3) == upto(7, 4)
    logs.redis.logs[CHANNEL].entries = []  # its history was removed
    assert await logs.after(HOT, 6) is None
    assert await logs.after(HOT, 7) == []
    del logs.redis.logs[CHANNEL]
    assert await logs.after(HOT, 0) is None
    assert logs.store.reads == 0


async def test_a_hole_in_the_middle_is_not_given_out() -> None:
    logs = Logs()
    logs.fill(7)
    del logs.redis.logs[CHANNEL].entries[4]
    assert await logs.after(HOT, 2) is None
    assert await logs.after(HOT, 5) == [6, 7]


@pytest.mark.parametrize("redis_from", [1, 3, 5, 8])
async def test_what_redis_does_not_keep_of_a_stored_log_comes_from_the_store(redis_from: int) -> None:
    logs = Logs()
    logs.fill(7, redis_from=redis_from)
    assert await logs.after(STORED, 2) == upto(7, 3)
    assert logs.store.reads == (redis_from > 3)


async def test_a_stored_log_that_redis_has_forgotten_is_read_from_the_store() -> None:
    logs = Logs()
    logs.fill(7)
    del logs.redis.logs[CHANNEL]
    assert await logs.after(STORED, 2) == upto(7, 3)
    assert await logs.after(STORED, 7) == []


async def test_a_stored_log_with_a_hole_in_redis_and_in_the_store_is_not_given_out() -> None:
    logs = Logs()
    logs.fill(7, redis_from=6, store_from=4)
    assert await logs.after(STORED, 2) is None
    assert await logs.after(STORED, 3) == upto(7, 4)


async def test_what_the_store_has_of_later_publications_is_not_given_out_twice() -> None:
    logs = Logs()
    logs.fill(7, redis_from=5)
    read = logs.store.read

    async def too_much(channel: str, **options: Any) -> HistoryPage:
        return await read(channel, **{**options, "limit": 100})

    logs.store.read = too_much  # type: ignore[method-assign]
    assert await logs.after(STORED, 2) == upto(7, 3)


async def test_nothing_beyond_the_newest_readable_position_is_given_out() -> None:
    logs = Logs()
    logs.fill(7)
    logs.redis.logs[CHANNEL].top = 5
    assert await logs.after(HOT, 2) == [3, 4, 5]


@both
async def test_more_publications_than_one_reply_may_carry_are_none(namespace: Namespace) -> None:
    logs = Logs(recovery_limit=4)
    logs.fill(7)
    assert await logs.after(namespace, 3) == upto(7, 4)
    assert await logs.after(namespace, 2) is None
    with pytest.raises(TooMuch):
        await logs.reader.missed(CHANNEL, namespace, logs.view(7), 2)


@both
@pytest.mark.parametrize("redis_from", [1, 7])
async def test_more_bytes_than_one_reply_may_carry_are_none(namespace: Namespace, redis_from: int) -> None:
    logs = Logs(reply_max_bytes=400)
    logs.fill(7, size=100, redis_from=1 if namespace is HOT else redis_from)
    assert await logs.after(namespace, 3) == upto(7, 4)
    assert await logs.after(namespace, 2) is None
    with pytest.raises(TooMuch):
        await logs.reader.missed(CHANNEL, namespace, logs.view(7), 2)


@both
async def test_a_read_that_ended_at_its_bytes_is_too_much_and_no_hole(namespace: Namespace) -> None:
    logs = Logs(reply_max_bytes=1_000)
    logs.fill(100, size=100)
    read = logs.broker.read

    async def short(channel: str, **options: Any) -> HistoryPage | None:
        return await read(channel, **{**options, "max_bytes": 500})

    logs.broker.read = short  # type: ignore[method-assign]
    with pytest.raises(TooMuch):
        await logs.reader.missed(CHANNEL, namespace, logs.view(100), 2)


@both
async def test_times_are_tags_where_the_namespace_says_so(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(3)
    tagged = replace(namespace, time_in_tags=True)
    page = await logs.reader.after(CHANNEL, tagged, StreamPosition(2, EPOCH))
    history = await logs.reader.history(CHANNEL, tagged, limit=1, since=None, reverse=True)
    paged = await logs.reader.page(CHANNEL, tagged, logs.view(3), 2)
    assert page is not None
    assert paged is not None
    for found in (page.publications, history.publications, paged):
        assert [one.tags for one in found] == [{"time": str(NOW_MS)}]


# Rule 3: equal reads are one.


@both
async def test_equal_reads_at_the_same_time_are_one_and_a_later_one_is_a_new_one(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(7)
    logs.broker.go.clear()
    asking = [asyncio.create_task(logs.after(namespace, offset)) for offset in (3, 3, 4, 3)]
    await settle()
    asking[0].cancel()  # it was the first one, and the others go on
    await settle()
    logs.broker.go.set()
    assert [await one for one in asking[1:]] == [upto(7, 4), upto(7, 5), upto(7, 4)]
    assert (logs.broker.reads, logs.reader.reads) == (2, 2)
    logs.fill(8)
    assert await logs.after(namespace, 3) == upto(8, 4)


@both
async def test_a_read_that_fails_fails_for_all_and_the_next_one_begins_anew(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(7)
    logs.broker.go.clear()
    asking = [asyncio.create_task(logs.after(namespace, 3)) for _ in range(2)]
    asking += [asyncio.create_task(logs.missed(namespace, 3)) for _ in range(2)]
    await settle()
    logs.redis.down = True
    logs.broker.go.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in outcomes] == [Unavailable] * 4
    logs.redis.down = False
    assert await logs.after(namespace, 3) == await logs.missed(namespace, 3) == upto(7, 4)


@both
async def test_recoveries_that_wait_for_their_turn_are_one_read_from_the_lowest_offset(namespace: Namespace) -> None:
    logs = Logs(max_reads=1)
    logs.fill(7)
    logs.broker.go.clear()
    first = asyncio.create_task(logs.after(namespace, 0))  # it has the one slot
    await settle()
    back = [asyncio.create_task(logs.missed(namespace, offset)) for offset in (5, 2, 6)]
    await settle()
    logs.broker.go.set()
    assert await first == upto(7)
    assert [await one for one in back] == [upto(7, 3)] * 3
    assert logs.broker.reads == 2


@both
async def test_what_a_recovery_found_goes_into_the_ring(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(7)
    assert await logs.missed(namespace, 4) == upto(7, 5)
    view = logs.recovering
    assert [one.offset for one in view.since(4) or []] == upto(7, 5)
    assert view.since(3) is None


async def test_a_history_that_is_removed_during_the_read_does_not_come_back_into_the_ring() -> None:
    logs = Logs()
    logs.fill(7)
    logs.broker.go.clear()
    back = asyncio.create_task(logs.missed(HOT, 4))
    await settle()
    logs.recovering.forget()
    logs.broker.go.set()
    await back
    assert logs.recovering.since(4) is None


async def test_who_needs_more_than_the_read_under_way_has_one_of_its_own() -> None:
    logs = Logs()
    logs.fill(7)
    logs.broker.go.clear()
    back = [asyncio.create_task(logs.missed(HOT, 4))]
    await settle()
    back += [asyncio.create_task(logs.missed(HOT, offset)) for offset in (2, 5)]
    await settle()
    logs.broker.go.set()
    assert [await one for one in back] == [upto(7, 5), upto(7, 3), upto(7, 3)]


async def test_another_view_of_the_channel_has_reads_of_its_own() -> None:
    logs = Logs()
    logs.fill(7)
    logs.broker.go.clear()
    views = [logs.view(7), logs.view(7)]
    back = [asyncio.create_task(logs.reader.missed(CHANNEL, HOT, view, 4)) for view in views]
    await settle()
    logs.broker.go.set()
    await asyncio.gather(*back)
    assert [[one.offset for one in view.since(4) or []] for view in views] == [upto(7, 5)] * 2


async def test_what_is_impossible_from_the_offset_of_another_may_be_possible_from_mine() -> None:
    logs = Logs()
    logs.fill(7, redis_from=4)
    back = [asyncio.create_task(logs.missed(HOT, offset)) for offset in (1, 5, 4)]
    assert [await one for one in back] == [None, [6, 7], [5, 6, 7]]


async def test_what_is_too_much_for_another_is_told_to_that_one_alone() -> None:
    logs = Logs(recovery_limit=3)
    logs.fill(7)
    back = [asyncio.create_task(logs.missed(HOT, offset)) for offset in (1, 5)]
    outcomes = await asyncio.gather(*back, return_exceptions=True)
    assert isinstance(outcomes[0], TooMuch)
    assert outcomes[1] == [6, 7]


# Small parts.


def test_at_least_one_publication_fits_and_no_more_than_the_bytes() -> None:
    some = [Publication(b"12345") for _ in range(4)]
    assert within(some, 1) == some[:1]
    assert within(some, 9) == some[:1]
    assert within(some, 10) == some[:2]
    assert within(some, 100) == some
    assert within([], 10) == []


def test_the_pause_behind_failures_doubles_up_to_a_second() -> None:
    backoff = read_backoff()
    assert [backoff.next_s() for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
