"""Who shares a conversation sees a changed profile within 10 s, whatever dies."""

from __future__ import annotations

import pytest

from tests.support.full import sized
from tests.support.profile_events import World

GROUPS = ["conv:g.1", "conv:g.2", "conv:g.3"]
OPEN = "conv:o.lobby"
SEEN_S, SEEN_OPEN_S = 10.0, 2.0


class Story:
    """Random things happen; `owed`: changes that must have been seen at a time."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(seed)
        self.order = world.order
        self.owed: list[tuple[float, str, int]] = []
        self.ends_at = 0.0  # of the time in which persistence is away
        for channel in GROUPS:
            world.members[channel] = dict.fromkeys(self.order.sample(sorted(world.versions), 2), world.now - 60)
        for user in [*world.versions, *world.versions]:
            mine = [channel for channel in GROUPS if user in world.members[channel]]
            world.add(user, *self.order.sample(mine, self.order.randint(0, len(mine))), "chat:lobby")

    def rename(self) -> None:
        """Change a profile; the edge that serves it may die at any step."""
        world, order = self.world, self.order
        user, edge = order.choice(sorted(world.versions)), order.choice(world.edges)
        version = world.commit(user)
        self.owed.append((world.now + SEEN_S, user, version))
        dies = order.choice(["never", "before it knows", "before it tells", "while it tells", "never"])
        if dies in ("while it tells", "never"):
            edge.announcer.changed(user, version)
            hear = [one for one in world.edges if one is not edge]
            for other in hear if dies == "never" else order.sample(hear, 1):
                other.announcer.changed(user, version)
        elif dies == "before it tells":
            edge.announcer.changed(user, version)
        if dies != "never":
            world.die(edge)

    def join(self) -> None:
        """Add a member; followers read the profile of somebody who is new to them."""
        channel, user = self.order.choice(GROUPS), self.order.choice(sorted(self.world.versions))
        if user not in self.world.members[channel]:
            self.world.members[channel][user] = self.world.now
            for client in self.world.clients:
                if channel in client.subscriptions:
                    client.knows[channel][user] = self.world.versions[user]
        for client in self.world.clients:
            if client.user == user and client.edge is not None and channel not in client.wanted:
                client.wanted.add(channel)
                client.subscribe(self.world, channel)

    async def step(self) -> None:
        world, dice = self.world, self.order.random()
        if dice < 0.12:
            self.rename()
        elif dice < 0.17:
            self.join()
        elif dice < 0.19:
            world.die(self.order.choice(world.edges))
        elif dice < 0.22:
            place = self.order.randrange(2)
            world.auths[place] = type(world.auths[0])(world, lambda: world.now)  # type: ignore[arg-type]  # as there
        elif dice < 0.24 and not world.persistence_away:
            world.persistence_away, self.ends_at = True, world.now + self.order.uniform(0.2, 2)
        if world.persistence_away and world.now > self.ends_at:
            world.persistence_away = False
        await world.tick()
        self.check()

    def check(self) -> None:
        now = self.world.now
        due = [one for one in self.owed if one[0] <= now]
        self.owed = [one for one in self.owed if one[0] > now]
        for _, user, version in due:
            for client in self.world.clients:
                for channel in client.subscriptions:
                    if channel in GROUPS and user in self.world.members[channel]:
                        assert client.knows[channel].get(user, 0) >= version, (client.user, channel, user)


@pytest.mark.parametrize("seed", range(sized(25, 600)))
async def test_whoever_shares_a_conversation_sees_every_change_whatever_dies(seed: int) -> None:
    story = Story(seed)
    for _ in range(sized(250, 600)):
        await story.step()
    world = story.world
    for client in world.clients:
        for channel, user, version in client.events:
            assert channel in client.wanted, seed
            assert user in world.members.get(channel, {}), (seed, "nobody hears of strangers")
            assert version <= world.versions[user], seed


@pytest.mark.parametrize("seed", range(sized(10, 100)))
async def test_in_an_open_conversation_whoever_follows_it_sees_within_two_seconds_who_follows_it_too(seed: int) -> None:
    world = World(seed, edges=4)
    followers = [world.add(f"u{number}", OPEN) for number in range(3)]
    stranger = world.add("u3", GROUPS[0])
    for _ in range(20):
        user = world.order.choice(["u0", "u1", "u3"])
        version = world.commit(user)
        for edge in world.edges:
            edge.announcer.changed(user, version)
        for _ in range(int(SEEN_OPEN_S / 0.25)):
            await world.tick()
        if user != "u3":
            assert all(client.knows[OPEN][user] == version for client in followers), seed
        assert all(event[:2] != (OPEN, "u3") for client in followers for event in client.events), seed
    assert stranger.events == []


async def test_several_changes_of_a_user_at_once_are_one_event_with_the_newest_version() -> None:
    world = World(1, edges=1)
    world.members[GROUPS[0]] = {"u0": 0.0, "u1": 0.0}
    other = world.add("u1", GROUPS[0])
    edge = world.edges[0]
    for version in (1, 3, 2, 3):
        edge.announcer.changed("u0", version)
    await edge.announcer.step()
    assert other.events == [(GROUPS[0], "u0", 3)]
    for version in (4, 5, 6):
        edge.announcer.changed("u0", version)
        await edge.announcer.step()
        world.now += 0.3
    world.now += 0.2
    await edge.announcer.step()
    assert [version for _, _, version in other.events] == [3, 6]
    for version in (1, 5, 6, 0):
        edge.announcer.changed("u0", version)
    for _ in range(60):
        world.now += 0.25
        await edge.announcer.step()
    assert [version for _, _, version in other.events] == [3, 6], "the second look tells nobody twice"


async def test_a_change_costs_two_calls_however_many_conversations_the_user_is_in() -> None:
    costs = []
    for count in (1, 10, 1_000):
        world = World(1, edges=1)
        names = [f"conv:g.{number}" for number in range(count)]
        world.members = {name: {"u0": 0.0, "u1": 0.0} for name in names}
        other = world.add("u1", *names)
        edge = world.edges[0]
        edge.announcer.changed("u0", 1)
        for _ in range(60):
            await edge.announcer.step()
            world.now += 0.25
        assert len(other.events) == count
        costs.append(len(edge.calls))
        assert edge.paused >= 0.9 * count / 2_000 - 0.025
    assert costs == [2, 2, 2]


async def test_an_edge_without_conversations_asks_nobody() -> None:
    world = World(1, edges=1)
    world.add("u1", "chat:lobby")
    world.edges[0].announcer.changed("u0", 1)
    for _ in range(60):
        await world.edges[0].announcer.step()
        world.now += 0.25
    assert world.edges[0].calls == []


async def test_of_very_many_users_eighty_a_second_are_told_each_with_the_newest_version() -> None:
    world = World(1, users=500, edges=1)
    world.members[GROUPS[0]] = dict.fromkeys(world.versions, 0.0)
    other = world.add("u1", GROUPS[0])
    edge = world.edges[0]
    for version in (1, 2):
        for user in world.versions:
            edge.announcer.changed(user, version)
    steps = 0
    while len(edge.announcer):
        await edge.announcer.step()
        world.now += 0.001
        steps += 1
    assert (steps, max(map(len, edge.calls))) == (50, 10)
    assert sorted(other.events) == sorted((GROUPS[0], user, 2) for user in world.versions)


async def test_no_more_than_ten_thousand_users_wait() -> None:
    world = World(1, edges=1)
    announcer = world.edges[0].announcer
    for number in range(10_100):
        announcer.changed(f"user {number}", 1)
    assert len(announcer) == 10_000
    assert announcer.outcomes["dropped"] == 100


async def test_of_a_disabled_user_nothing_is_told_and_after_thirty_seconds_without_persistence_neither() -> None:
    world = World(1, edges=1)
    world.members[GROUPS[0]] = dict.fromkeys(world.versions, 0.0)
    other = world.add("u1", GROUPS[0])
    announcer = world.edges[0].announcer
    world.disabled.add("u0")
    announcer.changed("u0", 1)
    await announcer.step()
    world.persistence_away = True
    announcer.changed("u2", 1)
    for _ in range(32):
        await announcer.step()
        world.now += 1
    assert (len(announcer), announcer.outcomes["failed"]) == (0, 2), "the change, and the second look of the other"
    world.persistence_away = False
    announcer.changed("u3", 1)
    await announcer.step()
    assert other.events == [(GROUPS[0], "u3", 1)]


async def test_a_client_that_is_back_within_seconds_hears_of_what_was_told_meanwhile() -> None:
    world = World(1, edges=1)
    world.members[GROUPS[0]] = {"u0": 0.0, "u1": 0.0}
    there, back = world.add("u1", GROUPS[0]), world.add("u1")
    edge = world.edges[0]
    edge.announcer.changed("u0", 1)
    await edge.announcer.step()
    back.subscribe(world, GROUPS[0])
    world.now += 3.9
    await edge.announcer.step()
    assert back.events == []
    world.now += 0.1
    await edge.announcer.step()
    assert back.events == [(GROUPS[0], "u0", 1)]
    assert len(there.events) == 2, "whoever heard of it hears the same version again"


async def test_who_is_a_member_of_an_open_conversation_is_told_of_there_once() -> None:
    world = World(1, edges=2)
    world.members[OPEN] = {"u0": 0.0}
    followers = [world.add(f"u{number}", OPEN) for number in (0, 0, 1, 2)]
    for edge in world.edges:
        edge.announcer.changed("u0", 1)
    for _ in range(60):
        await world.tick()
    assert [client.events for client in followers] == [[(OPEN, "u0", 1)]] * 4


async def test_a_channel_that_is_being_repaired_is_told_once_it_is_not_within_thirty_seconds() -> None:
    for away_s, events in ((3, 1), (25, 1), (40, 0)):
        world = World(1, edges=1)
        world.members = {name: {"u0": 0.0, "u1": 0.0} for name in GROUPS}
        other = world.add("u1", GROUPS[0])
        edge = world.edges[0]
        world.repairing = 1.0
        edge.announcer.changed("u0", 1)
        for second in range(60):
            world.repairing = 1.0 if second < away_s else 0.0
            await edge.announcer.step()
            world.now += 1
        assert other.events == [(GROUPS[0], "u0", 1)] * events, away_s
        assert len(edge.calls) <= 9
