"""What goes to Redis leaves when the pace says so, all of it together."""

from __future__ import annotations

import asyncio

import pytest

from services.edge.adapters.redis.batch_sender import CHANNELS_PER_CALL
from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.channels.publisher import _RandomIds
from services.edge.domain.model import Publication
from services.shared.batching.linger import Linger
from tests.contract.test_broker import Listener, append
from tests.edge.adapters.brokers import queue_of
from tests.support.linger import BusyThread

WAIT_S = 0.2


class Busy(Linger):
    """Of an edge that has no time to spare."""

    def wait_s(self) -> float:
        return WAIT_S


async def test_a_busy_edge_waits_for_more_to_send(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = RedisBroker(redis_url)
    await broker.start(Listener(), lambda payload: None)
    await append(broker, "before")
    monkeypatch.setattr(queue_of(broker), "_linger", Busy(WAIT_S))
    loop = asyncio.get_running_loop()
    began = loop.time()
    results = await asyncio.gather(append(broker, "a"), append(broker, "b"))
    assert loop.time() - began >= WAIT_S - 0.002  # the loop's clock knows milliseconds
    assert [result.position.offset for result in results] == [2, 3]
    await broker.close()


async def test_how_much_left_says_whether_more_is_worth_a_wait(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = RedisBroker(redis_url)
    await broker.start(Listener(), lambda payload: None)
    for left, wait_s in ((1, 0.0), (100, WAIT_S)):
        busy = BusyThread(WAIT_S)
        monkeypatch.setattr(queue_of(broker), "_linger", busy.linger)
        busy.work(1.0)
        await asyncio.gather(*(append(broker, f"{left} {number}") for number in range(left)))
        assert busy.linger.wait_s() == pytest.approx(wait_s)
    await broker.close()


def test_no_two_publications_have_one_id() -> None:
    ids = _RandomIds()
    made = [ids.next() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    assert {len(each) for each in made} == {16}


async def test_more_channels_than_fit_into_one_call_are_all_answered(redis_url: str) -> None:
    broker = RedisBroker(redis_url)
    await broker.start(Listener(), lambda payload: None)
    names = [f"live:{number}" for number in range(3 * CHANNELS_PER_CALL // 2)]
    for offset in (1, 2):
        appends = [
            broker.append(name, Publication(b"{}"), key_user="", key="", history_size=10, history_ttl_s=60)
            for name in names
        ]
        results = await asyncio.gather(*appends)
        assert [result.position.offset for result in results] == [offset] * len(names)
    await broker.close()
