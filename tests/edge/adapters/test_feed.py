"""Publications of `hot` channels in the feed, if their namespace asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.model import AppendResult, ClientInfo, Publication
from services.shared.feed.events import Event
from services.shared.hotlog import keys
from tests.contract.test_broker import Listener
from tests.support.feed import publications_told

ANN = ClientInfo("änn", "c1")


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[RedisBroker]:
    made = RedisBroker(redis_url, feed_max_entries=1_000)
    await made.start(Listener(), lambda payload: None)
    yield made
    await made.close()


def append(
    broker: RedisBroker, channel: str, *, info: ClientInfo | None = ANN, feed: bool = True, key: str = ""
) -> asyncio.Future[AppendResult]:
    publication = Publication(b"{}", info)
    return broker.append(channel, publication, key_user="u", key=key, history_size=10, history_ttl_s=60, feed=feed)


async def told(client: redis.asyncio.Redis) -> dict[str, list[Event]]:
    """Events of all streams, by channel."""
    found: dict[str, list[Event]] = {}
    for event in await publications_told(client):
        found.setdefault(event.channel, []).append(event)
    return found


async def test_each_publication_is_told_once_with_its_position(
    broker: RedisBroker, redis_conn: redis.asyncio.Redis
) -> None:
    names = [f"live:{number}" for number in range(100)]  # in two calls
    results = await asyncio.gather(*(append(broker, name) for name in [*names, *names]))
    found = await told(redis_conn)
    assert sorted(found) == sorted(names)
    for name, result in zip([*names, *names], results, strict=True):
        event = found[name][result.position.offset - 1]
        assert (event.number, event.epoch, event.user) == (result.position.offset, result.position.epoch, "änn")
        time_ms = await redis_conn.time()
        assert 0 <= time_ms[0] * 1000 + 999 - event.time_ms < 60_000


async def test_only_namespaces_that_ask_are_told_of(broker: RedisBroker, redis_conn: redis.asyncio.Redis) -> None:
    plain, asks = append(broker, "plain:1", feed=False), append(broker, "live:1", info=None)
    await asyncio.gather(plain, asks)
    found = await told(redis_conn)
    assert [(event.number, event.user) for event in found.pop("live:1")] == [(1, "")]
    assert not found


async def test_a_repeat_with_the_key_is_not_told_again(broker: RedisBroker, redis_conn: redis.asyncio.Redis) -> None:
    first = await append(broker, "live:1", key="k")
    again, other = await asyncio.gather(append(broker, "live:1", key="k"), append(broker, "live:1", key="l"))
    assert again.position == first.position
    assert [event.number for event in (await told(redis_conn))["live:1"]] == [1, other.position.offset]


async def test_the_stream_is_cut(broker: RedisBroker, redis_conn: redis.asyncio.Redis) -> None:
    for _ in range(5):
        await asyncio.gather(*(append(broker, "live:1") for _ in range(400)))
    kept = (await told(redis_conn))["live:1"]
    assert 1_000 <= len(kept) <= 1_100
    assert kept[-1].number == 2_000


async def test_a_channel_that_fails_is_not_told_and_the_others_are(
    broker: RedisBroker, redis_conn: redis.asyncio.Redis
) -> None:
    await redis_conn.set(keys.meta("live:bad"), "not a hash")
    results = await asyncio.gather(
        *(append(broker, name) for name in ("live:1", "live:bad", "live:2")), return_exceptions=True
    )
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
    assert set(await told(redis_conn)) == {"live:1", "live:2"}
