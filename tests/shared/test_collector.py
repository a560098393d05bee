"""What only the garbage collector frees is freed in time, at little cost."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator

import pytest

from services.shared.process import collector
from services.shared.process.cancellation import end_task

LIMIT_S = 30.0


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_in_production() -> Iterator[None]:
    before = gc.get_threshold()
    collector.settle()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def old_cycle() -> weakref.ref[Cycle]:
    """One that outlived young collections, as requests of a slow client do."""
    found = Cycle()
    gc.collect()
    return weakref.ref(found)


async def test_an_old_cycle_is_freed_within_the_round() -> None:
    left = old_cycle()
    for _ in range(200_000):  # traffic, which makes the automatic collections run
        _ = [[], []]
    assert left() is not None
    running = asyncio.create_task(collector.collect(every_s=0.05, share=1.0))
    async with asyncio.timeout(LIMIT_S):
        while left() is not None:
            await asyncio.sleep(0.01)
    await end_task(running)


async def test_rounds_are_further_apart_where_each_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    now = 0.0

    def slow() -> int:
        nonlocal now
        now += 0.1
        return 0

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)
        if len(delays) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(gc, "collect", slow)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with pytest.raises(asyncio.CancelledError):
        await collector.collect(every_s=10.0, share=0.001)
    assert delays == pytest.approx([10.0, 100.0, 100.0])
