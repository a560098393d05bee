"""Whoever asks auth hears of every change, also those of replicas that died."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.auth.domain.profile_changes import FORGOTTEN_S, KEPT_S, OVERLAP_S, ProfileChanges
from services.auth.domain.user_ports import ProfileVersion
from services.auth.user_service import UserServicer
from services.shared.errors import Unavailable
from tests.support.full import sized
from thalamus.auth.v1 import users_pb2 as pb


class Notes:
    """The notes of a store: (when, user, version). `is_away`: it does not answer."""

    def __init__(self) -> None:
        self.notes: list[tuple[float, str, int]] = []
        self.is_away = False
        self.looks = 0

    async def profile_changes(self, since: float, limit: int) -> list[ProfileVersion]:
        self.looks += 1
        if self.is_away:
            raise Unavailable("the store is away")
        found = sorted((note for note in self.notes if note[0] >= since), reverse=True)[:limit]
        return [ProfileVersion(user, version) for _, user, version in found]

    async def forget_profile_changes(self, before: float, limit: int) -> None:
        if self.is_away:
            raise Unavailable("the store is away")
        old = [note for note in self.notes if note[0] < before][:limit]
        self.notes = [note for note in self.notes if note not in old]


class Replica:
    """One process of auth, and an edge that follows it. `skew`: of its clock, seconds."""

    def __init__(self, world: World, skew: float) -> None:
        self.changes = ProfileChanges(world.notes, lambda: world.now + skew)  # type: ignore[arg-type]  # all it uses
        self.skew = skew


class World:
    def __init__(self, seed: int) -> None:
        self.order, self.now, self.notes = random.Random(seed), 1_000_000.0, Notes()
        self.versions: dict[str, int] = {}
        self.replicas = [Replica(self, skew) for skew in (0.0, 8.0, -8.0)]
        self.told: dict[str, int] = {}  # what the edge knows
        self.asked, self.number = self.replicas[0], 0

    def change(self) -> None:
        user = f"u{self.order.randrange(6)}"
        self.versions[user] = self.versions.get(user, 0) + 1
        late = self.order.choice([0, 0, 0, 2.5])  # the write is executed later than its time says
        self.notes.notes.append((self.now + self.order.choice(self.replicas).skew - late, user, self.versions[user]))

    def hear(self) -> None:
        while True:
            found, self.number = self.asked.changes.after(self.number, 3)
            for user, version in found:
                assert version <= self.versions[user]
                self.told[user] = max(version, self.told.get(user, 0))
            if len(found) < 3:
                break

    async def step(self) -> None:
        dice = self.order.random()
        if dice < 0.5:
            self.change()
        elif dice < 0.6:  # the replica dies; the edge asks another one, or the one that is started anew
            self.replicas.remove(self.asked)
            self.replicas.append(Replica(self, self.asked.skew))
            self.asked, self.number = self.order.choice(self.replicas), 0
        elif dice < 0.65:
            self.notes.is_away = not self.notes.is_away
        elif dice < 0.75:
            self.hear()
        else:
            await self.look()
            self.now += self.order.random()

    async def look(self) -> None:
        for replica in self.replicas:
            try:
                await replica.changes.look()
            except Unavailable:
                assert self.notes.is_away


@pytest.mark.parametrize("seed", range(sized(20, 400)))
async def test_whatever_dies_the_edge_hears_of_every_change(seed: int) -> None:
    world = World(seed)
    for _ in range(10):
        for _ in range(30):
            await world.step()
        world.notes.is_away = False
        await world.look()
        world.now += 1
        world.hear()
        assert world.told == world.versions, seed


async def test_notes_are_forgotten_after_two_minutes_and_what_is_kept_has_a_bound() -> None:
    world = World(1)
    changes = world.replicas[0].changes
    for second in range(300):
        world.now += 1
        world.notes.notes.append((world.now, f"user {second}", 1))
        await changes.look()
        assert all(world.now - at <= FORGOTTEN_S + 11 for at, _, _ in world.notes.notes)
        found, _ = changes.after(0, 1_000)
        assert len(found) == min(second + 1, KEPT_S + OVERLAP_S + 1)
    assert world.notes.looks == 300


async def test_after_a_time_without_the_store_a_look_goes_further_back() -> None:
    world = World(1)
    changes = world.replicas[0].changes
    await changes.look()
    world.notes.notes.append((world.now, "u1", 1))
    world.notes.is_away = True
    for _ in range(45):
        world.now += 1
        with pytest.raises(Unavailable):
            await changes.look()
    world.notes.is_away = False
    await changes.look()
    assert changes.after(0, 10)[0] == [ProfileVersion("u1", 1)]


async def test_a_stream_tells_the_newest_version_once_and_goes_on_in_messages_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.auth.user_service._MAX_CHANGES", 2)
    monkeypatch.setattr("services.auth.user_service._CHANGES_PAUSE_S", 0.01)
    changes = World(1).replicas[0].changes
    changes.add([ProfileVersion(f"u{number}", 1) for number in range(3)])
    changes.add([ProfileVersion("u0", 3), ProfileVersion("u1", 2)])
    changes.add([ProfileVersion("u0", 2)])

    class Accounts:
        users = own = None

    servicer = UserServicer(Accounts(), changes)  # type: ignore[arg-type]  # the rest is not asked
    stream = servicer.WatchProfiles(pb.WatchProfilesRequest(), None)

    async def read() -> list[tuple[str, int]]:
        async with asyncio.timeout(30):
            return [(one.id, one.version) for one in (await anext(stream)).profiles]

    assert await read() == [("u2", 1), ("u0", 3)]
    assert await read() == [("u1", 2)]
    asked = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    assert not asked.done()
    changes.add([ProfileVersion("u2", 2), ProfileVersion("u0", 1)])
    assert await asked == [("u2", 2)]
