"""What a stream of appends is told.

Results as they come, what is in hand, and that somebody is at it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from services.persistence import response_stream as answers
from services.persistence.domain.outcomes import AppendedPosition, OutcomeCallback
from services.persistence.response_stream import MAX_ITEMS, of_appends
from services.shared.errors import Busy, ErrorCode, ThalamusError
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb

ACKED = AppendedPosition(1, "e", False)


async def test_results_come_in_the_order_in_which_they_are_known_those_of_one_tick_together() -> None:
    said = of_appends()
    first, second = said.expect(3), said.expect(2)
    second(0, AppendedPosition(40, "e", False))
    first(2, AppendedPosition(20, "e", False))
    response = await said.next()
    assert response is not None
    assert [(result.item, result.position.offset) for result in response.results] == [(3, 40), (2, 20)]
    assert response.taken == 0
    second(1, Busy("x"))
    response = await said.next()
    assert response is not None
    assert [(result.item, result.status) for result in response.results] == [(4, common_pb2.ITEM_STATUS_BUSY)]


async def test_a_batch_that_takes_long_is_said_to_be_in_hand_and_then_that_somebody_is_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "_KEEPALIVE_S", 0.1)
    said = of_appends()
    clock = asyncio.get_running_loop().time
    began = clock()
    said.expect(3)
    for taken_at in (0.02, 0.12, 0.22):
        response = await said.next()
        assert response is not None
        assert (response.taken, len(response.results)) == (3, 0)
        assert taken_at - 0.005 < clock() - began < taken_at + 0.08


async def test_results_of_others_do_not_keep_a_batch_from_being_said_to_be_in_hand() -> None:
    said = of_appends()
    said.expect(1)
    told = 0
    async with asyncio.timeout(30):
        while not told:
            said.expect(1)(0, ACKED)
            response = await said.next()
            assert response is not None
            told = response.taken


async def test_nothing_is_said_while_nothing_is_open() -> None:
    said = of_appends()
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
    said = of_appends()
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
    while (response := await said.next()) is not None:
        found += [result.item for result in response.results]
    await giving
    assert sorted(found) == list(range(sum(sizes)))


async def sent(batches: Sequence[pb.AppendBatch]) -> AsyncIterator[pb.AppendBatch]:
    for batch in batches:
        yield batch


def taken_at_once(batch: pb.AppendBatch, on_outcome: OutcomeCallback) -> None:
    for index in range(len(batch.items)):
        on_outcome(index, AppendedPosition(index + 1, "e", repeated_key=False))


async def all_of(responses: AsyncGenerator[pb.AppendResults, None]) -> list[pb.AppendResults]:
    async with aclosing(responses):
        return [response async for response in responses]


@pytest.mark.parametrize("many", [1, 2])
async def test_a_batch_with_too_many_items_ends_the_stream_and_none_of_them_is_taken(many: int) -> None:
    batches = [pb.AppendBatch(items=[pb.AppendItem()] * MAX_ITEMS)] * many
    taken: list[int] = []

    def take(batch: pb.AppendBatch, on_outcome: OutcomeCallback) -> None:
        taken.append(len(batch.items))
        taken_at_once(batch, on_outcome)

    too_many = pb.AppendBatch(items=[pb.AppendItem()] * (MAX_ITEMS + 1))
    with pytest.raises(ThalamusError) as refused:
        await all_of(of_appends().serve(sent([*batches, too_many]), take))
    assert refused.value.code is ErrorCode.BAD_REQUEST
    assert taken == [MAX_ITEMS] * many


async def test_nothing_is_taken_once_the_stream_is_closed() -> None:
    more = asyncio.Event()
    taken: list[int] = []

    async def slowly() -> AsyncIterator[pb.AppendBatch]:
        yield pb.AppendBatch(items=[pb.AppendItem()])
        await more.wait()
        yield pb.AppendBatch(items=[pb.AppendItem()])

    def take(batch: pb.AppendBatch, on_outcome: OutcomeCallback) -> None:
        taken.append(len(batch.items))
        taken_at_once(batch, on_outcome)

    async with aclosing(of_appends().serve(slowly(), take)) as responses:
        assert len((await anext(responses)).results) == 1
    more.set()
    await asyncio.sleep(0.01)
    assert taken == [1]
