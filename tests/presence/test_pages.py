"""Pages of members and of a user's channels, on a real Redis."""

from __future__ import annotations

import asyncio
import random

import pytest
import redis.asyncio

from services.presence.adapters import redis_queries
from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import Change
from tests.presence.test_roster import CHANNEL, EDGE, entering, leaving, roster
from thalamus.common.v1 import common_pb2

__all__ = ["roster"]  # a fixture
ORDER = f"t:presence:{{{CHANNEL}}}:order"


async def pages(roster: RedisRoster, limit: int, channel: str = CHANNEL) -> list[list[str]]:
    found, after = [], ""
    while True:
        page = await roster.page(channel, after, limit)
        found.append([common_pb2.ClientInfo.FromString(info).client for info in page.members])
        assert len(found[-1]) <= limit
        after = page.after
        if not after:
            return found


async def enter(roster: RedisRoster, names: list[str]) -> None:
    for at in range(0, len(names), 200):
        await roster.change(EDGE, [entering(name, f"u{name}") for name in names[at : at + 200]])


@pytest.mark.parametrize("count", [0, 1, 3, 6, 999, 1_000, 1_001, 1_500])
async def test_pages_hold_all_members_in_order(count: int, roster: RedisRoster) -> None:
    names = [f"c{number:x}" for number in random.Random(count).sample(range(1_000_000), count)]
    await enter(roster, names)
    for limit in (3, 1_000) if count < 100 else (100, 1_000):
        found = await pages(roster, limit)
        assert [name for page in found for name in page] == sorted(names)
        assert len(found) == max(1, -(-count // limit))


async def test_a_large_roster_stays_in_order_while_clients_come_and_go(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    names = {f"c{number}" for number in range(1_100)}
    await enter(roster, sorted(names))
    assert await redis_conn.zcard(ORDER) == 1_100
    rng = random.Random(1)
    for step in range(40):
        gone, new = rng.choice(sorted(names)), f"n{step}"
        await roster.change(EDGE, [leaving(gone), entering(new, new, grace_s=5.0)])
        names = names - {gone} | {new}
        if step % 4 == 0:  # its user is back within the grace, as another client
            await roster.change(EDGE, [leaving(new, clean=False), entering(f"again{step}", new)])
            names = names - {new} | {f"again{step}"}
    assert await redis_conn.zrange(ORDER, 0, -1) == [name.encode() for name in sorted(names)]  # a page would mend it
    assert [name for page in await pages(roster, 300) for name in page] == sorted(names)
    changes: list[Change] = [leaving(name) for name in sorted(names)[:-400]]
    await roster.change(EDGE, changes)
    assert await redis_conn.exists(ORDER) == 0
    assert [name for page in await pages(roster, 300) for name in page] == sorted(names)[-400:]


async def test_a_roster_that_an_earlier_version_changed_is_put_in_order(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    """It added and removed clients, and knew nothing of the order."""
    await enter(roster, [f"c{number:04}" for number in range(1_050)])
    key = f"t:presence:{{{CHANNEL}}}"
    entry = await redis_conn.hget(key, "c0000")
    assert entry is not None
    await redis_conn.hdel(key, "c0100", "c0200", "c0300")
    await redis_conn.hset(key, mapping=dict.fromkeys(("a1", "z1"), entry))
    expected = 1_050 - 3 + 2
    found = await redis_conn.hkeys(key)
    assert len(found) == expected
    page = await roster.page(CHANNEL, "", 1_000)
    assert page.after.encode() == sorted(found)[999]
    assert await redis_conn.zrange(ORDER, 0, -1) == sorted(found)
    # As many came as went: the count does not tell. Who is not there is found by the page that it is on.
    await redis_conn.hdel(key, "c0400")
    await redis_conn.hset(key, "b1", entry)
    await roster.page(CHANNEL, "", 1_000)
    assert await redis_conn.zcard(ORDER) == expected - 1
    await pages(roster, 1_000)
    assert await redis_conn.zrange(ORDER, 0, -1) == sorted(await redis_conn.hkeys(key))


async def test_a_roster_is_put_in_order_though_its_reader_gave_up(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_queries, "_SCAN", 10)
    await enter(roster, [f"c{number}" for number in range(1_100)])
    await redis_conn.delete(ORDER)
    asked = asyncio.create_task(roster.page(CHANNEL, "", 10))
    while not await redis_conn.exists(ORDER):
        await asyncio.sleep(0.001)
    asked.cancel()
    async with asyncio.timeout(30):
        while await redis_conn.zcard(ORDER) < 1_100:
            await asyncio.sleep(0.01)


async def test_a_page_ends_at_its_bytes_and_has_one_member_at_least(
    roster: RedisRoster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_queries, "_PAGE_BYTES", 1_000)
    await roster.change(
        EDGE, [entering(f"c{number}", "ann", data=b"x" * size) for number, size in enumerate((2_000, 300, 300, 950, 5))]
    )
    assert await pages(roster, 10) == [["c0"], ["c1", "c2"], ["c3"], ["c4"]]


async def test_a_page_of_a_large_roster_ends_at_its_bytes_too(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_queries, "_PAGE_BYTES", 10_000)
    names = [f"c{number:04}" for number in range(1_050)]
    await enter(roster, names)
    assert await redis_conn.zcard(ORDER) == len(names)
    found = await pages(roster, 1_000)
    assert [name for page in found for name in page] == names
    assert max(map(len, found)) < 10_000 / 20  # an entry has more than 20 bytes


async def channels(roster: RedisRoster, user: str, limit: int) -> list[str]:
    found, after = list[str](), ""
    while True:
        page = await roster.channels(user, after, limit)
        assert len(page.channels) <= limit
        found += page.channels
        after = page.after
        if not after:
            return found


async def test_the_channels_of_a_user_are_where_a_client_of_theirs_is(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    names = [f"chat:{number:02}" for number in range(12)]
    await roster.change(EDGE, [entering("c1", "ann", channel=name) for name in names])
    await roster.change(EDGE, [entering("c2", "ann", channel="chat:00"), entering("c3", "bob", channel="chat:b")])
    await roster.change(EDGE, [leaving("c1", channel=name) for name in names[:6]])
    assert await channels(roster, "ann", 3) == ["chat:00", *names[6:]]
    assert await redis_conn.zcard("t:presence:channels:ann") == 7
    assert await channels(roster, "bob", 1_000) == ["chat:b"]
    assert await channels(roster, "nobody", 1_000) == []


async def test_a_channel_that_a_service_of_an_earlier_version_took_a_user_from_is_not_listed(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    await roster.change(EDGE, [entering("c1", "ann"), entering("c1", "ann", channel="chat:other")])
    await redis_conn.delete(f"t:presence:{{{CHANNEL}}}", f"t:presence:{{{CHANNEL}}}:users")
    assert await channels(roster, "ann", 10) == ["chat:other"]
    assert await redis_conn.zcard("t:presence:channels:ann") == 1
    await roster.change(EDGE, [entering("c1", "ann")])
    assert await channels(roster, "ann", 10) == ["chat:other", CHANNEL]
