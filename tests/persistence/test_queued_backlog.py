"""A backlog is bounded in bytes and taken in pages, on a real Redis and SQLite."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from services.persistence.domain import draining
from services.persistence.domain.backlog import PAGE_ENTRIES
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import PAGE_BYTES, Row
from services.shared.errors import Busy, Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import Unstored
from tests.persistence.test_queued import begun, drained, history, publish, queued
from tests.support.log import append
from tests.support.persistence import CHANNEL, Process, Site, both, request

LARGE = 300_000


class Watched:
    """The largest page of Redis, and the largest write: entries, and bytes."""

    def __init__(self, process: Process) -> None:
        self.page = self.write = (0, 0)
        self._unstored, self._write = process.hot.unstored, process.store.real.write
        process.hot.unstored = self.unstored  # type: ignore[method-assign]
        process.store.before_write = self.written

    async def unstored(self, *arguments: Any, **options: Any) -> list[Unstored | None]:
        found = await self._unstored(*arguments, **options)
        entries = [entry for one in found if one is not None for entry in one.entries]
        self.page = max(self.page[0], len(entries)), max(self.page[1], sum(len(one.publication) for one in entries))
        return found

    async def written(self, rows: Sequence[Row]) -> None:
        self.write = max(self.write[0], len(rows)), max(self.write[1], sum(len(one.publication) for one in rows))


async def large(process: Process, count: int) -> list[tuple[int, str]]:
    """Publish so many of 300 kB that are not stored; return the history."""
    process.store.answers[CHANNEL] = Unavailable("away")
    wanted = [(number, f"{number}".ljust(LARGE)) for number in range(1, count + 1)]
    for _, data in wanted:
        await publish(process, data)
    return wanted


@both
async def test_reads_sweeps_and_comparisons_take_a_backlog_in_pages(site: Site, apart: bool) -> None:
    dying = begun(site.process(apart=apart))
    wanted = await large(dying, 40)  # 12 MB
    seen = Watched(dying)
    assert await history(dying) == wanted
    assert await history(dying, reverse=True) == wanted[::-1]
    assert await history(dying, since_offset=7, limit=3) == wanted[7:10]
    assert await history(dying, since_offset=7, limit=3, reverse=True) == wanted[5:2:-1]
    assert await history(dying, since_offset=7, limit=30, max_bytes=LARGE + 100) == wanted[7:9]
    assert seen.page[1] <= PAGE_BYTES + LARGE + 100
    await dying.close()
    site.processes.remove(dying)
    other = begun(site.process(apart=apart))
    seen = Watched(other)
    assert await other.log.sweep(0.0, 10) == 1
    assert (seen.page[1] <= PAGE_BYTES + LARGE + 100, seen.write[1] <= PAGE_BYTES + LARGE + 100) == (True, True)
    assert len(await site.stored()) == 40


@both
async def test_a_rescue_keeps_what_it_has_stored_when_the_store_fails(site: Site, apart: bool) -> None:
    dying = begun(site.process(apart=apart))
    wanted = await large(dying, 40)
    await dying.close()
    site.processes.remove(dying)
    process = begun(site.process(apart=apart), 2)
    writes = 0

    async def fail_once(_: Sequence[Row]) -> None:
        nonlocal writes
        writes += 1
        if writes == 2:
            raise Unavailable("as if the store had gone")

    process.store.before_write = fail_once
    with pytest.raises(Unavailable):
        await process.log.open(CHANNEL)
    found = await process.hot.unstored([CHANNEL], 1)
    assert found[0] is not None
    assert found[0].stored == len(await site.stored()) > 0
    seen = Watched(process)
    assert await history(process) == wanted
    assert seen.page[1] <= PAGE_BYTES + LARGE + 100


@both
async def test_a_publication_that_must_be_stored_first_stores_what_is_in_front_of_it_in_pages(
    site: Site, apart: bool
) -> None:
    process = begun(site.process(apart=apart))
    wanted = await large(process, 40)
    seen = Watched(process)
    process.store.answers.clear()
    (outcome,) = await append(process.log, [request("barrier")])
    assert isinstance(outcome, AppendedPosition)
    assert outcome.offset == 41
    assert await site.stored() == [*wanted, (41, "barrier")]
    assert seen.write[1] <= PAGE_BYTES + LARGE + 100


async def test_many_channels_that_wait_share_writes_of_a_bounded_size(site: Site) -> None:
    process = begun(site.process())
    channels = [f"chat:{number}" for number in range(20)]
    process.store.answers.update(dict.fromkeys(channels, Unavailable("away")))
    for channel in channels:
        asked = [queued("x" * 1_000, channel=channel) for _ in range(200)]
        assert not [one for one in await append(process.log, asked) if isinstance(one, Exception)]
    seen = Watched(process)
    process.store.answers.clear()
    await process.log.drain(30.0)
    assert [len(await site.stored(channel)) for channel in channels] == [200] * 20
    assert draining.LEAST_ENTRIES < seen.write[0] <= PAGE_ENTRIES


async def test_what_waits_is_bounded_in_bytes(site: Site) -> None:
    process = begun(site.process(max_unstored_bytes=50_000))
    process.store.answers[CHANNEL] = Unavailable("away")
    for _ in range(5):
        await publish(process, "x" * 10_000)
    with pytest.raises(Busy):
        await publish(process, "y")
    assert (await publish(process, "another", channel="chat:b")).offset == 1
    process.store.answers.clear()
    await drained(site, process, 5)
    for _ in range(3):
        await publish(process, "x" * 10_000)
    await drained(site, process, 8)


@pytest.mark.parametrize("seed", range(3))
async def test_bytes_that_wait_are_counted_whatever_is_stored_of_them(site: Site, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    process = begun(site.process())
    may_write = process.store.hold_writes()
    for _ in range(30):
        asks = queued if rng.random() < 0.9 else request
        asked = [asks("x" * rng.randint(0, 2_000)) for _ in range(rng.randint(1, 6))]
        if asks is request:
            may_write.set()
        await append(process.log, asked)
        if rng.random() < 0.5:
            may_write.set()
            await asyncio.sleep(0)
            await append(process.log, [queued("y")])
        may_write = process.store.hold_writes()
        (found,) = await process.hot.unstored([CHANNEL], 10_000)
        counted = await site.client.hmget(keys.meta(CHANNEL), "queued_bytes", "stored_bytes", "stored")
        assert found is not None
        if int(counted[2] or 0) == found.stored < found.top:
            real = sum(len(one.publication) + len(one.key) + 150 for one in found.entries)
            assert int(counted[0] or 0) - int(counted[1] or 0) == real
    may_write.set()
