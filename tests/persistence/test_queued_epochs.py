"""What was acknowledged early is stored although epochs of channels change."""

from __future__ import annotations

import asyncio
import contextlib
import random
from itertools import count
from typing import Any

import pytest

from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import ChannelState, Row
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import COUNTS
from tests.persistence.test_queued import begun, drained, history, publish, publish_and_die, queued
from tests.support.log import append
from tests.support.persistence import CHANNEL, Nowhere, Process, Site, both, request
from tests.support.waiting import until


async def contents(site: Site) -> list[str]:
    return [data for _, data in await site.stored()]


async def all_is_stored(process: Process) -> bool:
    try:
        return not (await process.log.open(CHANNEL)).behind
    except Unavailable:
        return False


async def restored(site: Site) -> None:
    """Give every channel another epoch, as `thalamus store restore` does."""
    await site.store.begin_new_epochs(await site.store.heartbeat())


@both
async def test_a_late_write_takes_no_place_of_the_epoch_behind_it(site: Site, apart: bool) -> None:
    late = begun(site.process(apart=apart))
    may_write = late.store.hold_writes()
    before = await publish(late, "lost with Redis")
    await until(lambda: late.store.writes)
    await site.client.flushall()
    process = begun(site.process(apart=apart), 2)
    process.store.answers[CHANNEL] = Unavailable("away")
    after = await publish(process, "acknowledged")
    assert (after.offset, after.epoch != before.epoch) == (1, True)
    may_write.set()
    await late.log.drain(30.0)
    process.store.answers.clear()
    await until(lambda: all_is_stored(process))
    assert await contents(site) == ["acknowledged"]
    assert (await process.log.open(CHANNEL)).epoch == after.epoch


@both
async def test_what_was_lost_while_it_was_to_be_stored_is_not_said_to_be_stored(site: Site, apart: bool) -> None:
    process = begun(site.process(apart=apart, sink=Nowhere()))
    hot: Any = process.hot
    unstored, generations = hot.unstored, count(2)

    async def lost(*arguments: Any, **options: Any) -> Any:
        if not options:  # not the drainer
            hot.unstored = unstored
            await site.client.flushdb()
            begun(process, next(generations))
        return await unstored(*arguments, **options)

    for act in (process.log.have_stored, process.log.remove_history):
        await publish(process, "lost")
        hot.unstored = lost
        with pytest.raises(Unavailable, match="epoch"):
            await act(CHANNEL)


@both
async def test_what_names_a_publication_of_an_epoch_that_is_over_erases_nothing(site: Site, apart: bool) -> None:
    process = begun(site.process(apart=apart, sink=Nowhere()))
    lost = await publish(process, "lost")
    await site.client.flushdb()
    begun(process, 2)
    other = await publish(process, "of somebody else")
    assert other.offset == lost.offset
    with pytest.raises(Unavailable, match="epoch"):
        await process.log.erase(CHANNEL, {lost.offset: b"gone"}, lost.epoch)
    await process.log.have_stored(CHANNEL)
    assert await contents(site) == ["of somebody else"]
    await process.log.erase(CHANNEL, {other.offset: b"gone" + bytes(7)}, other.epoch)
    assert await contents(site) == ["gone"]


@both
async def test_what_becomes_readable_behind_a_look_at_redis_is_stored_in_the_next_epoch(
    site: Site, apart: bool
) -> None:
    slow = begun(site.process(apart=apart))
    slow.store.answers[CHANNEL] = Unavailable("away")
    first = await publish(slow, "first")
    process = begun(site.process(apart=apart), 2)
    renew = site.store.renew_epoch

    async def renew_late(*args: Any, **options: Any) -> None:
        if not (await site.stored())[1:]:
            await publish(slow, "second", key="k")
        await renew(*args, **options)

    process.store.renew_epoch = renew_late  # type: ignore[attr-defined]
    top = await process.log.open(CHANNEL)
    assert (top.top, top.epoch != first.epoch) == (2, True)
    assert await contents(site) == ["first", "second"]
    assert (await publish(process, "second", key="k")).offset == 2
    assert (await publish(process, "third")).offset == 3


async def test_a_store_that_was_restored_notes_the_generation_again(site: Site) -> None:
    process = begun(site.process())
    before = await publish(process, "stored")
    await drained(site, process, 1)
    await restored(site)
    await site.store.database.run("write", "test", lambda connection: connection.execute("DELETE FROM queued").rowcount)
    process.incarnation = "another.1"
    assert (await publish(process, "more")).epoch != before.epoch
    assert (await site.store.open(CHANNEL)).queued_in == 1


@both
async def test_what_redis_has_is_stored_in_a_store_with_other_epochs(site: Site, apart: bool) -> None:
    process = begun(site.process(apart=apart))
    await publish(process, "stored")
    await drained(site, process, 1)
    process.store.answers[CHANNEL] = Unavailable("away")
    for number in range(3):
        await publish(process, str(number), key=f"k{number}")
    await process.close()
    site.processes.remove(process)
    await restored(site)
    process = site.process(apart=apart)
    process.incarnation = "another.1"
    assert (await process.log.open(CHANNEL)).top == 4
    assert await contents(site) == ["stored", "0", "1", "2"]
    assert [(await publish(process, str(number), key=f"k{number}")).offset for number in range(3)] == [2, 3, 4]


async def test_what_redis_has_goes_above_what_the_store_has_got_meanwhile(site: Site) -> None:
    process = begun(site.process())
    position = await publish_and_die(site, process, "acknowledged")
    await restored(site)
    taken = queued("of somebody else").item
    state = await site.store.open(CHANNEL)
    rows = [row(state, 1, taken.publication_id, taken.publication + bytes(7))]
    await site.store.write(rows)
    process = site.process()
    process.incarnation = "another.1"
    top = await process.log.open(CHANNEL)
    assert (top.top, top.epoch != position.epoch) == (2, True)
    assert await contents(site) == ["of somebody else", "acknowledged"]


def row(state: ChannelState, offset: int, publication_id: bytes, publication: bytes) -> Row:
    return Row(CHANNEL, offset, publication_id, publication, "1:uk", epoch=state.epoch)


@pytest.mark.parametrize("page", [1_000, 2])
async def test_of_a_conversation_only_messages_that_name_nothing_that_moved_get_other_offsets(
    site: Site, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an event behind the first one would stand at its own offset again."""
    monkeypatch.setattr("services.persistence.domain.backlog.PAGE_ENTRIES", page)
    process = begun(site.process(sink=Nowhere()))
    given = [("one", COUNTS), ("about 1", 0), ("about 1", 0), ("reply 1", COUNTS), ("reply 0", COUNTS), ("two", COUNTS)]
    for data, flags in given:
        asked = queued(data)
        (outcome,) = await append(process.log, [asked._replace(item=asked.item._replace(flags=flags))])
        assert isinstance(outcome, AppendedPosition)
    await process.close()
    site.processes.remove(process)
    await restored(site)
    state = await site.store.open(CHANNEL)
    await site.store.write([row(state, 1, b"x" * 16, b"other" + bytes(7))])
    process = site.process()
    process.log.ask_named(lambda _, publication: {int(publication[6:7])} if publication[:5] == b"reply" else ())
    process.incarnation = "another.1"
    assert (await process.log.open(CHANNEL)).top == 4
    assert await contents(site) == ["other", "one", "reply 0", "two"]
    assert (await site.store.open(CHANNEL)).n == 3


@both
async def test_a_rescue_ends_although_another_process_publishes_all_the_time(site: Site, apart: bool) -> None:
    busy = begun(site.process(apart=apart, sink=Nowhere()))
    await publish(busy, "first")
    process = begun(site.process(apart=apart), 2)
    writes, acknowledged = count(), list[AppendedPosition]()

    async def one_more(_: Any) -> None:
        assert next(writes) < 40, "it goes on as long as somebody publishes"
        with contextlib.suppress(Unavailable):
            acknowledged.append(await publish(busy, "more"))

    process.store.before_write = one_more
    with contextlib.suppress(Unavailable):
        await process.log.open(CHANNEL)
    process.store.before_write = None
    begun(busy, 2)
    await busy.log.have_stored(CHANNEL)
    found = await contents(site)
    assert (found[0], len(found) - 1 >= len(acknowledged) > 0) == ("first", True)
    assert next(writes) < 40


@both
async def test_what_somebody_else_has_resolved_is_left_while_others_publish(site: Site, apart: bool) -> None:
    busy, process = begun(site.process(apart=apart, sink=Nowhere())), begun(site.process(apart=apart))
    await publish(busy, "first")
    hot: Any = process.hot
    advance = hot.advance

    async def advance_late(*arguments: Any) -> Any:
        await publish(busy, "more")
        return await advance(*arguments)

    hot.advance = advance_late
    comparison = process.log._comparison  # noqa: SLF001
    assert await comparison.try_to_resolve(CHANNEL, []) is None
    assert (await process.log.open(CHANNEL)).behind


async def test_two_processes_that_rescue_the_same_store_it_once(site: Site) -> None:
    process = begun(site.process())
    process.store.answers[CHANNEL] = Unavailable("away")
    for number in range(40):
        await publish(process, str(number))
    await restored(site)
    others = [begun(site.process(), 2) for _ in range(4)]
    await asyncio.gather(*(other.log.open(CHANNEL) for other in others), return_exceptions=True)
    await others[0].log.open(CHANNEL)
    assert await contents(site) == [str(number) for number in range(40)]


async def test_a_redis_of_before_brings_nothing_back_that_is_stored_elsewhere(site: Site) -> None:
    process = begun(site.process())
    process.store.answers[CHANNEL] = Unavailable("away")
    for number in range(3):
        await publish(process, str(number))
    dump = {key: await site.client.dump(key) or b"" for key in await site.client.keys("*")}
    process.store.answers.clear()
    await drained(site, process, 3)
    await publish(process, "more")
    await drained(site, process, 4)
    await restored(site)
    for key, value in dump.items():
        await site.client.restore(key, 0, value, replace=True)
    process = begun(site.process(), 2)
    assert (await process.log.open(CHANNEL)).top == 4
    assert await contents(site) == ["0", "1", "2", "more"]


@both
@pytest.mark.parametrize("seed", range(4))
async def test_each_acknowledged_publication_is_stored_once_whatever_becomes_of_the_epoch(
    site: Site, apart: bool, seed: int
) -> None:
    """Redis loses nothing; generations and epochs change, writes are late and fail."""
    print("seed", seed)
    rng = random.Random(seed)
    generation = 1
    processes = [begun(site.process(apart=apart)) for _ in range(3)]

    def slow(process: Process) -> Process:
        async def wait(_: Any) -> None:
            await asyncio.sleep(rng.choice([0.0, 0.0, 0.003, 0.03]))
            if rng.random() < 0.1:
                raise Unavailable("as if the store had gone")

        process.store.before_write = wait
        return process

    for process in processes:
        slow(process)
    acknowledged: list[str] = []

    async def some(process: Process, number: int) -> None:
        asks = queued if rng.random() < 0.9 else request
        requests = [asks(f"{number}.{part}", size=8) for part in range(rng.randint(1, 4))]
        for asked, outcome in zip(requests, await append(process.log, requests), strict=True):
            if isinstance(outcome, AppendedPosition):
                acknowledged.append(asked.item.publication.decode())

    for number in range(60):
        dice = rng.random()
        if dice < 0.1:
            generation += 1
        elif dice < 0.15:
            await restored(site)
            generation += 1
        for process in processes:
            if rng.random() < 0.5:
                process.incarnation = f"run{generation}.{generation}"
        await asyncio.gather(*(some(one, number * 10 + at) for at, one in enumerate(processes) if rng.random() < 0.8))
    for process in processes:
        process.incarnation, process.store.before_write = f"run{generation}.{generation}", None
    await until(lambda: all_is_stored(processes[0]))
    found: list[str] = []
    while page := await site.store.read(CHANNEL, since_offset=len(found), upto=1 << 40, limit=500, reverse=False):
        found += [publication[:-7].decode() for _, publication in page]
    assert len(acknowledged) > 100
    assert sorted(one for one in found if one in {*acknowledged}) == sorted(acknowledged)
    assert await history(processes[0], limit=10_000) == list(enumerate(found, 1))
