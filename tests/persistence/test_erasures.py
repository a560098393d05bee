"""What an item erases is gone before the item can be read, whoever dies."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from typing import Any

import pytest

from services.persistence.domain.erasures import Resolver
from services.persistence.domain.log import Request
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import Row
from services.shared.errors import Unavailable
from services.shared.hotlog import erasing, keys
from services.shared.hotlog.hotlog import ERASES, Item
from tests.support.log import append, unstamped
from tests.support.persistence import CHANNEL, Nowhere, Process, Site, both, request
from thalamus.common.v1 import common_pb2

SECRET, GONE = "planted:b1946ac92492d234", b"gone"
DELETE = b"delete "  # and the offset; how this test says what is erased


async def resolve(row: Row) -> Mapping[int, bytes]:
    return {int(unstamped(row.publication)[len(DELETE) :].split(b"\x3a")[0]): GONE}


def deletion(of: int, *, key: str = "") -> Request:
    item = Item(os.urandom(16), DELETE + b"%d" % of, "ann", key or os.urandom(8).hex(), flags=ERASES)
    return Request(CHANNEL, item, 100, 3_600)


def process_of(site: Site, resolver: Resolver | None = resolve, **options: Any) -> Process:
    """A process whose log knows what others erase."""
    process = site.process(**options)
    if resolver is not None:
        process.log.erasures.resolve = resolver
    return process


async def fill(process: Process, count: int = 9, secret: int = 5) -> None:
    for offset in range(1, count + 1):
        await process.append(SECRET if offset == secret else str(offset))


async def where(site: Site) -> set[str]:
    """Where the secret is still to be had."""
    await site.client.config_set("rdbcompression", "no")  # so that copies have the bytes as they are
    found = {"store"} if any(SECRET in content for _, content in await site.stored()) else set()
    if SECRET.encode() in (await site.client.dump(keys.log(CHANNEL)) or b""):
        found.add("redis")
    return found


async def offsets(site: Site) -> list[int]:
    return [offset for offset, _ in await site.stored()]


@both
async def test_whoever_can_read_the_deletion_can_not_read_what_it_erased(site: Site, apart: bool) -> None:
    process = process_of(site, apart=apart)
    await fill(process)
    assert await where(site) == {"store", "redis"}
    seen: list[set[str]] = []
    hot: Any = process.hot
    commit = hot.commit

    async def commit_late(*arguments: Any) -> Any:
        if arguments[0]:  # the first round of the first item with flags commits nothing
            seen.append(await where(site))
        return await commit(*arguments)

    hot.commit = commit_late
    (outcome,) = await append(process.log, [deletion(5)])
    assert outcome == AppendedPosition(10, outcome.epoch, False)  # type: ignore[union-attr]
    assert seen == [set()]
    assert await offsets(site) == [offset for offset, _ in await site.readable()] == list(range(1, 11))


async def test_only_items_with_the_flag_are_asked_about_with_the_place_and_time_that_they_got(site: Site) -> None:
    told: list[tuple[int, int]] = []

    async def note(row: Row) -> Mapping[int, bytes]:
        told.append((row.offset, common_pb2.Publication.FromString(row.publication).time_ms))
        return {}

    publication = common_pb2.Publication(data=b"x").SerializeToString()
    items = [Item(os.urandom(16), publication, "ann", str(flags), flags=flags) for flags in (4, 7, 6, 3, 0)]
    await append(process_of(site, note).log, [Request(CHANNEL, item, 100, 3_600) for item in items])
    now = await site.client.time()
    assert [offset for offset, _ in told] == [1, 2, 3], "an item without the flag erases nothing"
    assert {abs(now[0] * 1_000 - time_ms) < 5_000 for _, time_ms in told} == {True}


async def test_an_item_that_is_not_numbered_or_not_stored_erases_nothing(site: Site) -> None:
    process = process_of(site)
    await fill(process)
    refused = deletion(5)
    (outcome,) = await append(process.log, [refused._replace(item=refused.item._replace(guard=77))])
    assert not isinstance(outcome, AppendedPosition)
    process.store.answers[CHANNEL] = Unavailable("full")
    (outcome,) = await append(process.log, [deletion(5)])
    assert isinstance(outcome, Unavailable)
    assert await where(site) == {"store", "redis"}
    process.store.answers.clear()
    await process.log.sweep(0, 10)
    assert await where(site) == set()


STEPS = ["before it is stored", "stored", "erased in the store", "erased in Redis", "readable"]


def die_at(process: Process, step: str) -> None:
    """Let the process end at a step of its next batch."""

    async def ends(*_: Any) -> Any:
        raise ZeroDivisionError("the process ended here")

    hot: Any = process.hot
    if step == "before it is stored":
        process.store.before_write = ends
    elif step == "stored":
        process.store.after_write = ends
    elif step == "erased in the store":
        hot.erase = ends
    elif step == "erased in Redis":
        hot.commit = ends
    else:
        commit = hot.commit

        async def commit_and_end(*arguments: Any) -> Any:
            await commit(*arguments)
            await ends()

        hot.commit = commit_and_end


def fail_once(process: Process, site: Site, how: str) -> None:
    """Let the next commit of anything fail."""
    hot: Any = process.hot
    commit = hot.commit

    async def fails(channels: Any, incarnation: str) -> Any:
        if not channels:
            return await commit(channels, incarnation)
        hot.commit = commit
        if how == "lost":
            await site.client.flushdb()
            raise Unavailable("Redis is lost")
        return [Unavailable("refused") if how == "refused" else -1 for _ in channels]

    hot.commit = fails


@pytest.mark.parametrize("queued", [False, True], ids=["stored", "queued"])
@pytest.mark.parametrize("how", ["lost", "refused", "changed"])
async def test_a_redis_that_fails_when_what_is_in_front_becomes_readable_gives_nothing_back(
    site: Site, how: str, queued: bool
) -> None:
    """Of what is in front of the deletion, and of what was there before."""
    process = process_of(site, sink=Nowhere() if queued else None)
    process.incarnation = "run.1"
    await fill(process)
    await append(process.log, [deletion(1)])  # from here on the channel counts, and batches need one round
    asked = request("new " + SECRET)._replace(queued=queued)
    if queued:
        await append(process.log, [asked])
    batch = [*([] if queued else [asked]), deletion(5), deletion(11)]
    fail_once(process, site, how)
    assert {isinstance(outcome, Unavailable) for outcome in await append(process.log, batch)} == {True}
    other = process_of(site)
    other.incarnation = "run.2" if how == "lost" else "run.1"
    await process.close()
    await other.log.sweep(0, 10)
    assert (await other.log.open(CHANNEL)).top == 13
    assert await where(site) == set()
    assert dict(await site.stored()).keys() == set(range(1, 14))


async def test_what_is_between_two_items_that_erase_is_gone_before_the_second_one_is_readable(site: Site) -> None:
    process = process_of(site)
    await fill(process)
    await append(process.log, [deletion(1)])
    await append(process.log, [deletion(5), request(SECRET), deletion(12), deletion(7), request("x"), deletion(15)])
    assert await where(site) == set()
    readable, stored = await site.readable(), await site.stored()
    assert readable == stored[-len(readable) :]
    contents = [content for _, content in await site.stored()]
    gone = unstamped(GONE).decode()
    assert [offset for offset, content in enumerate(contents, 1) if content == gone] == [1, 5, 7, 12, 15]


@both
@pytest.mark.parametrize("step", STEPS)
async def test_c35_what_a_process_left_at_any_step_is_finished_once_by_another(
    site: Site, step: str, apart: bool
) -> None:
    """Ten times each, with different publications around it."""
    first = process_of(site, apart=apart)
    chance = random.Random(STEPS.index(step))
    await first.append("begins")
    await append(first.log, [deletion(1)])  # from here on the channel counts, and batches need one round
    for round_ in range(10):
        top = (await offsets(site))[-1]
        await first.append(SECRET)
        for _ in range(chance.randint(0, 3)):
            await first.append("other")
        asked = deletion(top + 1, key=f"delete {round_}")
        dying = process_of(site, apart=apart)
        die_at(dying, step)
        (outcome,) = await append(dying.log, [asked])
        assert isinstance(outcome, Unavailable)
        await dying.close()
        if chance.random() < 0.5:  # others go on before the sweep comes
            await process_of(site, apart=apart).append("other")
        else:
            await first.log.drain(5)  # a sweep leaves channels alone that are busy
            await first.log.sweep(0, 10)
        assert await where(site) == set(), (step, round_)
        (again,) = await append(first.log, [asked])
        assert isinstance(again, AppendedPosition)
        assert again.repeated_key
        contents = [content for _, content in await site.stored()]
        assert contents.count(f"delete {top + 1}") == 1
        assert await offsets(site) == list(range(1, len(contents) + 1))


async def test_a_resolver_that_fails_keeps_nothing_unreadable_unless_the_store_is_away(site: Site) -> None:
    async def broken(row: Row) -> Mapping[int, bytes]:
        raise KeyError("a bug")

    async def away(row: Row) -> Mapping[int, bytes]:
        raise Unavailable("the store is away")

    await fill(process_of(site, away))
    (outcome,) = await append(site.processes[0].log, [deletion(5)])
    assert isinstance(outcome, Unavailable)
    await site.processes[0].log.sweep(0, 10)
    assert len(await site.readable()) == 9
    await process_of(site, broken).log.sweep(0, 10)
    assert len(await site.readable()) == 10


async def test_erasing_by_itself_is_done_in_the_store_and_in_redis_and_repeating_it_is_nothing(
    site: Site, process: Process
) -> None:
    await fill(process)
    for _ in range(2):
        await process.log.erase(CHANNEL, {5: GONE, 7: GONE})
        assert await where(site) == set()
        contents = dict(await site.stored())
        assert contents == dict(await site.readable())
        assert [offset for offset, content in contents.items() if content == unstamped(GONE).decode()] == [5, 7]
    await process.log.erase(CHANNEL, {})
    assert (await site.store.open(CHANNEL)).erasures == 2


async def test_a_redis_that_lost_an_erasure_in_a_crash_gives_nothing_back(site: Site, process: Process) -> None:
    """What an append-only file that is synced every second may lose."""
    await fill(process)
    names = (keys.log(CHANNEL), keys.meta(CHANNEL))
    copies = [await site.client.dump(name) or b"" for name in names]
    await process.log.erase(CHANNEL, {5: GONE})
    for name, copy in zip(names, copies, strict=True):
        await site.client.restore(name, 0, copy, replace=True)
    assert await where(site) == {"redis"}
    process.incarnation = "second"
    assert (await process.log.open(CHANNEL)).top == 9
    assert SECRET not in [content for _, content in await site.readable(incarnation="second")]
    assert await where(site) == set()
    for _ in range(2):
        await process.append("more")
    process.incarnation = "third"
    await process.log.open(CHANNEL)
    assert len(await site.readable(incarnation="third")) == 2, "a Redis that has seen all keeps its entries"


async def test_bytes_that_are_left_where_very_much_is_not_stored_go_with_a_later_sweep(site: Site) -> None:
    process, other = process_of(site), process_of(site)
    await fill(process)
    may_write, may_other = process.store.hold_writes(), other.store.hold_writes()
    items = [Item(os.urandom(16), b"x", "bob", str(number)) for number in range(erasing.MOST_WRITTEN + 1)]
    requests = [Request(CHANNEL, item, 100, 3_600) for item in items]
    waiting = asyncio.gather(append(process.log, requests[:200]), append(other.log, requests[200:]))
    async with asyncio.timeout(30):
        while await site.client.xlen(keys.log(CHANNEL)) < 9 + len(items):
            await asyncio.sleep(0.01)
    await process.log.erase(CHANNEL, {5: GONE})
    assert await site.readable() == []
    assert await where(site) == {"redis"}
    may_write.set()
    may_other.set()
    await waiting
    await process.log.sweep(1_000, 10)
    assert await where(site) == set()


async def test_c37_deletions_one_after_another_write_a_bounded_amount_of_entries_again(site: Site) -> None:
    process = process_of(site)
    await fill(process, 400, 300)
    calls: list[int] = []
    hot: Any = process.hot
    real = hot._run  # noqa: SLF001

    async def counting(op: str, some: Any) -> Any:
        results = await real(op, some)
        if op == "erase":
            calls.extend(erasing.erased(result).entries for result in results)
        return results

    hot._run = counting  # noqa: SLF001
    await append(process.log, [deletion(offset) for offset in range(100, 400)])
    for offset in range(1, 100):
        await append(process.log, [deletion(offset)])
    print(f"{len(calls)} calls wrote {calls} entries again")
    assert max(calls) <= erasing.MOST_WRITTEN
    assert sum(1 for entries in calls if entries > erasing.KEPT) <= 1 + 20 * 10
    assert [content for _, content in await site.stored()][:399] == [unstamped(GONE).decode()] * 399
