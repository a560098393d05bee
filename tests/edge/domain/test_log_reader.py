"""Reading logs: what comes from Redis and what from the store, what is complete, what is shared, what is bounded.

Redis and the store are two logs in memory, so that Redis may have less. Rules have the numbers of the module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.channels.log_reader import PAGE_BYTES, LogReader, TooMuch, read_backoff, within
from services.edge.domain.model import HistoryPage, Publication, StreamPosition
from services.edge.domain.settings import Settings
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Durability, Namespace
from tests.properties.manual_loop import ManualLoop
from tests.support.edge import settle
from tests.support.memory import MemoryBroker, MemoryBus, MemoryLog, MemoryStore

T = TypeVar("T")
CHANNEL = "room"
EPOCH = "e"
HOT = Namespace(name="", durability=Durability.HOT)
STORED = Namespace(name="", durability=Durability.STORED)
NOW_MS = 1_800_000_000_000
both = pytest.mark.parametrize("namespace", [HOT, STORED], ids=["hot", "stored"])


class GatedBroker(MemoryBroker):
    """Reads wait while `go` is cleared; what they found was taken before."""

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__(bus)
        self.go = asyncio.Event()
        self.go.set()

    async def read(self, channel: str, **options: Any) -> HistoryPage | None:
        found = await super().read(channel, **options)
        await self.go.wait()
        self.bus.check()
        return found


class CountingStore(MemoryStore):
    """Counts reads."""

    reads = 0

    async def read(self, channel: str, **options: Any) -> HistoryPage:
        self.reads += 1
        return await super().read(channel, **options)


class Logs:
    """A reader, Redis and the store."""

    def __init__(self, **settings: Any) -> None:
        self.redis, self.disk = MemoryBus(), MemoryBus()
        self.broker, self.store = GatedBroker(self.redis), CountingStore(self.disk)
        self.reader = LogReader(self.broker, self.store, Settings(**settings))
        self.recovering = self.view(7)  # what `missed` recovers for

    def fill(self, top: int, *, redis_from: int = 1, store_from: int = 1, size: int = 1, epoch: str = EPOCH) -> None:
        """Publications up to `top` everywhere, in Redis and in the store from these offsets on."""
        for bus, first in ((self.redis, redis_from), (self.disk, store_from)):
            entries = [Publication(b"x" * size, offset=one, time_ms=NOW_MS) for one in range(first, top + 1)]
            bus.logs[CHANNEL] = MemoryLog(epoch, entries, top)

    async def after(self, namespace: Namespace, offset: int, epoch: str = EPOCH) -> list[int] | None:
        page = await self.reader.after(CHANNEL, namespace, StreamPosition(offset, epoch))
        return None if page is None else offsets(page)

    async def missed(self, namespace: Namespace, offset: int) -> list[int] | None:
        page = await self.reader.missed(CHANNEL, namespace, self.recovering, offset)
        return None if page is None else offsets(page)

    async def history(
        self, namespace: Namespace, limit: int, since: int | None = None, *, reverse: bool = False, epoch: str = EPOCH
    ) -> list[int]:
        position = None if since is None else StreamPosition(since, epoch)
        return offsets(await self.reader.history(CHANNEL, namespace, limit=limit, since=position, reverse=reverse))

    def view(self, top: int, epoch: str = EPOCH) -> ChannelLog:
        return ChannelLog(StreamPosition(top, epoch), ring_size=100, ring_max_bytes=100_000, buffer_size=4)


def offsets(page: HistoryPage) -> list[int]:
    return [one.offset for one in page.publications]


def upto(last: int, first: int = 1) -> list[int]:
    return list(range(first, last + 1))


def with_time(test: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop where waiting costs no time."""
    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        return runner.run(test)


def skip(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualLoop)
    loop.skip(seconds)


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
        with pytest.raises(Unavailable):
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
