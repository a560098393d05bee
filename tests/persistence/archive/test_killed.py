"""Pages over Redis, the table and the archive, while the archiver is killed."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from pathlib import Path
from typing import Any

import redis.asyncio

from services.persistence.domain.ports import CountedRow
from services.shared.errors import Unavailable
from services.shared.redis.pipeline import RedisPipeline
from tests.persistence.test_queued import begun, publish
from tests.support.archive import DAY, SMALL, Clock, archiver_of, store_at
from tests.support.log import append
from tests.support.persistence import Process, request
from tests.support.waiting import until

CHANNEL = "old:kept"
KILLS = 20
OLD, NEW, TOP = 200, 30, 240  # rows that are old enough, that are not, and all with what Redis alone has
SEED = 72


def keep_archiving(folder: str, now: float, seed: int, archived: Any) -> None:
    """Archive, and bring some of it back, for ever; run in a process of its own."""

    async def work() -> None:
        clock, chance = Clock(), random.Random(seed)
        clock.now = now
        store = store_at(Path(folder), clock)
        archiver = archiver_of(store, clock, SMALL._replace(rows=chance.choice((5, 10, 50))))
        while True:
            done = await archiver.archive()
            assert done is not None
            with archived.get_lock():
                archived.value += done.segments
            for manifest in await store.segments.segments(CHANNEL, 1, 1 << 40):
                if chance.random() < 0.5:
                    await store.segments.restore(manifest, await store.loaded.rows(manifest), now)
            await store.erasing.delete_dropped(now)

    asyncio.run(work())


async def test_pages_are_whole_while_the_archiver_is_killed(
    redis_conn: redis.asyncio.Redis, redis_pipeline: RedisPipeline, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    chance, clock = random.Random(SEED), Clock()
    store = store_at(tmp_path, clock)
    process = begun(Process(redis_pipeline, store))
    for age, count in (("old", OLD), ("new", NEW)):
        await append(process.log, [request(f"{age} {number}", channel=CHANNEL, size=20) for number in range(count)])
        clock.now += 3 * DAY
    clock.now -= 3 * DAY
    process.store.answers[CHANNEL] = Unavailable("away")  # the store has none of these
    for number in range(TOP - OLD - NEW):
        await publish(process, f"queued {number}", channel=CHANNEL, size=20)
    whole = await page(process, 0, 1_000, False)
    assert [row.offset for row in whole] == [*range(1, TOP + 1)]

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.support.archive"])
    archived, pages = context.Value("q", 0), 0
    for kill in range(KILLS):
        before = archived.value
        arguments = (str(tmp_path), clock.now, SEED + kill, archived)
        child = context.Process(target=keep_archiving, args=arguments, daemon=True)
        child.start()
        stop = chance.choice((0, 1, 3))
        await until(lambda: archived.value >= before + stop, 60, "something was archived")  # noqa: B023
        for _ in range(chance.randrange(1, 40)):
            pages += 1
            await compare(process, whole, chance)
        child.kill()
        await asyncio.to_thread(child.join)
        for _ in range(10):
            await compare(process, whole, chance)
    assert archived.value > KILLS
    print(f"{archived.value} segments, {pages} pages beside the archiver")

    for reverse in (False, True):  # one cursor over all
        found: list[CountedRow] = []
        while some := await page(process, found[-1].offset if found else 0, 13, reverse):
            found += some
            if reverse and found[-1].offset == 1:
                break
        assert found == (whole[::-1] if reverse else whole)
    assert await archiver_of(store, clock).archive()
    assert await store.segments.uncleared() == []
    assert (await store.segments.totals()).rows > OLD - 10
    await process.close()
    await store.close()


async def page(process: Process, since: int, limit: int, reverse: bool) -> list[CountedRow]:
    found, top = await process.log.read_counted(CHANNEL, since_offset=since, limit=limit, reverse=reverse)
    assert top.top == TOP
    return found


async def compare(process: Process, whole: list[CountedRow], chance: random.Random) -> None:
    """Compare a page from anywhere with what was there before anything was archived."""
    since, limit, reverse = chance.randrange(TOP + 2), chance.choice((1, 7, 50, 1_000)), chance.random() < 0.5
    if reverse:
        wanted = [row for row in reversed(whole) if not since or row.offset < since][:limit]
    else:
        wanted = [row for row in whole if row.offset > since][:limit]
    assert await page(process, since, limit, reverse) == wanted
