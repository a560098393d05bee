"""A log with an archive is as one without, whatever fails and in whatever order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.persistence.adapters.sqlite_archive import ArchivedSqliteLogStore
from services.persistence.archive.archiver import Archiver
from services.persistence.archive.directory import Directory
from services.persistence.archive.ports import StoredObject
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import KEY_TTL_S
from tests.support.archive import DAY, Clock, Model, archiver_of, objects_of, store_at
from tests.support.full import FULL, sized

SEEDS = range(40) if FULL else (1, 2, 3)
FAILS = ("none", "before", "after")


class Failing:
    """Any object of which calls fail now and then, before or after they are done."""

    def __init__(self, real: Any, chance: random.Random) -> None:
        self._real, self._chance, self.rate = real, chance, 0.0
        self.calls = 0
        self.fails_at, self.when = 0, "before"

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name == "list":
            return self._list

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            fails = self.calls == self.fails_at or self._chance.random() < self.rate
            when = self.when if self.calls == self.fails_at else self._chance.choice(("before", "after"))
            if fails and when == "before":
                raise Unavailable(f"{name} fails before it is done")
            done = await real(*arguments, **named)
            if fails:
                raise Unavailable(f"{name} fails after it was done")
            return done

        return call

    async def _list(self, prefix: str) -> AsyncIterator[StoredObject]:
        async for one in self._real.list(prefix):
            yield one


class Replica:
    """A process with the file and the archive; its calls may fail."""

    def __init__(self, folder: Path, clock: Clock, chance: random.Random) -> None:
        self.objects = Failing(Directory(folder / "archive"), chance)
        self.store = store_at(folder, clock, self.objects)
        self.segments = Failing(self.store.segments, chance)
        self.store.segments = self.segments  # type: ignore[assignment]
        self.store.pages._store = self.segments  # noqa: SLF001
        self.store.erasing._store = self.segments  # noqa: SLF001
        self.archiver: Archiver = archiver_of(self.store, clock)

    def set_rate(self, rate: float) -> None:
        self.objects.rate = self.segments.rate = rate


async def put(store: ArchivedSqliteLogStore, model: Model, count: int) -> None:
    await store.open(model.channel)
    written = await store.write(model.new(count))
    assert not written[model.channel].conflict


async def remove(store: ArchivedSqliteLogStore, clock: Clock, model: Model, upto: int) -> None:
    """Begin a removal."""
    await store.begin_removal(model.channel, upto)
    model.removed = max(model.removed, min(upto, model.top))


async def finish(store: ArchivedSqliteLogStore, clock: Clock) -> None:
    """Finish all removals that have begun."""
    clock.now += KEY_TTL_S + 1
    for removal in await store.removals():
        await store.finish_removal(removal)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_log_with_an_archive_is_as_one_without(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    chance, clock = random.Random(seed), Clock()
    replicas = [Replica(tmp_path, clock, chance) for _ in range(2)]
    models = [Model(f"old:{name}", seed) for name in "ab"]
    calm = replicas[0]
    for model in models:
        await put(calm.store, model, 20)
    for step in range(sized(120, 600)):
        replica, model = chance.choice(replicas), chance.choice(models)
        rate = chance.choice((0.0, 0.0, 0.1, 0.4))
        what = chance.choices(
            ("put", "archive", "erase", "rewrite", "remove", "finish", "restore", "read"), (4, 6, 4, 4, 1, 2, 1, 4)
        )[0]
        clock.now += chance.random() * DAY / 4
        if what == "put":
            await put(replica.store, model, chance.randrange(1, 12))
        elif what == "erase":
            for offset in chance.sample(range(model.removed, model.top), min(3, model.top - model.removed)):
                await replica.store.erase(model.channel, {offset + 1: model.erase(offset + 1)})
        elif what == "remove":
            await remove(
                replica.store, clock, model, chance.randrange(model.removed, (model.removed + model.top) // 2 + 1)
            )
        else:
            replica.set_rate(rate)
            with contextlib.suppress(Unavailable):
                if what == "archive":
                    await replica.archiver.archive()
                elif what == "rewrite":
                    await replica.archiver.erase()
                elif what == "finish":
                    await finish(replica.store, clock)
                elif what == "restore":
                    for manifest in await replica.segments.segments(model.channel, 1, model.top):
                        if chance.random() < 0.3:
                            rows = await replica.store.loaded.rows(manifest)
                            await replica.segments.restore(manifest, rows, clock.now + DAY)
                else:
                    with contextlib.suppress(Unavailable):
                        await model.check(replica.store)
            replica.set_rate(0.0)
        for one in models:
            await one.check_ids(chance.choice(replicas).store)
            await one.check(chance.choice(replicas).store)
            extent = await replica.store.extent(one.channel)
            assert (extent.removed, extent.top) == (one.removed, one.top), step
            state = await replica.store.open(one.channel)
            assert (state.n, state.mv) == (one.rows[-1].n, one.rows[-1].mv)
            repeated = await replica.store.write(one.rows[-5:])
            assert not repeated[one.channel].conflict
    clock.now += 40 * DAY
    await finish(calm.store, clock)
    for replica in replicas:
        await replica.archiver.erase()
    await calm.archiver.archive()
    for model in models:
        for replica in replicas:
            await model.check_all(replica.store)
    known = [one.object for one in await calm.segments.all_segments(("", 0), 10_000)]
    now = [path.relative_to(tmp_path / "archive").as_posix() for path in objects_of(tmp_path)]
    assert set(known) <= set(now)
    assert known
    for replica in replicas:
        await replica.store.close()
