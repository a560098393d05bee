"""A running Redis becomes an older copy while appends of an edge are under way.

No position is acknowledged twice.

A TCP proxy delays what goes either way, so that several batches leave before the first one is answered.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.model import AppendResult, Publication
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from tests.edge.adapters.brokers import generation
from tests.edge.adapters.test_incarnation_watch import Store, append, dump, store
from tests.edge.adapters.test_self_check import Reconnects
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

__all__ = ["store"]  # fixture

CHANNEL, OTHER = "live:under-way", "live:other"
DELAY_S = 0.4
Place = tuple[str, int]


@pytest.fixture
async def proxy(own_redis: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", own_redis.port) as made:
        yield made


@pytest.fixture
async def broker(own_redis: RedisServer, store: Store, proxy: TcpProxy) -> AsyncIterator[RedisBroker]:
    made = RedisBroker(own_redis.url.replace(str(own_redis.port), str(proxy.port)))
    await made.start(Reconnects(), lambda payload: None)
    await until(lambda: made.is_ready)
    yield made
    proxy.delay_s = 0.0
    await made.close()


def begin(broker: RedisBroker, data: str, *, keyed: bool) -> asyncio.Future[AppendResult]:
    publication = Publication(data.encode(), None, {}, os.urandom(16), "", 1)
    key = data if keyed else ""
    return broker.append(CHANNEL, publication, key_user="u", key=key, history_size=100, history_ttl_s=60)


async def become(client: redis.asyncio.Redis, dumped: list[tuple[Any, bytes]]) -> None:
    """The same run has older data from now on, and connections stay."""
    async with client.pipeline(transaction=True) as restored:
        restored.flushall()
        for name, value in dumped:
            restored.restore(name, 0, value)
        await restored.execute()


@pytest.mark.parametrize("seed", range(6))
async def test_no_position_is_acknowledged_twice(
    seed: int, own_redis: RedisServer, store: Store, proxy: TcpProxy, broker: RedisBroker
) -> None:
    rng = random.Random(seed)
    print("seed", seed)
    before = [(await append(broker, f"before {number}", CHANNEL)).position for number in range(rng.randint(1, 4))]
    other = RedisBroker(own_redis.url)
    await other.start(Reconnects(), lambda payload: None)
    await until(lambda: other.is_ready)
    executed, behind = rng.randint(1, 2), rng.randint(1, 2)
    makes_up = rng.randint(0, executed) if seed % 2 else 0  # writes of another edge, which count as well
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        older = await dump(own_redis)
        proxy.delay_s = DELAY_S
        sent: list[asyncio.Future[AppendResult]] = []
        for number in range(executed):
            sent.append(begin(broker, f"executed {number}", keyed=rng.random() < 0.5))
            await asyncio.sleep(0.01)  # a batch of its own
        async with asyncio.timeout(30):
            while int(await client.hget(keys.meta(CHANNEL), "top") or 0) < len(before) + executed:
                await asyncio.sleep(0.005)
        for number in range(behind):
            sent.append(begin(broker, f"behind {number}", keyed=rng.random() < 0.5))
            await asyncio.sleep(0.01)
        assert not any(one.done() for one in sent), "all are under way"
        await become(client, older)
        for number in range(makes_up):
            await append(other, f"other {number}", OTHER)
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        proxy.delay_s = 0.0
    given = [(one.position.epoch, one.position.offset) for one in outcomes if isinstance(one, AppendResult)]
    assert all(isinstance(one, AppendResult | Unavailable) for one in outcomes)
    assert len(given) >= executed, "what was executed before is acknowledged"
    later = [(await append(broker, f"later {number}", CHANNEL)).position for number in range(2)]
    places: list[Place] = [(one.epoch, one.offset) for one in (*before, *later)] + given
    assert len(set(places)) == len(places)
    assert later[0].epoch != before[0].epoch, "the loss is told"
    assert later[0].epoch == later[1].epoch, "and told once"
    await other.close()


async def test_an_answer_that_waits_for_a_script_refuses_nothing(
    own_redis: RedisServer, store: Store, broker: RedisBroker
) -> None:
    """A batch with a read whose script is unknown is answered after later ones.

    It has an earlier number.
    """
    began = generation(broker)
    rng = random.Random(7)
    await append(broker, "first", CHANNEL)
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        for number in range(60):
            if rng.random() < 0.3:
                await client.script_flush()
            work: list[Any] = []
            for part in range(4):
                work.append(asyncio.ensure_future(begin(broker, f"{number} {part}", keyed=False)))
                if rng.random() < 0.5:
                    work.append(asyncio.ensure_future(broker.top(CHANNEL)))
                if rng.random() < 0.5:
                    read = broker.read(CHANNEL, since_offset=0, limit=1, reverse=False, stored=False, max_bytes=1 << 20)
                    work.append(asyncio.ensure_future(read))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                if rng.random() < 0.3:
                    await client.script_flush()
            for outcome in await asyncio.gather(*work, return_exceptions=True):  # a script may be flushed twice
                assert not isinstance(outcome, Exception) or "NOSCRIPT" in str(outcome)
    assert generation(broker) == began
