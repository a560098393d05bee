"""What a stream of appends is told: results as they come, what is in hand, and that somebody is at it."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from services.persistence import response_stream as answers
from services.persistence.domain.log import AppendedPosition, OutcomeCallback
from services.persistence.response_stream import ResponseStream
from services.shared.errors import Busy
from thalamus.common.v1 import common_pb2

ACKED = AppendedPosition(1, "e", False)


async def test_results_come_in_the_order_in_which_they_are_known_those_of_one_tick_together() -> None:
    said = ResponseStream()
    first, second = said.expect(3), said.expect(2)
    second(0, AppendedPosition(40, "e", False))
    first(2, AppendedPosition(20, "e", False))
    answer = await said.next()
    assert answer is not None
    assert [(result.item, result.position.offset) for result in answer.results] == [(3, 40), (2, 20)]
    assert answer.taken == 0
    second(1, Busy("x"))
    answer = await said.next()
    assert answer is not None
    assert [(result.item, result.status) for result in answer.results] == [(4, common_pb2.ITEM_STATUS_BUSY)]


async def test_a_batch_that_takes_long_is_said_to_be_in_hand_and_then_that_somebody_is_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "_KEEPALIVE_S", 0.1)
    said = ResponseStream()
    clock = asyncio.get_running_loop().time
    began = clock()
    said.expect(3)
    for taken_at in (0.02, 0.12, 0.22):
        answer = await said.next()
        assert answer is not None
        assert (answer.taken, len(answer.results)) == (3, 0)
        assert taken_at - 0.005 < clock() - began < taken_at + 0.08


async def test_results_of_others_do_not_keep_a_batch_from_being_said_to_be_in_hand() -> None:
    said = ResponseStream()
    said.expect(1)
    told = 0
    async with asyncio.timeout(2):
        while not told:
            said.expect(1)(0, ACKED)
            answer = await said.next()
            assert answer is not None
            told = answer.taken


async def test_nothing_is_said_while_nothing_is_open() -> None:
    said = ResponseStream()
    said.expect(1)(0, ACKED)
    await said.next()
    waiting = asyncio.create_task(said.next())
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    said.end()
    assert await waiting is None


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_item_has_one_result_and_then_it_ends(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    said = ResponseStream()
    sizes = [chance.randint(1, 5) for _ in range(20)]

    async def give() -> None:
        left: list[tuple[OutcomeCallback, int]] = []
        for size in sizes:
            left += itertools.product([said.expect(size)], range(size))
            await asyncio.sleep(0)
        said.end()
        chance.shuffle(left)
        for on_outcome, index in left:
            on_outcome(index, ACKED)
            if chance.random() < 0.5:
                await asyncio.sleep(0)

    giving = asyncio.create_task(give())
    found: list[int] = []
    while (answer := await said.next()) is not None:
        found += [result.item for result in answer.results]
    await giving
    assert sorted(found) == list(range(sum(sizes)))
