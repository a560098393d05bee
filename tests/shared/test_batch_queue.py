"""What waits for a result: bounds, order, deadlines."""

from __future__ import annotations

import asyncio

import pytest

from services.shared.errors import Busy
from services.shared.rpc.batch_queue import BatchQueue, Waiting


async def put(
    queue: BatchQueue[str, str], *names: str, size: int = 1, deadline: float = 1.0
) -> list[Waiting[str, str]]:
    """Async only because futures want a loop."""
    added = [Waiting[str, str](name, size, asyncio.get_running_loop().create_future(), deadline) for name in names]
    for waiting in added:
        queue.put(waiting)
    return added


def make(max_items: int = 3, max_bytes: int = 100, max_waiting: int = 10) -> BatchQueue[str, str]:
    return BatchQueue(max_items=max_items, max_bytes=max_bytes, max_waiting=max_waiting)


def names(batch: list[Waiting[str, str]]) -> str:
    return "".join(waiting.item for waiting in batch)


async def test_batches_are_cut_by_number_in_order() -> None:
    queue = make(max_items=3)
    await put(queue, *"abcde")
    assert [names(queue.take()), names(queue.take()), names(queue.take())] == ["abc", "de", ""]
    assert not queue


async def test_batches_are_cut_by_bytes_but_hold_one_item_at_least() -> None:
    queue = make(max_bytes=100)
    await put(queue, "a", "b", "c", size=50)
    await put(queue, "d", size=500)
    assert [names(queue.take()) for _ in range(3)] == ["ab", "c", "d"]


async def test_what_was_put_back_goes_before_everything_newer_in_its_old_order() -> None:
    queue = make(max_items=2)
    await put(queue, *"abcd")
    first, second = queue.take(), queue.take()
    await put(queue, "e")
    assert queue.put_back(second) == 2
    assert queue.put_back(first) == 2
    assert [names(queue.take()) for _ in range(3)] == ["ab", "cd", "e"]


async def test_what_has_its_result_is_neither_sent_nor_put_back() -> None:
    queue = make()
    a, b, _ = await put(queue, *"abc")
    a.future.cancel()
    batch = queue.take()
    assert names(batch) == "bc"
    b.future.set_result("done")
    assert queue.put_back(batch) == 1
    assert names(queue.take()) == "c"


async def test_the_bound_counts_what_is_in_flight_until_it_is_released() -> None:
    queue = make(max_waiting=2)
    await put(queue, *"ab")
    queue.take()
    with pytest.raises(Busy):
        await put(queue, "c")
    queue.release()
    await put(queue, "d")


async def test_late_ones_come_out_once_and_the_next_deadline_follows() -> None:
    queue = make()
    (a,) = await put(queue, "a", deadline=1.0)
    await put(queue, "b", deadline=2.0)
    assert queue.next_deadline() == 1.0
    assert queue.expire(now=0.9) == []
    assert queue.expire(now=1.0) == [a]
    assert queue.next_deadline() == 2.0
    assert names(queue.expire(now=3.0)) == "b"
    assert queue.next_deadline() is None


async def test_the_answered_are_forgotten() -> None:
    queue = make()
    a, b = await put(queue, *"ab")
    a.future.set_result("done")
    queue.forget_answered()
    assert queue.clear() == [b]
    assert queue.next_deadline() is None
