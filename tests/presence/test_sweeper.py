"""The sweep on a real Redis, in portions of two.

It ends only once nobody is left who should go.
"""

from __future__ import annotations

import asyncio

import pytest

from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain import sweeper
from services.presence.domain.ports import Lease
from services.shared.redis.pipeline import RedisPipeline
from tests.presence.test_roster import EDGE, entering, leaving, members, run_out

DEAD = Lease("edge-dead", 1)


@pytest.fixture
async def roster(redis_pipeline: RedisPipeline, monkeypatch: pytest.MonkeyPatch) -> RedisRoster:
    monkeypatch.setattr(sweeper, "_LIMIT", 2)
    made = RedisRoster(redis_pipeline)
    assert (await made.renew(EDGE, 60.0, held=False)).granted
    return made


async def lose_members(roster: RedisRoster, count: int) -> None:
    """An edge with so many members whose lease has run out."""
    assert (await roster.renew(DEAD, 60.0, held=False)).granted
    await roster.change(DEAD, [entering(f"c{number}", "ann") for number in range(count)])
    await run_out(roster, DEAD)


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_members_of_an_edge_that_is_gone_are_removed_in_one_sweep(roster: RedisRoster, count: int) -> None:
    await roster.change(EDGE, [entering("other", "bob")])
    await lose_members(roster, count)
    assert await sweeper.sweep(roster) == count
    assert await members(roster) == {"other": "bob"}


async def test_graces_that_have_ended_are_ended_in_one_sweep(roster: RedisRoster) -> None:
    names = [f"c{number}" for number in range(5)]
    await roster.change(EDGE, [entering(name, name, grace_s=0.1) for name in names])
    await roster.change(EDGE, [leaving(name, clean=False) for name in names])
    await asyncio.sleep(0.15)  # Redis' own clock
    assert await sweeper.sweep(roster) == 5
    assert await members(roster) == {}


async def test_a_sweep_does_so_much_and_the_next_one_does_the_rest(
    roster: RedisRoster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are due, the sweep comes back to whoever called it."""
    monkeypatch.setattr(sweeper, "_ROUNDS", 2)
    names = [f"g{number}" for number in range(6)]
    await roster.change(EDGE, [entering(name, name, grace_s=0.01) for name in names])
    await roster.change(EDGE, [leaving(name, clean=False) for name in names])
    await lose_members(roster, 6)
    assert await sweeper.sweep(roster) == 2 * 2 + 2 * 2
    assert len(await members(roster)) == 4
    assert await sweeper.sweep(roster) == 2 + 2
    assert await members(roster) == {}
