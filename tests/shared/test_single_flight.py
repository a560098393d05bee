"""Work that is done once for all who ask for it at the same time."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from services.shared.errors import Unavailable
from services.shared.process.single_flight import SingleFlight


class Work:
    """Counts how often it was started, and ends when it is told to."""

    def __init__(self) -> None:
        self.started = 0
        self.may_end = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> int:
        self.started += 1
        number = self.started
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return number


async def asking(flights: SingleFlight[int], key: str, work: Work, callers: int = 1) -> list[asyncio.Task[int]]:
    """Tasks that ask and wait."""
    tasks = [asyncio.create_task(flights.do(key, work)) for _ in range(callers)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_all_who_ask_meanwhile_get_the_result_of_one() -> None:
    flights, work = SingleFlight[int](), Work()
    waiting = await asking(flights, "a", work, callers=5)
    assert "a" in flights
    work.may_end.set()
    assert await asyncio.gather(*waiting) == [1] * 5
    assert "a" not in flights


async def test_keys_do_not_share() -> None:
    flights, work = SingleFlight[int](), Work()
    waiting = [*await asking(flights, "a", work), *await asking(flights, "b", work)]
    work.may_end.set()
    assert await asyncio.gather(*waiting) == [1, 2]


async def test_who_asks_after_the_end_starts_it_anew() -> None:
    flights, work = SingleFlight[int](), Work()
    work.may_end.set()
    assert [await flights.do("a", work), await flights.do("a", work)] == [1, 2]


async def test_it_goes_on_for_others_when_a_caller_gives_up() -> None:
    flights, work = SingleFlight[int](), Work()
    first, second = await asking(flights, "a", work, callers=2)
    first.cancel()
    await asyncio.wait([first])
    (late,) = await asking(flights, "a", work)
    work.may_end.set()
    assert [await second, await late] == [1, 1]


async def test_a_failure_is_raised_to_all_and_kept_for_nobody() -> None:
    flights, work = SingleFlight[int](), Work()
    work.failure = Unavailable("no")
    waiting = await asking(flights, "a", work, callers=3)
    work.may_end.set()
    for each in waiting:
        with pytest.raises(Unavailable, match="no"):
            await each
    work.failure = None
    assert await flights.do("a", work) == 2


async def test_a_failure_that_nobody_waits_for_any_more_is_not_reported_as_forgotten() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    flights, work = SingleFlight[int](), Work()
    work.failure = Unavailable("no")
    (given_up,) = await asking(flights, "a", work)
    given_up.cancel()
    await asyncio.wait([given_up])
    del given_up  # its traceback knows the work
    work.may_end.set()
    while "a" in flights:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert reported == []


async def test_what_the_work_starts_does_not_find_it_under_way_after_its_end() -> None:
    flights = SingleFlight[int]()
    found: list[bool] = []

    async def look() -> None:
        found.append("a" in flights)

    started: list[asyncio.Task[None]] = []

    async def work() -> int:
        started.append(asyncio.create_task(look()))
        return 1

    await flights.do("a", work)
    await asyncio.gather(*started)
    assert found == [False]


async def test_a_task_that_is_cancelled_before_it_begins_is_forgotten() -> None:
    flights = SingleFlight[int]()

    async def work() -> int:
        return 1

    caller = asyncio.create_task(flights.do("a", work, name="the work"))
    await asyncio.sleep(0)  # the caller has created the task, which has not begun
    (task,) = (one for one in asyncio.all_tasks() if one.get_name() == "the work")
    task.cancel()
    await asyncio.wait([caller])
    assert "a" not in flights
    assert await flights.do("a", work) == 1
