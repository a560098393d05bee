"""An edge whose pub/sub has stalled is not ready until messages arrive again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.edge.adapters.redis.broker import RedisBroker
from services.edge.adapters.redis.self_check import PubSubSelfCheck
from services.edge.domain.model import ClientInfo, Publication
from services.shared.errors import Unavailable
from tests.edge.adapters.brokers import lose_subscriptions
from tests.support.redis import RedisServer
from tests.support.waiting import until


class Reconnects:
    """A listener that only counts."""

    count = 0

    def publication(self, channel: str, epoch: str, publication: Publication) -> None: ...

    def ephemeral(self, channel: str, publication: Publication) -> None: ...

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None: ...

    def updated(self, channel: str, infos: Sequence[ClientInfo]) -> None: ...

    def left(self, channel: str, info: ClientInfo) -> None: ...

    def was_reset(self, channel: str, epoch: str) -> None: ...

    def reconnected(self) -> None:
        self.count += 1


async def test_a_connection_that_answers_pings_but_hears_nothing_is_made_anew(own_redis: RedisServer) -> None:
    listener = Reconnects()
    broker = RedisBroker(own_redis.url, self_check_s=0.1)
    await broker.start(listener, lambda payload: None)
    try:
        await until(lambda: broker.is_ready)
        await asyncio.sleep(0.5)  # five probes come back: nothing happens
        before = listener.count
        stalled: list[bool] = []
        lose_subscriptions(broker)
        await until(lambda: stalled.append(not broker.is_ready) or listener.count > before)  # type: ignore[func-returns-value]
        await until(lambda: broker.is_ready)
        assert any(stalled)
    finally:
        await broker.close()


async def test_only_what_redis_took_counts_as_missed() -> None:
    taken = True
    gave_up: list[bool] = []

    async def publish(channel: str, payload: bytes) -> None:
        if not taken:
            raise Unavailable("away")

    self_check = PubSubSelfCheck(publish, lambda: gave_up.append(True))
    for _ in range(3):
        await self_check.probe()
    assert not gave_up
    await self_check.probe()
    assert gave_up == [True]
    assert self_check.stalled
    self_check.received(b"4")
    assert not self_check.stalled
    taken = False
    for _ in range(10):
        await self_check.probe()
    assert gave_up == [True]


async def test_what_comes_back_late_still_came_back() -> None:
    """A round trip that takes longer than their interval is slow, not stalled."""
    sent: list[bytes] = []
    gave_up: list[bool] = []

    async def publish(channel: str, payload: bytes) -> None:
        sent.append(payload)

    self_check = PubSubSelfCheck(publish, lambda: gave_up.append(True))
    for turn in range(20):
        await self_check.probe()
        if turn:
            self_check.received(sent[turn - 1])
    assert not gave_up
    assert not self_check.stalled


async def test_nothing_is_given_up_where_there_is_no_connection_yet() -> None:
    is_open = False
    gave_up: list[bool] = []

    async def publish(channel: str, payload: bytes) -> None: ...

    self_check = PubSubSelfCheck(publish, lambda: gave_up.append(True), is_open=lambda: is_open)
    for _ in range(10):
        await self_check.probe()
    assert not gave_up
    is_open = True
    for _ in range(3):
        await self_check.probe()
    assert not gave_up
    await self_check.probe()
    assert gave_up == [True]


async def test_an_edge_that_starts_before_redis_is_ready_once_redis_is(own_redis: RedisServer) -> None:
    own_redis.kill()
    broker = RedisBroker(own_redis.url, self_check_s=0.1)
    await broker.start(Reconnects(), lambda payload: None)  # gives up waiting after a while, and goes on trying
    try:
        own_redis.start()
        loop = asyncio.get_running_loop()
        since = [loop.time()]

        def has_stayed_ready() -> bool:  # for longer than it takes to miss too many probes
            if not broker.is_ready:
                since[0] = loop.time()
            return loop.time() - since[0] > 0.8

        await until(has_stayed_ready)
    finally:
        await broker.close()
