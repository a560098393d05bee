"""Updates of members, and joins and leaves by user, on a real Redis."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio

from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import ALL_EVENTS, Change, Lease, Lost
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.presence.events import kinds
from tests.presence.test_roster import CHANNEL, EDGE, Ear, ear, entering, leaving, members, roster
from thalamus.common.v1 import common_pb2

__all__ = ["ear", "roster"]  # fixtures


async def infos(roster: RedisRoster) -> dict[str, bytes]:
    found = [common_pb2.ClientInfo.FromString(info) async for page in roster.members(CHANNEL) for info in page]
    return {info.client: info.chan_info for info in found}


async def test_an_update_is_told_once_and_only_what_is_new(roster: RedisRoster, ear: Ear) -> None:
    await roster.change(EDGE, [entering("c1", "ann", data=b"1"), entering("c2", "bob")])
    update = entering("c1", "ann", data=b"2", updated=True)
    await roster.change(EDGE, [update])
    await roster.change(EDGE, [update, entering("c2", "bob", updated=True)])  # a repeat, and one that changes nothing
    assert await infos(roster) == {"c1": b"2", "c2": b""}
    assert await ear.listen() == ["+c1", "+c2", "~c1=2"]


async def test_an_info_that_is_replaced_without_an_update_is_not_told(roster: RedisRoster, ear: Ear) -> None:
    await roster.change(EDGE, [entering("c1", "ann", data=b"1"), entering("c1", "ann", data=b"2")])
    assert await infos(roster) == {"c1": b"2"}
    assert await ear.listen() == ["+c1"]


async def test_an_update_of_who_is_not_there_is_a_join(roster: RedisRoster, ear: Ear) -> None:
    """The edge had not sent the join yet."""
    await roster.change(EDGE, [entering("c1", "ann", data=b"2", updated=True)])
    assert await ear.listen() == ["+c1"]


async def test_an_update_of_a_member_that_redis_lost_is_told(roster: RedisRoster, ear: Ear) -> None:
    await roster.change(EDGE, [entering("c1", "ann", data=b"2", updated=True, known=True)])
    assert await ear.listen() == ["~c1=2"]


async def test_an_update_of_a_silent_member_is_not_told(roster: RedisRoster, ear: Ear) -> None:
    first, second = (entering("c1", "ann", announce=False, data=data, updated=True) for data in (b"1", b"2"))
    await roster.change(EDGE, [first, second])
    assert await infos(roster) == {"c1": b"2"}
    assert await ear.listen() == []


async def test_by_user_the_first_join_and_the_last_leave_are_told_and_every_update(
    roster: RedisRoster, ear: Ear
) -> None:
    tabs = [entering(f"c{number}", "ann", by_user=True) for number in range(3)]
    await roster.change(EDGE, tabs)
    await roster.change(EDGE, [entering("c1", "ann", by_user=True, data=b"1", updated=True)])
    await roster.change(EDGE, [leaving("c0"), leaving("c2")])
    assert await roster.stats([CHANNEL]) == [(1, 1)]
    await roster.change(EDGE, [leaving("c1")])
    assert await ear.listen() == ["+c0", "~c1=1", "-c1"]


async def test_by_user_the_anonymous_are_told_of_one_by_one(roster: RedisRoster, ear: Ear) -> None:
    await roster.change(EDGE, [entering("c1", "", by_user=True), entering("c2", "", by_user=True)])
    await roster.change(EDGE, [leaving("c1"), leaving("c2")])
    assert await ear.listen() == ["+c1", "+c2", "-c1", "-c2"]


async def test_by_user_a_lost_member_leaves_unseen_if_the_user_is_there(roster: RedisRoster, ear: Ear) -> None:
    def lost(client: str, user: str) -> Lost:
        info = common_pb2.ClientInfo(user=user, client=client).SerializeToString()
        return Lost(info, user, told=True, events=0, by_user=True)

    await roster.change(EDGE, [entering("c1", "ann", by_user=True)])
    await roster.change(EDGE, [replace(leaving("c2"), lost=lost("c2", "ann"))])
    await roster.change(EDGE, [replace(leaving("c3"), lost=lost("c3", "bob"))])
    assert await ear.listen() == ["+c1", "-c3"]


async def test_what_enters_late_under_a_lease_that_is_over_enters_nothing(roster: RedisRoster, ear: Ear) -> None:
    """Else a join could be told after the leave, which the next generation brought."""
    newer = Lease(EDGE.edge, EDGE.generation + 1)
    await roster.change(EDGE, [entering("c1", "ann")])
    assert (await roster.renew(newer, 60.0, held=False)).granted
    assert await roster.change(newer, [leaving("c1")])
    assert not await roster.change(EDGE, [entering("c1", "ann")])
    assert not await roster.change(Lease("nobody", 1), [entering("c1", "ann")])
    assert await members(roster) == {}
    assert await ear.listen() == ["+c1", "-c1"]


async def test_what_came_with_events_leaves_with_events(roster: RedisRoster, redis_conn: redis.asyncio.Redis) -> None:
    """Though an edge whose configuration is another one entered it last."""
    options: dict[str, Any] = {"events": ALL_EVENTS, "grace_s": 5.0}
    changes: list[Change] = [entering("c1", "ann", **options), entering("c1", "ann", grace_s=5.0), leaving("c1")]
    await roster.change(EDGE, changes)
    first = entering("c2", "bob", channel="chat:b", by_user=True, **options)
    await roster.change(EDGE, [first, leaving("c2", channel="chat:b", clean=False)])
    await roster.change(EDGE, [entering("c3", "bob", channel="chat:b", by_user=True), leaving("c3", channel="chat:b")])
    assert await kinds(redis_conn, CHANNEL) == ["occupied", "join c1", "leave c1", "vacated"]
    assert await kinds(redis_conn, "chat:b") == ["occupied", "join c2", "leave c3", "vacated"]


async def test_a_stream_of_events_is_bounded(redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis) -> None:
    roster = RedisRoster(redis_pipeline, feed_max_entries=100)
    assert (await roster.renew(EDGE, 60.0, held=False)).granted
    await roster.change(EDGE, [entering(f"c{number}", "ann", events=ALL_EVENTS) for number in range(900)])
    assert 100 <= await redis_conn.xlen(keys.lifecycle(keys.feed_shard(CHANNEL))) < 400
    number = await redis_conn.get(f"t:presence:{{{CHANNEL}}}:number")
    assert number is not None
    assert abs(int(number) - 901 - 1_000 * time.time()) < 60_000
    assert 29 * 86_400 < await redis_conn.ttl(f"t:presence:{{{CHANNEL}}}:number") <= 30 * 86_400


@pytest.mark.parametrize("kept", range(32))
async def test_only_the_events_are_written_that_were_asked_for(
    kept: int, roster: RedisRoster, redis_conn: redis.asyncio.Redis
) -> None:
    """Each alone and with every other one; also of the anonymous."""
    for user in ("ann", ""):
        channel = f"chat:{user}x"
        newer = Lease("edge-z", 1 if user else 2)
        assert (await roster.renew(newer, 60.0, held=False)).granted
        first, second = (
            entering("c1", user, channel=channel, events=kept, data=data, updated=True) for data in (b"1", b"2")
        )
        await roster.change(newer, [first, second, second, leaving("c1", channel=channel)])
        bits = {"occupied": 8, "join c1": 1, "update c1": 4, "leave c1": 2, "vacated": 16}
        assert await kinds(redis_conn, channel) == [name for name, bit in bits.items() if kept & bit]
