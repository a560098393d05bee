"""Connections of users on a real Redis: who is online, since when, last seen."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis.asyncio

from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import Enter, Lease, Leave, UserOnline, connections_of
from services.presence.domain.sweeper import sweep
from tests.presence.test_roster import EDGE, entering, leaving, roster, run_out

__all__ = ["roster"]  # a fixture
STATE = f"t:presence:{{{connections_of('ann')}}}:state"


def connecting(client: str, user: str = "ann", *, since_ms: int = 0, away: bool = False, grace_s: float = 0.0) -> Enter:
    options: dict[str, Any] = {"since_ms": since_ms, "away": away}
    return entering(client, user, channel=connections_of(user), announce=False, grace_s=grace_s, **options)


def ending(client: str, user: str = "ann", *, clean: bool = True) -> Leave:
    return leaving(client, channel=connections_of(user), clean=clean)


async def ann(roster: RedisRoster) -> UserOnline:
    (found,) = await roster.online(["ann"])
    return found


async def test_a_user_is_online_while_a_connection_is_open(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    assert await roster.online(["ann", "bob"]) == [UserOnline(0, False, 0, 0)] * 2
    now = int(1_000 * time.time())
    await roster.change(EDGE, [connecting("c1", since_ms=now - 5_000), connecting("c2", since_ms=now - 3_000)])
    assert await roster.online(["bob", "ann"]) == [UserOnline(0, False, 0, 0), UserOnline(2, False, now - 5_000, 0)]
    await roster.change(EDGE, [ending("c1")])
    assert await ann(roster) == UserOnline(1, False, now - 5_000, 0)  # without a pause since then
    assert await redis_conn.ttl(STATE) == -1
    await roster.change(EDGE, [ending("c2")])
    count, away, since_ms, last_seen_ms = await ann(roster)
    assert (count, away, since_ms) == (0, False, 0)
    assert abs(last_seen_ms - 1_000 * time.time()) < 5_000
    assert 29 * 86_400 < await redis_conn.ttl(STATE) <= 30 * 86_400
    await roster.change(EDGE, [connecting("c3", since_ms=now - 1_000)])
    assert await ann(roster) == UserOnline(1, False, now - 1_000, 0)
    assert await redis_conn.ttl(STATE) == -1


async def test_what_is_of_a_user_is_in_no_channel(roster: RedisRoster) -> None:
    await roster.change(EDGE, [connecting("c1")])
    assert (await roster.channels("ann", "", 10)).channels == []


async def test_a_user_is_away_when_all_connections_say_so(roster: RedisRoster) -> None:
    await roster.change(EDGE, [connecting("c1", away=True)])
    assert (await ann(roster)).away
    await roster.change(EDGE, [connecting("c2")])
    assert not (await ann(roster)).away
    await roster.change(EDGE, [connecting("c2", away=True)])
    assert (await ann(roster)).away
    await roster.change(EDGE, [connecting("c1")])
    assert not (await ann(roster)).away


async def test_a_time_that_has_not_come_is_not_taken(roster: RedisRoster) -> None:
    await roster.change(EDGE, [connecting("c1", since_ms=int(1_000 * time.time()) + 3_600_000)])
    assert abs((await ann(roster)).since_ms - 1_000 * time.time()) < 5_000


async def test_a_connection_that_broke_keeps_its_user_online_for_the_grace(roster: RedisRoster) -> None:
    now = int(1_000 * time.time())
    await roster.change(EDGE, [connecting("c1", since_ms=now - 9_000, grace_s=1.0)])
    await roster.change(EDGE, [ending("c1", clean=False)])
    await roster.change(EDGE, [connecting("c2", since_ms=now, grace_s=1.0)])
    assert await ann(roster) == UserOnline(1, False, now - 9_000, 0)
    await roster.change(EDGE, [ending("c2", clean=False)])
    assert (await ann(roster)).connections == 1
    await asyncio.sleep(1.05)  # Redis' own clock
    await sweep(roster)
    assert (await ann(roster)).connections == 0


async def test_the_end_of_a_grace_that_another_connection_took_is_not_when_the_user_was_seen(
    roster: RedisRoster,
) -> None:
    await roster.change(EDGE, [connecting("c1", grace_s=0.6)])
    await roster.change(EDGE, [ending("c1", clean=False)])
    await roster.change(EDGE, [connecting("c2")])
    await roster.change(EDGE, [ending("c2")])
    seen = await ann(roster)
    assert seen.last_seen_ms > 0
    await asyncio.sleep(0.65)  # Redis' own clock
    await sweep(roster)
    assert await ann(roster) == seen


@pytest.mark.parametrize("user", ["ann", "a\nb", "}{/u", "\u00e9" * 300])
async def test_the_connections_of_a_dead_edge_end_with_its_lease(roster: RedisRoster, user: str) -> None:
    dead = Lease("edge-dead", 1)
    assert (await roster.renew(dead, 60.0, held=False)).granted
    await roster.change(dead, [connecting("c1", user)])
    assert (await roster.online([user]))[0].connections == 1
    await run_out(roster, dead)
    await sweep(roster)
    ((connections, _, _, last_seen_ms),) = await roster.online([user])
    assert connections == 0
    assert last_seen_ms > 0


async def test_of_users_with_many_connections_the_answer_is_the_same(roster: RedisRoster) -> None:
    await roster.change(EDGE, [connecting(f"c{number}", away=True) for number in range(1_300)])
    assert (await ann(roster))[:2] == (1_300, True)


async def test_many_connections_of_a_user_are_in_no_order_and_leave_nothing_behind(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    names = [f"c{number}" for number in range(1_030)]
    for at in range(0, len(names), 200):
        await roster.change(EDGE, [connecting(name) for name in names[at : at + 200]])
    assert (await ann(roster)).connections == len(names)
    key = f"t:presence:{{{connections_of('ann')}}}"
    assert await redis_conn.keys(f"{key}*")
    assert not await redis_conn.exists(f"{key}:order")
    for at in range(0, len(names), 200):
        await roster.change(EDGE, [ending(name) for name in names[at : at + 200]])
    assert await redis_conn.keys(f"{key}*") == [f"{key}:state".encode()]


async def test_a_connection_whose_grace_is_over_leaves_nothing_behind(
    roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    await roster.change(EDGE, [connecting("c1", grace_s=0.05)])
    await roster.change(EDGE, [ending("c1", clean=False)])
    assert (await ann(roster)).connections == 1
    async with asyncio.timeout(30):
        while (await ann(roster)).connections:
            await sweep(roster)
            await asyncio.sleep(0.02)
    assert await redis_conn.keys(f"t:presence:{{{connections_of('ann')}}}*") == [STATE.encode()]
