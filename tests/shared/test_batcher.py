"""Batches of what many callers wait for: order, bounds, deadlines, linger.

The clock is the test's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from services.shared.batching.batcher import Batcher
from services.shared.batching.linger import Linger
from services.shared.errors import Busy, Unavailable
from tests.properties.manual_loop import ManualLoop, ticks

DEADLINE_S = 2.0


class Item:
    """An item, and what happened to it."""

    def __init__(self, number: int, size: int = 1) -> None:
        loop = asyncio.get_running_loop()
        self.number, self.size = number, size
        self.future: asyncio.Future[int] = loop.create_future()
        self.put_at = loop.time()
        self.done_at = -1.0
        self.future.add_done_callback(self._done)

    def _done(self, _: asyncio.Future[int]) -> None:
        self.done_at = asyncio.get_running_loop().time()

    def outcome(self) -> str:
        if not self.future.done():
            return "waits"
        if self.future.cancelled():
            return "cancelled"
        return "late" if self.future.exception() else "answered"


class FixedLinger(Linger):
    """The same wait after every batch."""

    def __init__(self, wait: float) -> None:
        super().__init__(0.0)
        self.wait = wait
        self.next_at = 0.0

    def began(self, items: int) -> None:
        self.next_at = asyncio.get_running_loop().time() + self.wait

    def wait_s(self) -> float:
        return max(0.0, self.next_at - asyncio.get_running_loop().time())


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        runner.run(test())


def make(
    on_due: Callable[[], None] = lambda: None,
    *,
    max_items: int = 3,
    max_bytes: int = 100,
    max_waiting: int = 100,
    counts_taken: bool = False,
    linger: Linger | None = None,
) -> Batcher[Item]:
    return Batcher(
        on_due,
        max_items=max_items,
        max_bytes=max_bytes,
        size=lambda item: item.size,
        max_waiting=max_waiting,
        counts_taken=counts_taken,
        deadline_s=DEADLINE_S,
        late=lambda: Unavailable("late"),
        linger=linger or Linger(0.0),
    )


def put(batcher: Batcher[Item], *numbers: int, size: int = 1) -> list[Item]:
    items = [Item(number, size) for number in numbers]
    for item in items:
        batcher.put(item)
    return items


def numbers(batch: list[Item]) -> list[int]:
    return [item.number for item in batch]


def test_batches_are_cut_by_number_in_order() -> None:
    async def test() -> None:
        batcher = make(max_items=3)
        put(batcher, *range(5))
        assert [numbers(batcher.take()) for _ in range(3)] == [[0, 1, 2], [3, 4], []]
        assert not batcher

    run(test)


def test_batches_are_cut_by_bytes_but_have_one_item_at_least() -> None:
    async def test() -> None:
        batcher = make(max_bytes=100)
        put(batcher, 0, 1, 2, size=50)
        put(batcher, 3, size=500)
        assert [numbers(batcher.take()) for _ in range(3)] == [[0, 1], [2], [3]]

    run(test)


def test_what_is_put_back_leaves_first_and_in_its_order() -> None:
    async def test() -> None:
        batcher = make(max_items=2)
        put(batcher, *range(4))
        first, second = batcher.take(), batcher.take()
        put(batcher, 4)
        assert batcher.put_back(second) == 2
        assert batcher.put_back(first) == 2
        assert [numbers(batcher.take()) for _ in range(3)] == [[0, 1], [2, 3], [4]]

    run(test)


def test_what_has_a_result_is_neither_taken_nor_put_back() -> None:
    async def test() -> None:
        batcher = make()
        given_up, answered, _ = put(batcher, 0, 1, 2)
        given_up.future.cancel()
        batch = batcher.take()
        assert numbers(batch) == [1, 2]
        answered.future.set_result(1)
        assert batcher.put_back(batch) == 1
        assert numbers(batcher.take()) == [2]

    run(test)


@pytest.mark.parametrize("counts_taken", [False, True])
def test_more_than_the_bound_is_busy(counts_taken: bool) -> None:
    async def test() -> None:
        batcher = make(max_waiting=2, counts_taken=counts_taken)
        first, _ = put(batcher, 0, 1)
        with pytest.raises(Busy):
            put(batcher, 2)
        batcher.take()
        if counts_taken:
            with pytest.raises(Busy):
                put(batcher, 3)
            first.future.set_result(0)
            await ticks(1)
        put(batcher, 4)

    run(test)


@pytest.mark.parametrize("counts_taken", [False, True])
def test_who_gave_up_does_not_make_it_full(counts_taken: bool) -> None:
    async def test() -> None:
        batcher = make(max_waiting=3, counts_taken=counts_taken)
        put(batcher, 0)
        await asyncio.sleep(DEADLINE_S / 2)
        _, given_up = put(batcher, 1, 2)
        with pytest.raises(Busy):
            put(batcher, 3)
        await asyncio.sleep(DEADLINE_S / 2)  # 0 is late
        await ticks(2)
        put(batcher, 4)
        given_up.future.cancel()  # not the oldest one
        await ticks(2)
        put(batcher, 5)
        with pytest.raises(Busy):
            put(batcher, 6)
        assert numbers(batcher.take()) == [1, 4, 5]

    run(test)


def test_a_long_queue_of_those_who_gave_up_is_looked_through_now_and_then() -> None:
    async def test() -> None:
        batcher = make(max_waiting=2_000)
        for item in put(batcher, *range(2_000))[1:]:
            item.future.cancel()
        refused = 0
        while True:
            try:
                put(batcher, 2_000)
                break
            except Busy:
                refused += 1
        assert refused < 2_000 / 16
        assert len(batcher) == 2

    run(test)


def test_a_batch_is_due_once_for_all_that_arrives_in_one_iteration() -> None:
    async def test() -> None:
        due: list[list[int]] = []
        batcher = make(lambda: due.append(numbers(batcher.take())))
        put(batcher, 0, 1)
        assert due == []
        await ticks(2)
        assert due == [[0, 1]]
        batcher.wake()  # nothing waits
        await ticks(2)
        assert due == [[0, 1]]

    run(test)


def test_after_a_batch_the_next_one_waits_for_the_linger_and_no_longer() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        due: list[tuple[float, list[int]]] = []
        batcher = make(lambda: due.append((loop.time(), numbers(batcher.take()))), linger=FixedLinger(0.01))
        put(batcher, 0)
        await ticks(2)
        put(batcher, 1)
        await asyncio.sleep(0.005)
        put(batcher, 2)
        assert due == [(0.0, [0])]
        await asyncio.sleep(0.1)
        assert due[1][0] == pytest.approx(0.01)
        assert due[1][1] == [1, 2]

    run(test)


def test_each_has_its_own_deadline_taken_or_not() -> None:
    async def test() -> None:
        batcher = make(max_items=1)
        first, second = put(batcher, 0, 1)
        assert batcher.take() == [first]
        await asyncio.sleep(0.5)
        (later,) = put(batcher, 2)
        await asyncio.sleep(DEADLINE_S - 0.5)
        assert [first.outcome(), second.outcome(), later.outcome()] == ["late", "late", "waits"]
        await asyncio.sleep(0.5)
        assert later.outcome() == "late"
        assert later.done_at == pytest.approx(DEADLINE_S + 0.5)
        assert batcher.take() == []

    run(test)


def test_what_is_done_is_not_kept() -> None:
    async def test() -> None:
        def answer() -> None:
            for item in batcher.take():
                item.future.set_result(item.number)

        batcher = make(answer)
        for number in range(1_000):
            put(batcher, number)
            await ticks(1)
        assert len(batcher._deadlines) <= 2  # noqa: SLF001  # what is kept shows nowhere else

    run(test)


def test_at_the_end_everyone_who_waits_is_told() -> None:
    async def test() -> None:
        batcher = make()
        taken, answered, untaken = put(batcher, 0, 1, 2)
        batcher.take()
        answered.future.set_result(1)
        batcher.close(lambda: Unavailable("the end"))
        for item in (taken, untaken):
            with pytest.raises(Unavailable, match="the end"):
                await item.future
        assert await answered.future == 1
        await asyncio.sleep(DEADLINE_S)  # no timer is left to fail anything again

    run(test)


class Schedule:
    """Puts, answers, failures and callers that give up, at random.

    What must hold of every batch.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.max_items, self.max_bytes = rng.randint(1, 6), rng.randint(10, 60)
        self.max_waiting, self.counts_taken = rng.randint(3, 25), rng.random() < 0.5
        self.room = rng.randint(1, 4)
        self.linger = FixedLinger(rng.choice([0.0, 0.005, 0.05]))
        self.batcher = make(
            self.flush,
            max_items=self.max_items,
            max_bytes=self.max_bytes,
            max_waiting=self.max_waiting,
            counts_taken=self.counts_taken,
            linger=self.linger,
        )
        self.items: list[Item] = []
        self.under_way: list[list[Item]] = []
        self.put_back: set[int] = set()  # numbers of items that may be taken once more
        self.newest = -1  # highest number that was taken
        self.refused = 0

    def flush(self) -> None:
        while len(self.under_way) < self.room and (batch := self.batcher.take()):
            self.check(batch)
            self.under_way.append(batch)

    def check(self, batch: list[Item]) -> None:
        found = numbers(batch)
        assert len(batch) <= self.max_items
        assert len(batch) == 1 or sum(item.size for item in batch) <= self.max_bytes
        assert not any(item.future.done() for item in batch), "nobody waits for it"
        assert found == sorted(set(found)), "out of order, or twice in one batch"
        again, new = self.put_back & set(found), set(found) - self.put_back
        assert all(number > self.newest for number in new), "taken twice, or overtaken"
        passed_over = range(self.newest + 1, max(new, default=self.newest))
        assert all(number in new or self.items[number].future.done() for number in passed_over), "lost"
        still = [number for number in self.put_back - again if not self.items[number].future.done()]
        assert not (still and new), "what was put back leaves first"
        self.put_back -= again
        self.newest = max(self.newest, *found)

    def step(self) -> None:
        rng = self.rng
        choice = rng.random()
        if choice < 0.6:
            self.put()
        elif choice < 0.85 and self.under_way:
            batch = self.under_way.pop(rng.randrange(len(self.under_way)))
            for item in batch:
                if not item.future.done():
                    item.future.set_result(item.number)
            self.batcher.wake()
        elif choice < 0.9 and self.under_way:  # the newest batches first, as from a stream that broke
            batch = self.under_way.pop()
            waited_for = [item for item in batch if not item.future.done()]
            if self.newest == batch[-1].number:
                self.put_back |= set(numbers(waited_for))
                assert self.batcher.put_back(batch) == len(waited_for)
            else:
                self.under_way.append(batch)
        elif self.items:
            rng.choice(self.items[-10:]).future.cancel()

    def put(self) -> None:
        waiting = sum(
            not item.future.done()
            for item in self.items
            if self.counts_taken or item.number > self.newest or item.number in self.put_back
        )
        item = Item(len(self.items), self.rng.randint(1, 40))
        try:
            self.batcher.put(item)
        except Busy:
            self.refused += 1
            assert waiting >= self.max_waiting
        else:
            assert waiting < self.max_waiting
            self.items.append(item)


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_lost_doubled_overtaken_or_late(seed: int) -> None:
    async def test() -> None:
        schedule = Schedule(seed)
        for _ in range(300):
            for _ in range(schedule.rng.randint(1, 4)):
                schedule.step()
                await ticks(1)  # done callbacks run
            await asyncio.sleep(schedule.rng.choice([0.0, 0.001, 0.01, 0.1, 0.7]))
            await ticks(1)  # timers of this moment run
            now = asyncio.get_running_loop().time()
            for item in schedule.items:
                assert item.future.done() or now < item.put_at + DEADLINE_S, f"item {item.number} waits too long"
            if len(schedule.under_way) < schedule.room and len(schedule.batcher):
                await asyncio.sleep(schedule.linger.wait)
                await ticks(2)
                assert len(schedule.under_way) == schedule.room or not len(schedule.batcher), "a batch was forgotten"
        await asyncio.sleep(DEADLINE_S)
        await ticks(2)
        outcomes = [item.outcome() for item in schedule.items]
        assert "waits" not in outcomes
        for item, outcome in zip(schedule.items, outcomes, strict=True):
            if outcome == "late":
                assert item.done_at == pytest.approx(item.put_at + DEADLINE_S)
            if outcome == "answered":
                assert item.future.result() == item.number
        assert {"answered", "cancelled"} <= set(outcomes)

    try:
        run(test)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error


def test_the_schedules_reach_every_case() -> None:
    seen: set[str] = set()

    async def test(seed: int) -> None:
        schedule = Schedule(seed)
        for _ in range(300):
            schedule.step()
            await asyncio.sleep(schedule.rng.choice([0.0, 0.01, 0.7]))
        seen.update(item.outcome() for item in schedule.items)
        seen.update(["refused"] * bool(schedule.refused))
        seen.update(["put back"] * bool(schedule.put_back))

    for seed in range(20):
        run(lambda seed=seed: test(seed))  # type: ignore[misc]
    assert seen >= {"answered", "late", "cancelled", "refused", "put back"}
