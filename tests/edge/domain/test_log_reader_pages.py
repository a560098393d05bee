"""Reading logs in pages, for clients and as history; bounds of all reads.

Rules have the numbers of the module. What is complete and what is shared is in `test_log_reader.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from services.edge.domain.channels.log_reader import PAGE_BYTES
from services.edge.domain.model import HistoryPage, StreamPosition
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Namespace
from tests.support.edge import settle
from tests.support.two_logs import CHANNEL, EPOCH, HOT, STORED, Logs, both, skip, upto, with_time

CONVERSATION = dataclasses.replace(STORED, conversations=True)

# Rule 4: pages.


async def paged(logs: Logs, namespace: Namespace, offset: int, epoch: str = EPOCH) -> list[int] | None:
    page = await logs.reader.page(CHANNEL, namespace, logs.view(100, epoch), offset)
    return None if page is None else [one.offset for one in page]


@both
async def test_pages_end_at_multiples_of_their_size_so_that_clients_meet(namespace: Namespace) -> None:
    logs = Logs(recovery_limit=5)
    logs.fill(12)
    assert await paged(logs, namespace, 0) == upto(5)
    assert await paged(logs, namespace, 3) == [4, 5]
    assert await paged(logs, namespace, 5) == upto(10, 6)
    assert await paged(logs, namespace, 10) == [11, 12]


@both
async def test_a_page_has_64_kib_but_at_least_one_publication(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(12, size=PAGE_BYTES // 4)
    assert await paged(logs, namespace, 0) == upto(4)
    logs = Logs()
    logs.fill(12, size=2 * PAGE_BYTES)
    assert await paged(logs, namespace, 3) == [4]


async def test_a_page_with_a_hole_is_not_given_out() -> None:
    logs = Logs()
    logs.fill(12, redis_from=6)
    assert await paged(logs, HOT, 3) is None
    assert await paged(logs, STORED, 3) == upto(12, 4)
    logs.fill(12)
    del logs.redis.logs[CHANNEL].entries[8]
    assert await paged(logs, HOT, 4) is None
    assert await paged(logs, HOT, 9) == [10, 11, 12]


@both
async def test_there_is_no_page_behind_the_newest_position_of_another_epoch_or_without_a_log(
    namespace: Namespace,
) -> None:
    logs = Logs()
    assert await paged(logs, namespace, 0) is None
    logs.fill(12)
    assert await paged(logs, namespace, 12) is None
    assert await paged(logs, namespace, 3, "another") is None


async def test_pages_of_a_stored_log_are_shared_until_a_history_is_removed() -> None:
    logs = Logs()
    logs.fill(12)
    assert await paged(logs, STORED, 3) == upto(12, 4)
    logs.redis.down = logs.disk.down = True
    assert await paged(logs, STORED, 3) == upto(12, 4)
    logs.reader.forget()
    with pytest.raises(Unavailable):
        await paged(logs, STORED, 3)


def test_pages_of_a_conversation_are_shared_for_one_second_and_until_something_is_erased() -> None:
    async def test() -> None:
        logs = Logs()
        logs.fill(12)
        for lasts in (True, False):
            assert await paged(logs, CONVERSATION, 3) == upto(12, 4)
            logs.redis.down = logs.disk.down = True
            skip(0.9)
            assert await paged(logs, CONVERSATION, 3) == upto(12, 4)
            if lasts:
                logs.reader.forget_channel("another")
                assert await paged(logs, CONVERSATION, 3) == upto(12, 4)
                logs.reader.forget_channel(CHANNEL)
            else:
                skip(0.2)
            with pytest.raises(Unavailable):
                await paged(logs, CONVERSATION, 3)
            logs.redis.down = logs.disk.down = False

    with_time(test())


def test_pages_of_a_log_with_retention_are_shared_for_one_second() -> None:
    async def test() -> None:
        logs, namespace = Logs(), dataclasses.replace(STORED, retention_days=1)
        logs.fill(12)
        assert await paged(logs, namespace, 3) == upto(12, 4)
        logs.redis.down = logs.disk.down = True
        skip(0.9)
        assert await paged(logs, namespace, 3) == upto(12, 4)
        skip(0.2)
        with pytest.raises(Unavailable):
            await paged(logs, namespace, 3)

    with_time(test())


def test_pages_of_a_hot_log_are_shared_for_one_second() -> None:
    async def test() -> None:
        logs = Logs()
        logs.fill(12)
        assert await paged(logs, HOT, 3) == upto(12, 4)
        logs.fill(12, redis_from=8)  # it was trimmed
        skip(0.9)
        assert await paged(logs, HOT, 3) == upto(12, 4)
        skip(0.2)
        assert await paged(logs, HOT, 3) is None

    with_time(test())


@both
async def test_a_page_read_before_a_history_was_removed_is_not_kept(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(12)
    logs.broker.go.clear()
    before = asyncio.create_task(paged(logs, namespace, 3))
    await settle()
    logs.fill(12, redis_from=13, store_from=13)
    logs.reader.forget()
    after = asyncio.create_task(paged(logs, namespace, 3))  # it does not join the read of before either
    await settle()
    logs.broker.go.set()
    assert await before == upto(12, 4)
    assert await after is None
    assert await paged(logs, namespace, 3) is None


# Rule 5: bounds.


@both
async def test_so_many_reads_run_at_the_same_time_and_no_more(namespace: Namespace) -> None:
    logs = Logs(max_reads=2)
    logs.fill(7)
    logs.broker.go.clear()
    asking = [asyncio.create_task(logs.after(namespace, offset)) for offset in range(5)]
    await settle()
    assert logs.broker.reads == 2
    logs.broker.go.set()
    assert [await one for one in asking] == [upto(7, offset + 1) for offset in range(5)]


async def test_hot_and_stored_reads_have_slots_of_their_own() -> None:
    logs = Logs(max_reads=1)
    logs.fill(7)
    logs.broker.go.clear()
    asking = [asyncio.create_task(logs.history(STORED, 2)) for _ in range(2)]
    await settle()
    assert logs.broker.reads == 1
    asking += [asyncio.create_task(logs.history(HOT, 2)) for _ in range(2)]
    await settle()
    assert logs.broker.reads == 2
    logs.broker.go.set()
    assert await asyncio.gather(*asking) == [[1, 2]] * 4


@both
async def test_a_read_beyond_those_that_may_wait_is_refused_with_111_and_a_time(namespace: Namespace) -> None:
    logs = Logs(max_reads=1, max_waiting_reads=2)
    logs.fill(7)
    logs.broker.go.clear()
    asking = [asyncio.create_task(logs.after(namespace, offset)) for offset in (1, 2)]
    await settle()
    with pytest.raises(Busy) as caught:
        await logs.history(namespace, 5)
    assert caught.value.code == ErrorCode.TOO_MANY_REQUESTS
    assert caught.value.retry_after_s > 0
    assert await logs.reader.top(CHANNEL, namespace) == StreamPosition(7, EPOCH)  # not bounded
    logs.broker.go.set()
    await asyncio.gather(*asking)
    assert await logs.history(namespace, 5) == upto(5)


def test_a_read_waits_two_and_a_half_seconds_for_its_turn_and_no_longer() -> None:
    async def test() -> None:
        logs = Logs(max_reads=1, max_waiting_reads=2)
        logs.fill(7)
        logs.broker.go.clear()
        first = asyncio.create_task(logs.after(HOT, 1))
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Busy):
            await logs.after(HOT, 2)
        assert asyncio.get_running_loop().time() - began == pytest.approx(2.5)
        logs.broker.go.set()
        assert await first == upto(7, 2)
        assert await logs.after(HOT, 2) == upto(7, 3)  # it holds no slot and counts no longer

    with_time(test())


async def test_a_read_that_fails_gives_its_slot_back() -> None:
    logs = Logs(max_reads=1, max_waiting_reads=1)
    logs.fill(7)
    for _ in range(3):
        logs.redis.down = True
        with pytest.raises(Unavailable):
            await logs.after(HOT, 3)
        with pytest.raises(Unavailable):
            await logs.history(HOT, 3)
    logs.redis.down = False
    assert await logs.after(HOT, 3) == upto(7, 4)


# History.


@both
async def test_history_comes_oldest_first_or_newest_first(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(7)
    assert await logs.history(namespace, 3) == [1, 2, 3]
    assert await logs.history(namespace, 3, 2) == [3, 4, 5]
    assert await logs.history(namespace, 100, 2) == upto(7, 3)
    assert await logs.history(namespace, 3, reverse=True) == [7, 6, 5]
    assert await logs.history(namespace, 3, 5, reverse=True) == [4, 3, 2]
    assert await logs.history(namespace, 3, 2, reverse=True) == [1]
    assert await logs.history(namespace, 3, 1, reverse=True) == []
    assert await logs.history(namespace, 3, 7) == []
    assert await logs.history(namespace, 3, 100) == []
    assert await logs.history(namespace, 3, 100, reverse=True) == [7, 6, 5]


@both
async def test_history_with_the_limit_0_is_the_newest_position_only(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(7)
    page = await logs.reader.history(CHANNEL, namespace, limit=0, since=None, reverse=False)
    assert page == HistoryPage([], StreamPosition(7, EPOCH))
    assert logs.broker.reads == 0


@both
async def test_history_before_offset_0_is_refused_with_107(namespace: Namespace) -> None:
    logs = Logs()
    logs.fill(7)
    with pytest.raises(ThalamusError) as caught:
        await logs.history(namespace, 3, 0, reverse=True)
    assert caught.value.code == ErrorCode.BAD_REQUEST
    assert await logs.history(namespace, 3, 0) == [1, 2, 3]


@both
@pytest.mark.parametrize("limit", [0, 3])
async def test_history_from_a_position_of_another_epoch_is_refused_with_112(namespace: Namespace, limit: int) -> None:
    logs = Logs()
    logs.fill(7)
    with pytest.raises(ThalamusError) as caught:
        await logs.history(namespace, limit, 2, epoch="another")
    assert caught.value.code == ErrorCode.UNRECOVERABLE_POSITION
    assert await logs.history(namespace, limit, 2, epoch="") == [3, 4, 5][:limit]  # a position without an epoch fits


@both
async def test_the_history_of_a_channel_without_a_log_is_empty_and_has_a_position(namespace: Namespace) -> None:
    logs = Logs()
    page = await logs.reader.history(CHANNEL, namespace, limit=3, since=None, reverse=False)
    assert page.publications == []
    assert page.top.offset == 0
    assert page.top.epoch


@both
@pytest.mark.parametrize("reverse", [False, True])
async def test_a_page_of_history_is_bounded_in_bytes_but_has_at_least_one(namespace: Namespace, reverse: bool) -> None:
    logs = Logs(reply_max_bytes=350)
    logs.fill(7, size=100)
    assert await logs.history(namespace, 100, reverse=reverse) == ([7, 6, 5] if reverse else [1, 2, 3])
    logs.fill(7, size=1_000)
    assert await logs.history(namespace, 100, reverse=reverse) == ([7] if reverse else [1])


FROM_REDIS = {
    "after an offset that it has": (3, 4, False),
    "the newest ones": (3, None, True),
    "before an offset": (2, 7, True),
    "nothing behind the newest": (3, 7, False),
    "nothing before the first": (3, 1, True),
}


@pytest.mark.parametrize(("limit", "since", "reverse"), FROM_REDIS.values(), ids=list(FROM_REDIS))
async def test_rule_1_what_redis_has_of_a_stored_log_is_not_asked_of_the_store(
    limit: int, since: int | None, reverse: bool
) -> None:
    logs = Logs()
    logs.fill(7, redis_from=5)
    found = await logs.history(STORED, limit, since, reverse=reverse)
    assert logs.store.reads == 0
    logs.fill(7)
    assert found == await logs.history(HOT, limit, since, reverse=reverse)


FROM_THE_STORE = {
    "from the beginning": (3, None, False),
    "after an offset that it has trimmed": (3, 3, False),
    "more than it has": (4, None, True),
    "before an offset that it has trimmed": (2, 4, True),
    "across what it has": (5, 7, True),
}


@pytest.mark.parametrize(("limit", "since", "reverse"), FROM_THE_STORE.values(), ids=list(FROM_THE_STORE))
@pytest.mark.parametrize("redis_from", [5, None])
async def test_rule_1_what_redis_does_not_have_of_a_stored_log_comes_from_the_store(
    limit: int, since: int | None, reverse: bool, redis_from: int | None
) -> None:
    logs = Logs()
    logs.fill(7, redis_from=redis_from or 1)
    if redis_from is None:
        del logs.redis.logs[CHANNEL]
    found = await logs.history(STORED, limit, since, reverse=reverse)
    assert logs.store.reads == 1
    logs.fill(7)
    assert found == await logs.history(HOT, limit, since, reverse=reverse)


async def test_all_of_a_short_stored_log_backwards_is_not_asked_of_the_store() -> None:
    logs = Logs()
    logs.fill(7)
    assert await logs.history(STORED, 100, reverse=True) == [7, 6, 5, 4, 3, 2, 1]
    assert logs.store.reads == 0
