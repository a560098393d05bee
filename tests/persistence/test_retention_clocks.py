"""Retention removes nothing that is young, whatever one clock says, or said.

On a real Redis, with SQLite and DynamoDB. Time is passed in.
"""

from __future__ import annotations

import random
import time

import pytest

from services.persistence.adapters.redis.retention_turn import RedisTurn
from services.persistence.domain import retention
from services.persistence.domain.clocks import APART_S, Clocks, ClocksDisagree
from services.persistence.domain.retention import Retention, Swept
from services.shared.redis.pipeline import RedisPipeline
from tests.persistence.test_retention import DAY, SEEDS, World
from tests.persistence.test_retention import world as world  # a fixture
from tests.support.full import FULL
from tests.support.retention import OwnTurn, with_retention

YEAR = 365 * DAY


class Hosts:
    """Clocks of Redis and of this host, and the monotonic one."""

    def __init__(self, now: float) -> None:
        self.redis = self.host = self.monotonic = now

    def go_on(self, seconds: float) -> None:
        self.redis, self.host, self.monotonic = (one + seconds for one in (self.redis, self.host, self.monotonic))

    def sweeper(self, world: World) -> Retention:
        """Retention of the first replica, with these clocks."""
        one, turn = world.replicas[0], OwnTurn(lambda: self.redis)
        clocks = Clocks(turn.time, lambda: self.host, lambda: self.monotonic)
        return Retention(one.log, one.hot, one.store, world.namespaces, turn, clocks)


@pytest.mark.parametrize("wrong", ["redis", "host", "both"])
async def test_nothing_goes_while_a_clock_is_a_year_ahead_and_what_is_old_goes_afterwards(
    world: World, wrong: str
) -> None:
    hosts, replica = Hosts(world.now), world.replicas[0]
    sweeper = hosts.sweeper(world)
    await replica.publish("old:a", 3)
    assert await sweeper.sweep() == Swept(channels=1)
    names = ("redis", "host") if wrong == "both" else (wrong,)
    for jump in (YEAR, -YEAR):
        for name in names:
            setattr(hosts, name, getattr(hosts, name) + jump)
        if jump > 0:
            for _ in range(3):
                hosts.go_on(60)
                with pytest.raises(ClocksDisagree):
                    await sweeper.sweep()
    assert await replica.offsets("old:a") == [1, 2, 3]
    for _ in range(4):
        hosts.go_on(8 * DAY)
        await sweeper.sweep()
    assert await replica.offsets("old:a") == []


async def test_a_replica_whose_clock_is_wrong_from_the_start_leaves_the_turn_to_others(world: World) -> None:
    hosts, replica = Hosts(world.now), world.replicas[0]
    hosts.host += APART_S + 1
    sweeper = hosts.sweeper(world)
    sweeper._turn.take = None  # type: ignore[method-assign, assignment]  # noqa: SLF001 - it would fail
    await replica.publish("many:a", 40)
    with pytest.raises(ClocksDisagree):
        await sweeper.sweep()


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_goes_that_was_stored_behind_something_young(world: World, seed: int) -> None:
    """Times as wrong clocks of writers left them: too low, too high, in any order."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    world.namespaces = with_retention(old=(30, 0), many=(0, 12))
    removed = 0
    begun = world.now
    for number in range(200 if FULL else 12):
        replica, name = chance.choice(world.replicas), chance.choice(["old", "many"])
        channel, young_s = f"{name}:{number}", 300 if name == "many" else 30 * DAY
        stamps: list[float] = []
        at = begun - chance.choice([0, 29, 31, 90]) * DAY
        for _ in range(chance.randint(1, 12)):
            at = min(begun, at + chance.choice([0, 1, 300, DAY, 20 * DAY]))
            world.now = at if chance.random() < 0.7 else begun - chance.choice([2_000, 40, 0.001, 0, -50]) * DAY
            stamps += [world.now] * len(await replica.publish(channel, chance.choice([1, 1, 2, 9])))
        world.now = begun
        await Hosts(begun).sweeper(world).sweep()
        gone = (await replica.store.extent(channel)).removed
        removed += gone
        assert all(one < begun - young_s for one in stamps[:gone]), channel
    assert removed, "it does remove"


async def test_what_is_old_goes_though_more_of_it_than_is_read_in_one_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it ends at the first that is young, which is far behind."""
    monkeypatch.setattr(retention, "_READ_AT_ONCE", 10)
    replica = world.replicas[0]
    await replica.publish("old:a", 36)
    world.now += 31 * DAY
    await replica.publish("old:a", 1)
    world.now -= 2_000 * DAY
    await replica.publish("old:a", 40)
    world.now += 2_000 * DAY
    await replica.retention.sweep()
    assert (await replica.store.extent("old:a")).removed == 36


async def test_redis_is_asked_for_its_time(redis_pipeline: RedisPipeline) -> None:
    """The clock of the process may not have been set by Redis yet."""
    turn = RedisTurn(redis_pipeline, lambda: 1.0)
    assert abs(await turn.time() - time.time()) < 60
