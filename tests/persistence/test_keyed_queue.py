"""Keys: batches of one follow one another, keys go side by side.

What waited too long is not written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.persistence.domain.keyed_queue import KeyedQueue
from services.shared.process.cancellation import end_task
from tests.support.linger import BusyThread

Work = tuple[str, int]  # key and number


class Rig:
    """Keys whose batches end at once, except for that of the key in `held`."""

    def __init__(self, *, max_wait_s: float = 60.0, longest_wait_s: float = 0.0) -> None:
        self.begun: list[list[Work]] = []
        self.refused: list[Work] = []
        self.held: dict[str, asyncio.Event] = {}
        self.thread = BusyThread(longest_wait_s)
        self.queue: KeyedQueue[Work] = KeyedQueue(
            self._settle,
            self.refused.extend,
            max_waiting=10,
            max_per_key=5,
            max_batch=3,
            max_wait_s=max_wait_s,
            linger=self.thread.linger,
        )
        self.running = asyncio.create_task(self.queue.run())

    async def _settle(self, batch: list[Work]) -> None:
        self.begun.append(batch)
        if batch[0][0] in self.held:
            await self.held[batch[0][0]].wait()

    def put(self, key: str, *numbers: int) -> None:
        for number in numbers:
            self.queue.put(key, (key, number))

    def hold(self, key: str) -> asyncio.Event:
        return self.held.setdefault(key, asyncio.Event())


async def turns() -> None:
    """As many turns of the loop as anything here takes."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await end_task(made.running)


async def test_what_comes_while_a_batch_is_written_is_the_next_batch_of_its_key(rig: Rig) -> None:
    ends = rig.hold("a")
    rig.put("a", 1)
    await turns()
    rig.put("a", 2)
    await turns()
    rig.put("a", 3, 4, 5)
    await turns()
    assert rig.begun == [[("a", 1)]]
    ends.set()
    await turns()
    assert rig.begun == [[("a", 1)], [("a", 2), ("a", 3), ("a", 4)], [("a", 5)]]


async def test_while_the_thread_is_busy_a_key_waits_for_more() -> None:
    rig = Rig(longest_wait_s=60.0)
    rig.thread.work(1.0)
    rig.put("a", 1)
    await turns()
    rig.put("a", 2)
    await turns()
    assert rig.begun == [[("a", 1)]]
    await end_task(rig.running)


async def test_a_whole_batch_waits_for_nothing() -> None:
    rig = Rig(longest_wait_s=60.0)
    rig.thread.work(1.0)
    ends = rig.hold("a")
    rig.put("a", 1)
    await turns()
    rig.put("a", 2, 3, 4)
    ends.set()
    await turns()
    assert rig.begun == [[("a", 1)], [("a", 2), ("a", 3), ("a", 4)]]
    await end_task(rig.running)


async def test_a_key_whose_batch_does_not_end_holds_up_no_other(rig: Rig) -> None:
    rig.hold("slow")
    rig.put("slow", 1, 2)
    rig.put("quick", 1)
    await turns()
    rig.put("quick", 2)
    await turns()
    assert rig.begun == [[("slow", 1), ("slow", 2)], [("quick", 1)], [("quick", 2)]]
    assert rig.queue.is_busy("slow")
    assert not rig.queue.is_busy("quick")


async def test_a_key_is_forgotten_once_nobody_uses_it(rig: Rig) -> None:
    ends = rig.hold("a")
    for number in range(4):
        rig.put("a", number)
        await turns()
    ends.set()
    await turns()
    assert rig.queue.is_empty
    assert rig.queue.waiting == 0
    async with rig.queue.exclusive("b"):
        assert rig.queue.is_busy("b")
    assert rig.queue.is_empty


async def test_who_is_exclusive_is_not_written_beside_others(rig: Rig) -> None:
    async with rig.queue.exclusive("a"):
        rig.put("a", 1)
        rig.put("b", 1)
        await turns()
        assert rig.begun == [[("b", 1)]]
    await turns()
    assert rig.begun == [[("b", 1)], [("a", 1)]]


async def test_a_key_and_all_of_them_have_room_for_so_many(rig: Rig) -> None:
    for key in ("a", "b"):
        rig.hold(key)
        rig.put(key, 0)
    await turns()
    rig.put("a", 1, 2, 3, 4)
    assert rig.queue.has_room("a")
    rig.put("a", 5)
    assert not rig.queue.has_room("a")
    assert rig.queue.has_room("b")
    rig.put("b", 1, 2, 3, 4, 5)
    assert not rig.queue.has_room("c")


async def test_what_waited_for_too_long_is_refused_and_the_rest_is_written() -> None:
    rig = Rig(max_wait_s=0.05)
    ends = rig.hold("a")
    rig.put("a", 1)
    await turns()
    rig.put("a", 2, 3, 4, 5)
    await asyncio.sleep(0.06)
    rig.put("a", 6)
    ends.set()
    await turns()
    assert rig.begun == [[("a", 1)], [("a", 6)]]
    assert rig.refused == [("a", number) for number in (2, 3, 4, 5)]
    await end_task(rig.running)


async def test_at_the_end_what_still_waits_is_refused() -> None:
    rig = Rig()
    rig.hold("a")
    rig.put("a", 1)
    await turns()
    rig.put("a", 2)
    await end_task(rig.running)
    assert rig.refused == [("a", 2)]
