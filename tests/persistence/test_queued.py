"""Durability `queued`, on a real Redis and a real SQLite."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from services.persistence.domain import draining
from services.persistence.domain.comparison import Comparison
from services.persistence.domain.erasures import Erasures
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import Row
from services.persistence.domain.requests import batch_of
from services.persistence.domain.sizes import HistorySizes
from services.shared.errors import Busy, Unavailable
from services.shared.hotlog import keys
from services.shared.process.cancellation import end_task
from tests.support.log import append, begin, unstamped
from tests.support.persistence import CHANNEL, Process, Site, Store, both, request
from tests.support.waiting import until


def queued(data: str = "", **options: Any) -> Any:
    return request(data, **options)._replace(queued=True)


async def publish(process: Process, data: str, **options: Any) -> AppendedPosition:
    (outcome,) = await append(process.log, [queued(data, **options)])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def begun(process: Process, generation: int = 1) -> Process:
    """The process, in an incarnation of this generation."""
    process.incarnation = f"run{generation}.{generation}"
    return process


async def history(process: Process, **options: Any) -> list[tuple[int, str]]:
    bounds: dict[str, Any] = {"since_offset": 0, "limit": 1_000, "reverse": False, **options}
    found, _ = await process.log.read(CHANNEL, **bounds)
    counted, _ = await process.log.read_counted(CHANNEL, **bounds)
    assert [(row.offset, row.publication) for row in counted] == found
    return [(offset, unstamped(publication).decode()) for offset, publication in found]


async def publish_and_die(site: Site, process: Process, data: str) -> AppendedPosition:
    """Publish, and end the process before anything of it is stored."""
    process.store.answers[CHANNEL] = Unavailable("away")
    position = await publish(process, data)
    await process.close()
    site.processes.remove(process)
    return position


async def drained(site: Site, process: Process, top: int) -> None:
    async def reached() -> bool:
        found = await process.hot.readable(CHANNEL)
        return found is not None and found.top - found.behind >= top

    await until(reached)


@both
async def test_a_queued_publication_is_acknowledged_and_readable_before_it_is_stored(site: Site, apart: bool) -> None:
    process = begun(site.process(apart=apart))
    may_write = process.store.hold_writes()
    first, second = await publish(process, "one"), await publish(process, "two")
    assert (first.offset, second.offset, first.epoch) == (1, 2, second.epoch)
    assert await site.readable(incarnation=process.incarnation) == [(1, "one"), (2, "two")]
    assert await site.stored() == []
    assert await history(process) == [(1, "one"), (2, "two")]
    assert (await process.log.open(CHANNEL))[:2] == (first.epoch, 2)
    may_write.set()
    await drained(site, process, 2)
    assert await site.stored() == [(1, "one"), (2, "two")]


async def test_a_repeated_key_gets_its_position_before_and_after_it_is_stored(site: Site) -> None:
    process = begun(site.process())
    may_write = process.store.hold_writes()
    first = await publish(process, "one", key="k")
    again = await publish(process, "one", key="k")
    may_write.set()
    await drained(site, process, 1)
    last = await publish(process, "one", key="k")
    assert [first.offset, again.offset, last.offset] == [1, 1, 1]
    assert [first.repeated_key, again.repeated_key, last.repeated_key] == [False, True, True]


@both
async def test_another_publication_waits_until_all_in_front_of_it_is_stored(site: Site, apart: bool) -> None:
    process = begun(site.process(apart=apart))
    may_write = process.store.hold_writes()
    await publish(process, "one")
    (barrier,) = begin(process.log, [request("two")])
    await until(lambda: len(process.store.writes) == 2)
    assert not barrier.done()
    assert await site.readable(incarnation=process.incarnation) == [(1, "one")]
    may_write.set()
    outcome = await barrier
    assert isinstance(outcome, AppendedPosition)
    assert outcome.offset == 2
    assert await site.stored() == [(1, "one"), (2, "two")]


@both
async def test_queued_publications_wait_for_no_write_of_others(site: Site, apart: bool) -> None:
    process = begun(site.process(apart=apart))
    await publish(process, "begin")
    await process.append(channel="chat:stored")
    await drained(site, process, 1)
    may_write = process.store.hold_writes()
    stored, same_batch = begin(process.log, [request(channel="chat:stored"), queued("two")])
    await until(lambda: [("chat:stored", 2)] in process.store.writes)
    for outcome in (same_batch, *begin(process.log, [queued("three"), queued("first", channel="chat:b")])):
        assert isinstance(await asyncio.wait_for(outcome, 30.0), AppendedPosition)
    before, barrier = begin(process.log, [queued("four"), request("five")])
    assert isinstance(await asyncio.wait_for(before, 30.0), AppendedPosition)
    assert (stored.done(), barrier.done()) == (False, False)
    may_write.set()
    assert isinstance(await stored, AppendedPosition)
    assert isinstance(await barrier, AppendedPosition)
    await process.log.drain(30.0)
    assert await site.stored() == list(enumerate(["begin", "two", "three", "four", "five"], 1))


async def test_a_stored_publication_in_flight_is_not_shown_by_a_queued_one_of_another_replica(site: Site) -> None:
    first, second = begun(site.process()), begun(site.process())
    await publish(first, "begin")
    await drained(site, first, 1)
    may_write = first.store.hold_writes()
    (stored,) = begin(first.log, [request("stored")])
    await until(lambda: len(first.store.writes) >= 2)
    # The second replica may not show what the first one has not stored: it stores both.
    behind = await publish(second, "queued")
    assert behind.offset == 3
    assert await site.stored() == [(1, "begin"), (2, "stored"), (3, "queued")]
    may_write.set()
    outcome = await stored
    assert isinstance(outcome, AppendedPosition)
    assert outcome.offset == 2


async def test_the_log_is_not_cut_above_what_is_stored(site: Site) -> None:
    process = begun(site.process())
    may_write = process.store.hold_writes()
    for number in range(60):
        await publish(process, str(number), size=5)
    assert len(await site.readable(incarnation=process.incarnation)) == 60
    assert await site.client.ttl(keys.log(CHANNEL)) == -1
    assert await history(process, limit=1_000) == [(n + 1, str(n)) for n in range(60)]
    assert await history(process, limit=7, reverse=True) == [(n + 1, str(n)) for n in range(59, 52, -1)]
    may_write.set()
    await drained(site, process, 60)
    assert len(await site.readable(incarnation=process.incarnation)) < 25
    assert await site.client.ttl(keys.log(CHANNEL)) > 3_000
    assert await history(process, limit=1_000) == [(n + 1, str(n)) for n in range(60)]


async def test_too_much_that_is_not_stored_is_busy(site: Site) -> None:
    process = begun(site.process(max_unstored=5))
    may_write = process.store.hold_writes()
    for number in range(5):
        await publish(process, str(number))
    with pytest.raises(Busy):
        await publish(process, "one more")
    may_write.set()
    await drained(site, process, 5)
    assert (await publish(process, "again")).offset == 6


@both
async def test_a_process_that_dies_leaves_nothing_that_another_one_does_not_store(site: Site, apart: bool) -> None:
    dying = begun(site.process(apart=apart))
    dying.store.hold_writes()
    for number in range(10):
        await publish(dying, str(number))
    await dying.close()
    site.processes.remove(dying)
    other = begun(site.process(apart=apart))
    assert await other.log.sweep(0.0, 100) == 1
    assert await site.stored() == [(n + 1, str(n)) for n in range(10)]
    assert (await publish(other, "next")).offset == 11


async def test_the_store_that_fails_is_tried_again(site: Site) -> None:
    process = begun(site.process())
    process.store.answers[CHANNEL] = Unavailable("throttled")
    await publish(process, "one")
    await until(lambda: len(process.store.writes) >= 1)
    assert await site.stored() == []
    process.store.answers.clear()
    await drained(site, process, 1)
    assert await site.stored() == [(1, "one")]


@both
async def test_a_process_that_begins_needs_no_store_for_channels_that_redis_has(site: Site, apart: bool) -> None:
    first = begun(site.process(apart=apart))
    await publish(first, "one")
    await drained(site, first, 1)
    await first.close()
    site.processes.remove(first)
    process = begun(site.process(apart=apart))
    asked: list[str] = []

    def without_store(name: str) -> Any:
        asked.append(name)
        raise Unavailable("away")

    process.store.note_queued = process.store.open = without_store  # type: ignore[attr-defined]
    process.store.answers[CHANNEL] = Unavailable("away")
    assert (await publish(process, "two")).offset == 2
    assert asked == []
    with pytest.raises(Unavailable):  # its place is known to the store alone
        await publish(process, "other", channel="chat:new")
    begun(process, 2)  # Redis may have lost something: what it has must be compared
    with pytest.raises(Unavailable):
        await publish(process, "three")


async def test_another_epoch_is_noted_anew(site: Site) -> None:
    process = begun(site.process())
    await publish(process, "one")
    await drained(site, process, 1)
    await site.store.begin_new_epochs(await site.store.heartbeat())
    process = site.process()
    process.incarnation = "another.1"
    await process.log.open(CHANNEL)
    assert await process.hot.noted(CHANNEL, process.incarnation) == 0
    await publish(process, "two")
    assert await process.hot.noted(CHANNEL, process.incarnation) == 1
    assert (await site.store.open(CHANNEL)).queued_in == 1


async def test_removed_history_is_stored_first_and_stays_removed(site: Site) -> None:
    process = begun(site.process())
    process.store.answers[CHANNEL] = Unavailable("throttled")
    await publish(process, "one")
    with pytest.raises(Unavailable):
        await process.log.remove_history(CHANNEL)
    process.store.answers.clear()
    await process.log.remove_history(CHANNEL)
    assert await history(process) == []
    assert (await publish(process, "two")).offset == 2
    assert await history(process) == [(2, "two")]


async def test_a_redis_that_is_empty_begins_another_epoch_above_the_store(site: Site) -> None:
    process = begun(site.process())
    before = await publish(process, "stored")
    await drained(site, process, 1)
    assert (await publish_and_die(site, process, "lost")).offset == 2
    await site.client.flushall()
    process = begun(site.process(), 2)
    after = await publish(process, "next")
    assert after.offset == 2
    assert after.epoch != before.epoch
    await drained(site, process, 2)
    assert await history(process) == [(1, "stored"), (2, "next")]
    assert (await publish(process, "same")).epoch == after.epoch


async def test_what_redis_still_has_in_a_later_generation_is_stored_before_the_epoch_changes(site: Site) -> None:
    before = await publish_and_die(site, begun(site.process()), "one")
    process = begun(site.process(), 2)
    top = await process.log.open(CHANNEL)
    assert top.epoch != before.epoch
    assert top.top == 1
    assert await site.stored() == [(1, "one")]


async def test_a_new_run_that_lost_nothing_keeps_the_epoch_and_what_is_not_stored(site: Site) -> None:
    before = await publish_and_die(site, begun(site.process()), "one")
    process = site.process()
    process.incarnation = "another.1"
    top = await process.log.open(CHANNEL)
    assert (top.epoch, top.top, top.behind) == (before.epoch, 1, 1)
    assert (await publish(process, "two")).offset == 2
    await drained(site, process, 2)
    assert await site.stored() == [(1, "one"), (2, "two")]


@both
async def test_a_loss_costs_an_epoch_only_if_something_was_acknowledged_since_the_one_before(
    site: Site, apart: bool
) -> None:
    process = begun(site.process(apart=apart))
    epochs = [(await publish(process, "one")).epoch]
    await drained(site, process, 1)
    for generation in range(2, 6):
        await site.client.flushall()
        process = begun(site.process(apart=apart), generation)
        epochs.append((await process.log.open(CHANNEL)).epoch)
    assert len({*epochs}) == 2
    assert (await publish(process, "two")).epoch == epochs[-1]
    await site.client.flushall()
    process = begun(site.process(apart=apart), 6)
    assert (await process.log.open(CHANNEL)).epoch not in epochs


async def test_a_log_without_what_was_acknowledged_gets_another_epoch(site: Site) -> None:
    before = await publish_and_die(site, begun(site.process()), "one")
    await site.client.delete(keys.log(CHANNEL))
    process = site.process()
    process.incarnation = "another.1"
    after = await publish(process, "two")
    assert after.epoch != before.epoch
    assert after.offset == 1


async def test_nothing_that_becomes_readable_meanwhile_is_dropped(site: Site) -> None:
    """As if it became readable behind the look of a comparison."""
    process = begun(site.process())
    position = await publish_and_die(site, process, "one")
    state = (await site.store.open(CHANNEL))._replace(epoch="another")
    assert not await process.hot.advance(CHANNEL, state, 0, [], [], (position.epoch, 0))
    assert await site.readable(incarnation=process.incarnation) == [(1, "one")]
    assert position.epoch != state.epoch
    assert not await process.hot.advance(CHANNEL, state, 0, [], [], (state.epoch, 1)), "that is of another epoch"
    assert await process.hot.advance(CHANNEL, state, 0, [], [], (position.epoch, 1))
    assert await site.readable(incarnation=process.incarnation) == []


async def test_a_redis_that_went_back_unnoticed_is_told_by_another_epoch(site: Site) -> None:
    """It gives an offset twice within one generation: the store has the first one."""
    process = begun(site.process())
    await publish(process, "begin")
    await drained(site, process, 1)
    dump = {key: await site.client.dump(key) or b"" for key in await site.client.keys("*")}
    first = await publish(process, "first at 2")
    await drained(site, process, 2)
    for key, value in dump.items():
        await site.client.restore(key, 0, value, replace=True)
    await publish(process, "second at 2")

    async def renewed() -> bool:
        return bool((await process.log.open(CHANNEL)).epoch != first.epoch)

    await until(renewed)
    assert await site.stored() == [(1, "begin"), (2, "first at 2"), (3, "second at 2")]
    assert (await publish(process, "third")).offset == 4


async def test_a_redis_with_fewer_writes_acknowledges_nothing(site: Site) -> None:
    seen: list[tuple[str, int]] = []
    process = begun(
        site.process(
            writes=lambda: max((writes for _, writes in seen), default=0),
            saw_writes=lambda token, writes: seen.append((token, writes)),
        )
    )
    await publish(process, "one")
    assert seen[-1] == (process.incarnation, 1)
    await site.client.hset(keys.observed(), "writes", 0)
    with pytest.raises(Unavailable):
        await publish(process, "two")
    assert seen[-1] == (process.incarnation, 0)


@both
@pytest.mark.parametrize("slow", [False, True], ids=["all at once", "in parts"])
async def test_what_waits_is_as_old_as_what_is_not_stored_however_long_a_channel_is_busy(
    site: Site, apart: bool, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slow:
        monkeypatch.setattr(draining, "_ENTRIES", 2)
    process = begun(site.process(apart=apart))
    now = 0.0
    may_write = process.store.hold_writes()  # the process's own drainer stores nothing
    store = Store(site.store, apart=apart)
    sizes = HistorySizes()
    comparison = Comparison(process.hot, store, sizes, Erasures(process.hot, store, sizes.of))
    drainer = draining.Drainer(process.hot, store, comparison, sizes, clock=lambda: now)
    ages: list[float] = []
    published_at: dict[int, float] = {}

    async def publish_now() -> None:
        published_at[(await publish(process, "data")).offset] = now

    for _ in range(5 if slow else 1):
        await publish_now()

    async def more(rows: Sequence[Row]) -> None:
        nonlocal now
        now += 10.0
        ages.append(drainer.oldest_s)
        assert ages[-1] >= now - published_at[rows[0].offset]
        if len(ages) < 15:
            for _ in range(2 if slow else 1):
                await publish_now()
            drainer.wake(CHANNEL)

    store.before_write = more
    drainer.wake(CHANNEL)
    running = asyncio.create_task(drainer.run())
    await until(lambda: drainer.is_idle)
    await end_task(running)
    may_write.set()
    assert len(ages) >= 15
    assert max(ages) <= (70.0 if slow else 20.0)  # an entry waits for three writes, or one
    assert drainer.oldest_s == 0.0


async def test_each_call_that_shows_something_counts_a_write(site: Site) -> None:
    seen: list[int] = []
    process = begun(site.process())
    await process.log.open(CHANNEL)
    told = [queued(str(number)) for number in range(3)]
    told = [one._replace(item=one.item._replace(author="ann")) for one in told]
    (numbered,) = await process.hot.append([batch_of(told)], 1_000)
    assert not isinstance(numbered, Exception)
    assert numbered is not None
    other = begun(site.process(saw_writes=lambda token, writes: seen.append(writes)))
    # It has numbered none of them, so its first call only says that it needs the feed.
    assert await other.hot.show([(CHANNEL, numbered.epoch, 3, 100)], other.incarnation) == [3]
    assert seen == [2]


@both
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_fails_each_publication_is_stored_once_and_in_order(site: Site, apart: bool, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    processes = [begun(site.process(apart=apart)) for _ in range(2)]
    acknowledged: dict[int, str] = {}
    for number in range(150):
        process = rng.choice(processes)
        dice = rng.random()
        if dice < 0.06:  # it dies
            await process.close()
            site.processes.remove(process)
            processes[processes.index(process)] = begun(site.process(apart=apart))
            process = rng.choice(processes)
        for one in processes:
            if rng.random() < 0.1:
                one.store.answers[CHANNEL] = Unavailable("as if the store had gone")
            else:
                one.store.answers.clear()
        asks = queued if rng.random() < 0.8 else request
        requests = [asks(f"{number}.{part}", size=8) for part in range(rng.randint(1, 5))]
        for asked, outcome in zip(requests, await append(process.log, requests), strict=True):
            if isinstance(outcome, AppendedPosition):
                assert outcome.offset not in acknowledged
                acknowledged[outcome.offset] = asked.item.publication.decode()
        if rng.random() < 0.1:
            await rng.choice(processes).log.sweep(0.0, 10)
        found = dict(await history(process))
        assert acknowledged.items() <= found.items()
        assert list(found) == list(range(1, len(found) + 1))
    for one in processes:
        one.store.answers.clear()
    last = await processes[0].append("the end")
    stored = dict(await site.stored())
    assert acknowledged.items() <= stored.items()
    assert list(stored) == list(range(1, last.offset + 1))
