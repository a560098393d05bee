"""A place that hangs, or many readers at once, hold up nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from services.persistence.archive import directory, pages
from services.persistence.archive.directory import Directory
from services.persistence.archive.ports import Limits
from services.shared.errors import Unavailable
from tests.persistence.archive.test_model import put
from tests.support.archive import DAY, Clock, Model, archiver_of, store_at

TWOS = Limits(rows=2, bytes=1 << 20, least_rows=2, least_bytes=1 << 20)


async def test_a_directory_that_hangs_takes_its_own_threads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_LONGEST_S", 0.3)
    objects = Directory(tmp_path)
    hanging = tmp_path / "hanging"
    os.mkfifo(hanging)  # who opens it to read waits until somebody writes
    readers = 3 * (os.cpu_count() or 1) + 40  # more than threads of the default executor
    found = await asyncio.gather(*(objects.get("hanging") for _ in range(readers)), return_exceptions=True)
    assert {type(one) for one in found} == {Unavailable}
    async with asyncio.timeout(30):
        await asyncio.to_thread(os.getpid)
        await objects.close()
    with contextlib.suppress(OSError):  # nobody waits any more
        os.close(os.open(hanging, os.O_WRONLY | os.O_NONBLOCK))


async def test_few_segments_are_read_at_once_and_the_others_wait_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Directory):
        running = most = 0
        may_end = asyncio.Event()

        async def get(self, name: str) -> bytes:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self.may_end.wait()
                return await super().get(name)
            finally:
                self.running -= 1

    clock, model, objects = Clock(), Model("old:a", 1), Slow(tmp_path / "archive")
    objects.may_end.set()
    store = store_at(tmp_path, clock, objects)
    await put(store, model, 41)
    clock.now += 2 * DAY
    assert await archiver_of(store, clock, TWOS).archive()
    segments = await store.segments.all_segments(("", 0), 100)
    objects.most = 0
    objects.may_end.clear()
    loads = [asyncio.create_task(store.loaded.rows(one)) for one in segments]
    await asyncio.sleep(0)
    objects.may_end.set()
    await asyncio.gather(*loads)
    assert len(loads) == 20
    assert 1 < objects.most <= 3
    await model.check_all(store)

    monkeypatch.setattr(pages, "_LONGEST_S", 0.3)
    objects.may_end.clear()
    for one in segments:
        store.loaded.forget(one.object)
    found = await asyncio.gather(*(store.loaded.rows(one) for one in segments), return_exceptions=True)
    assert {type(one) for one in found} == {Unavailable}
    objects.may_end.set()
    await store.close()
