"""Presence beside replicas of an earlier version, as during an update.

All use one Redis. `earlier/` has the scripts of the version before users' connections and updates, as they were.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import redis.asyncio

from services.presence.adapters.names import index_key, member_of, roster_key
from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import ALL_EVENTS, Enter, Lease, UserOnline, connections_of
from services.presence.domain.sweeper import sweep
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline
from tests.presence.events import kinds
from tests.presence.test_online import connecting
from tests.presence.test_roster import CHANNEL, EDGE, Ear, ear, entering, leaving, members, roster

__all__ = ["ear", "roster"]  # fixtures
_SCRIPTS = Path(__file__).parent / "earlier"
_CLOCK = Path(__file__).parents[2] / "services" / "presence" / "adapters" / "lua" / "clock.lua"
ENTER, LEAVE = load(_SCRIPTS / "enter.lua"), load(_CLOCK, _SCRIPTS / "leave.lua")


class Earlier:
    """The changes of a replica of the earlier version."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self._pipeline = pipeline

    async def enter(self, lease: Lease, one: Enter) -> None:
        member = member_of(one.roster, one.client)
        await self._pipeline.execute([("SADD", index_key(lease), member)], timeout_s=2.0)
        how: list[str | bytes | int] = [one.client, int(one.announce), int(one.grace_s * 1_000), one.user, one.info, ""]
        head: list[str | bytes | int] = [lease.edge, lease.generation, keys.pub(one.roster)]
        await self._run(Call(ENTER, self._keys(one.roster), head + how))

    async def remove(self, lease: Lease, roster: str, client: str, how: str = "clean") -> None:
        arguments: list[str | bytes | int] = [client, how, lease.edge, lease.generation, keys.pub(roster), "", ""]
        await self._run(Call(LEAVE, [*self._keys(roster), keys.name("presence:clock")], arguments))

    def _keys(self, roster: str) -> list[str]:
        key = roster_key(roster)
        return [key, f"{key}:users", f"{key}:gone", f"{key}:gone_users"]

    async def _run(self, call: Call) -> None:
        raise_for_error((await self._pipeline.run([call], timeout_s=2.0))[0])


@pytest.fixture
def earlier(redis_pipeline: RedisPipeline) -> Earlier:
    return Earlier(redis_pipeline)


@pytest.mark.parametrize("seed", range(8))
async def test_both_versions_change_one_roster(
    seed: int, roster: RedisRoster, earlier: Earlier, redis_conn: redis.asyncio.Redis, ear: Ear
) -> None:
    """Who is there, counts, and what is told, whichever version made a change."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    model: dict[str, str] = {}
    told: list[str] = []
    for step in range(60):
        new = rng.random() < 0.5
        if rng.random() < 0.6 or not model:
            one = entering(f"c{step}", f"u{rng.randint(0, 3)}", grace_s=30.0, events=ALL_EVENTS if new else 0)
            await (roster.change(EDGE, [one]) if new else earlier.enter(EDGE, one))
            model[one.client] = one.user
            told.append(f"+{one.client}")
        elif rng.random() < 0.3:
            client = rng.choice(sorted(model))
            one = entering(client, model[client], grace_s=30.0)
            await (roster.change(EDGE, [one]) if new else earlier.enter(EDGE, one))
        else:
            client = rng.choice(sorted(model))
            del model[client]
            await (roster.change(EDGE, [leaving(client)]) if new else earlier.remove(EDGE, CHANNEL, client))
            told.append(f"-{client}")
        assert await members(roster) == model
        assert await roster.stats([CHANNEL]) == [(len(model), len(set(model.values())))]
    assert await ear.listen() == told
    # The edge begins a generation, when the last replica of the earlier version is gone: all lists are right again.
    newer = Lease(EDGE.edge, 2)
    assert (await roster.renew(newer, 60.0, held=False)).granted
    await roster.change(newer, [entering(client, user, events=ALL_EVENTS) for client, user in model.items()])
    for number in range(4):
        user = f"u{number}"
        there = [CHANNEL] if user in model.values() else []
        assert (await roster.channels(user, "", 10)).channels == there
    page = await roster.page(CHANNEL, "", 1_000)
    assert len(page.members) == len(model)
    assert await ear.listen() == told


async def test_an_earlier_version_removes_the_members_of_a_dead_edge(
    roster: RedisRoster, earlier: Earlier, redis_conn: redis.asyncio.Redis, ear: Ear
) -> None:
    """It tells leaves by client alone, and writes no events."""
    user = connections_of("ann")
    changes = [entering("c1", "ann", events=0), entering("c2", "ann", by_user=True, channel="chat:b")]
    await roster.change(EDGE, [*changes, connecting("c3"), connecting("c4", away=True)])
    for name, client in ((CHANNEL, "c1"), ("chat:b", "c2"), (user, "c3"), (user, "c4")):
        await earlier.remove(EDGE, name, client, "reap")
    assert await ear.listen() == ["+c1", "-c1"]
    assert await roster.online(["ann"]) == [UserOnline(0, False, 0, 0)]
    assert (await roster.channels("ann", "", 10)).channels == []
    await roster.change(EDGE, [connecting("c5")])
    (found,) = await roster.online(["ann"])
    assert (found.connections, found.away) == (1, False)


async def test_events_of_who_an_earlier_version_entered_begin_with_the_next_generation(
    roster: RedisRoster, earlier: Earlier, redis_conn: redis.asyncio.Redis
) -> None:
    await earlier.enter(EDGE, entering("c1", "ann"))
    newer = Lease(EDGE.edge, 2)
    assert (await roster.renew(newer, 60.0, held=False)).granted
    await roster.change(newer, [entering("c1", "ann", events=ALL_EVENTS)])
    await roster.change(newer, [entering("c1", "ann", events=ALL_EVENTS)])
    await roster.change(newer, [leaving("c1")])
    await sweep(roster)
    assert await kinds(redis_conn, CHANNEL) == ["join c1", "leave c1", "vacated"]
