"""How long a `hot` log and its meta live.

From the last publish on, however rarely that is written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from services.shared.errors import Unavailable
from services.shared.hotlog import hot, hotlog, keys
from tests.support.scripts import run

CHANNEL = "live:ttl"
TTL_S, META_TTL_S = 1_600, 10_000
NOW_S = 1_800_000_000


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_url) as made:
        yield made


async def publish(client: redis.asyncio.Redis, ttl_s: int = TTL_S, size: int = 5, now_s: int = NOW_S) -> int:
    call = hot.append_call(
        [hot.HotBatch(CHANNEL, size, ttl_s, [(b"{}", "")])],
        edge="edge",
        fresh_epoch=hotlog.new_epoch(1),
        now_s=now_s,
        meta_ttl_s=META_TTL_S,
    )
    (reply,) = await run(client, [call])
    appended = hot.appended(reply)
    assert appended is not None
    (batch,) = appended.batches
    assert isinstance(batch, hot.HotAppended)
    return batch.offsets[0]


async def ttls_s(client: redis.asyncio.Redis) -> tuple[int, int]:
    """Seconds left of log and meta."""
    return await client.ttl(keys.log(CHANNEL)), await client.ttl(keys.meta(CHANNEL))


async def test_a_log_is_kept_for_its_time_and_a_sixteenth_at_most(client: redis.asyncio.Redis) -> None:
    await publish(client)
    log, meta = await ttls_s(client)
    assert TTL_S <= log <= TTL_S + 100
    assert META_TTL_S <= meta <= META_TTL_S + 100


async def test_a_log_that_has_used_up_the_sixteenth_is_renewed(client: redis.asyncio.Redis) -> None:
    await publish(client)
    await client.expire(keys.log(CHANNEL), 7)
    await publish(client)
    await publish(client, now_s=NOW_S + 99)
    assert (await ttls_s(client))[0] == 7  # within the sixteenth nothing is written
    for moved in (100, -60):  # time has passed; or the clock went back
        await publish(client, now_s=NOW_S + moved)
        assert (await ttls_s(client))[0] >= TTL_S
        await client.expire(keys.log(CHANNEL), 7)


async def test_another_time_to_live_counts_at_once(client: redis.asyncio.Redis) -> None:
    await publish(client, ttl_s=60)
    await publish(client, ttl_s=86_400)
    assert (await ttls_s(client))[0] >= 86_400
    await publish(client, ttl_s=5)  # a sixteenth of it is nothing: renewed every time
    assert (await ttls_s(client))[0] in (4, 5)


async def test_a_log_that_went_with_its_meta_is_kept_again(client: redis.asyncio.Redis) -> None:
    await publish(client)
    await client.delete(keys.log(CHANNEL), keys.meta(CHANNEL))
    await publish(client)
    assert min(await ttls_s(client)) > 0


async def test_no_more_is_kept_than_asked_for(client: redis.asyncio.Redis) -> None:
    for number in range(12):
        assert await publish(client) == number + 1
    assert await client.xlen(keys.log(CHANNEL)) == 5


async def test_a_channel_that_fails_fails_alone(client: redis.asyncio.Redis) -> None:
    """Another program's key is in the place of its meta.

    Keys and offsets of those behind it are their own.
    """
    broken, others = "live:broken", ["live:before", "live:behind"]
    await client.set(keys.meta(broken), "of another program")
    for expected in ([1, 2], [-1, 3]):
        batches = [
            hot.HotBatch(name, 5, TTL_S, [(b"{}", keys.key(name, "u", "k")), (b"{}", "")])
            for name in (others[0], broken, others[1])
        ]
        (reply,) = await run(
            client, [hot.append_call(batches, edge="edge", fresh_epoch=hotlog.new_epoch(1), now_s=NOW_S)]
        )
        appended = hot.appended(reply)
        assert appended is not None
        first, failed, last = appended.batches
        assert isinstance(failed, Unavailable)
        assert "WRONGTYPE" in str(failed)
        assert isinstance(first, hot.HotAppended)
        assert isinstance(last, hot.HotAppended)
        assert first.offsets == last.offsets == expected
        assert not await client.exists(keys.log(broken), keys.key(broken, "u", "k"))


async def test_every_call_counts_as_a_write_unless_it_is_refused(client: redis.asyncio.Redis) -> None:
    batches = [hot.HotBatch(name, 5, TTL_S, [(b"{}", keys.key(name, "u", "k"))]) for name in ("live:one", "live:two")]
    writes = []
    for _ in range(2):
        (reply,) = await run(
            client, [hot.append_call(batches, edge="edge", fresh_epoch=hotlog.new_epoch(1), now_s=NOW_S)]
        )
        appended = hot.appended(reply)
        assert appended is not None
        writes.append(appended.writes)
    assert writes == [1, 2]  # the second one too, though it found all of it there
    (reply,) = await run(
        client,
        [hot.append_call(batches, edge="edge", fresh_epoch=hotlog.new_epoch(1), now_s=NOW_S, writes=writes[1] + 1)],
    )
    assert hot.appended(reply) is None  # this Redis has gone back
    assert await client.hget(keys.observed(), "writes") == b"2"  # and the refused call is not counted
    assert await client.hget(keys.appends("edge"), "n") == b"2"
