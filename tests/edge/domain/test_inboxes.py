"""Watched inboxes of an edge: the truth is pushed, to nobody else, not too often."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services.edge.domain.inbox import watching
from services.edge.domain.inbox.ports import Members, Place
from services.edge.domain.inbox.watching import Inboxes
from services.shared.errors import Unavailable
from tests.support.full import sized
from tests.support.waiting import until

PERIOD_S = 0.05
Entry = tuple[bytes, Sequence[bytes], bytes]


class World:
    """Conversations, their feed, and a persistence that answers late, or not at all."""

    def __init__(self, rng: random.Random, *, fails: float = 0.0, remembered: int = 100_000) -> None:
        self.rng, self.fails = rng, fails
        self.people: dict[str, set[str]] = {}
        self.places: dict[str, Place] = {}
        self.removed_at: dict[tuple[str, str], int] = {}
        self.feed: list[Entry] = []
        self.pushed: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.inboxes = Inboxes(self, self._push, self._spawn, self._now, period_s=PERIOD_S, remembered=remembered)
        self.inboxes.on_gap("new")
        self._tasks: set[asyncio.Task[None]] = set()

    # What the edge uses.

    async def watch(self, user: str) -> Mapping[str, Place]:
        await self._wait()
        found = {one: self.places[one] for one, people in self.people.items() if user in people}
        await self._wait()  # the answer is on its way
        return found

    async def members(self, channel: str, users: Sequence[str]) -> Members:
        self.asked += 1
        await self._wait()
        found = frozenset(set(users) & self.people[channel])
        place = self.places[channel]
        await self._wait()
        return Members(found, place)

    def _push(self, channel: str, data: bytes) -> None:
        user = channel.removeprefix("inbox:#")
        self.times[user].append(self._now())
        push = json.loads(data)
        assert push["kind"] == "inbox"
        self.pushed[user] += push["changes"]

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _wait(self) -> None:
        await self.answers.wait()
        await asyncio.sleep(self.rng.choice([0, 0, 0.001, 0.01]))
        if self.rng.random() < self.fails:
            raise self.rng.choice([Unavailable("away"), ValueError("nobody thought of this")])

    # What happens.

    def event(self, channel: str, flags: int = 1, users: Sequence[str] = (), author: str = "ann") -> int:
        before = self.places.get(channel, Place(0, 0))
        place = self.places[channel] = Place(before.offset + 1, before.n + (flags & 1))
        fields = [b"c", channel.encode(), b"e", b"e", b"h", b"%d" % place.offset, b"a", author.encode()]
        fields += [b"l", b"%d %d 0" % (flags, place.n)]
        if users:
            fields += [b"u", json.dumps(list(users)).encode()]
        self.feed.append((channel.encode(), fields, b"%d-0" % (1_000 + len(self.feed))))
        return place.offset

    def add(self, channel: str, user: str) -> None:
        self.people.setdefault(channel, set()).add(user)
        self.removed_at.pop((channel, user), None)
        self.event(channel, 8, [user])

    def remove(self, channel: str, user: str) -> None:
        self.people[channel].discard(user)
        self.removed_at[channel, user] = self.event(channel, 2, [user])

    def hear(self, most: int | None = None) -> None:
        """The edge reads of the feed."""
        some, self.feed = (self.feed, []) if most is None else (self.feed[:most], self.feed[most:])
        if some:
            self.inboxes.on_hints(some)

    def known(self, user: str) -> dict[str, tuple[int, int]]:
        """What a client knows that listed its inbox before and took all pushes."""
        found: dict[str, tuple[int, int]] = {}
        for change in self.pushed[user]:
            if change.get("removed"):
                found.pop(change["channel"], None)
            else:
                found[change["channel"]] = change["offset"], change["n"]
        return found


def made(seed: int, *, fails: float = 0.0, remembered: int = 100_000) -> World:
    return World(random.Random(seed), fails=fails, remembered=remembered)


async def test_a_message_is_pushed_at_once_and_then_once_a_period() -> None:
    world = made(1)
    world.add("conv:g.1", "bob")
    world.add("conv:g.2", "bob")
    world.hear()
    await world.inboxes.opened("inbox:#bob")
    world.event("conv:g.1")
    world.hear()
    await until(lambda: world.pushed["bob"])
    assert world.pushed["bob"] == [
        {"channel": "conv:g.1", "offset": 2, "n": 1, "author": "ann", "time": 1_000, "flags": 1}
    ]
    for _ in range(10):
        world.event("conv:g.1")
        world.event("conv:g.2")
        world.hear()
    await until(lambda: len(world.times["bob"]) == 2)
    assert [(one["channel"], one["offset"]) for one in world.pushed["bob"][1:]] == [("conv:g.1", 12), ("conv:g.2", 11)]
    first, second = world.times["bob"]
    assert second - first >= PERIOD_S * 0.9


async def test_others_hear_nothing_and_cost_nothing() -> None:
    world = made(2)
    world.add("conv:g.1", "bob")
    world.add("conv:g.2", "cem")
    world.hear()
    await world.inboxes.opened("inbox:#bob")
    asked = world.asked
    for _ in range(50):
        world.event("conv:g.2")
        world.add("conv:g.2", "dan")
        world.hear()
    await asyncio.sleep(PERIOD_S)
    assert not world.pushed["bob"]
    assert world.asked == asked


async def test_who_was_removed_hears_that_and_nothing_behind_it() -> None:
    world = made(3)
    world.add("conv:g.1", "eve")
    world.hear()
    await world.inboxes.opened("inbox:#eve")
    world.remove("conv:g.1", "eve")
    for _ in range(5):
        world.event("conv:g.1")
    world.hear()
    await until(lambda: world.pushed["eve"])
    assert world.pushed["eve"] == [{"channel": "conv:g.1", "removed": True}]


async def test_a_subscription_waits_for_persistence_and_fails_with_it() -> None:
    world = made(4, fails=1.0)
    with pytest.raises((Unavailable, ValueError)):
        await world.inboxes.opened("inbox:#bob")
    world.fails = 0.0
    world.add("conv:g.1", "bob")
    await world.inboxes.opened("inbox:#bob")
    world.event("conv:g.1")
    world.hear()
    await until(lambda: world.known("bob") == {"conv:g.1": (2, 1)})


async def test_what_comes_while_persistence_is_asked_is_told() -> None:
    world = made(5)
    world.add("conv:g.1", "bob")
    world.add("conv:g.2", "cem")
    world.hear()
    await world.inboxes.opened("inbox:#bob")
    world.add("conv:g.2", "bob")
    world.hear()
    answered = world.places["conv:g.2"]
    await until(lambda: world.asked)
    world.answers.clear()
    await asyncio.sleep(0.03)  # the answer is on its way, or persistence has not looked yet
    world.event("conv:g.2")
    world.hear()
    world.answers.set()
    assert answered.offset + 1 == world.places["conv:g.2"].offset
    await until(lambda: world.known("bob").get("conv:g.2") == tuple(world.places["conv:g.2"]))


@pytest.mark.parametrize("asks", ["members", "watch"])
async def test_an_answer_from_before_a_gap_gives_nobody_a_conversation(asks: str) -> None:
    world = made(6)
    world.add("conv:g.1", "eve")
    world.hear()
    await world.inboxes.opened("inbox:#eve")
    source = world.inboxes.source
    asked, held = asyncio.Event(), asyncio.Event()

    class Late:
        async def watch(self, user: str) -> Mapping[str, Place]:
            found = await source.watch(user)
            asked.set()
            await held.wait()
            return found

        async def members(self, channel: str, users: Sequence[str]) -> Members:
            found = await source.members(channel, users)
            asked.set()
            await held.wait()
            return found

    world.inboxes.source = Late()
    if asks == "members":
        world.event("conv:g.1", 2, ["eve"])  # another role
        world.hear()
    else:
        world.inboxes.on_gap("trimmed")
    await asyncio.wait_for(asked.wait(), 30)
    world.people["conv:g.1"].discard("eve")
    removed_at = world.event("conv:g.1", 2, ["eve"])
    world.feed.clear()  # lost
    world.inboxes.source = source
    world.inboxes.on_gap("trimmed")
    held.set()
    for _ in range(20):
        world.event("conv:g.1")
        world.hear()
        await asyncio.sleep(0.005)
    await until(lambda: world.pushed["eve"] and world.pushed["eve"][-1].get("removed"))
    assert all(one.get("offset", 0) <= removed_at for one in world.pushed["eve"])


class Late:
    """Persistence, whose answers can be held back, or fail."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.asked = {"watch": asyncio.Event(), "members": asyncio.Event()}
        self.held = {"watch": asyncio.Event(), "members": asyncio.Event()}
        self.failures: list[Exception] = []

    async def watch(self, user: str) -> Mapping[str, Place]:
        found = await self._world.watch(user)
        self.asked["watch"].set()
        await self.held["watch"].wait()
        return found

    async def members(self, channel: str, users: Sequence[str]) -> Members:
        self.asked["members"].set()
        await self.held["members"].wait()
        if self.failures:
            raise self.failures.pop()
        return await self._world.members(channel, users)


async def test_a_membership_is_looked_up_again_however_that_failed() -> None:
    world = made(7)
    world.add("conv:g.1", "bob")
    world.hear()
    await world.inboxes.opened("inbox:#bob")
    world.inboxes.source = late = Late(world)
    late.held["members"].set()
    late.failures = [ValueError("nobody thought of this"), Unavailable("away"), KeyError("nor of this")]
    world.event("conv:g.1", 2, ["bob"])  # another role
    world.event("conv:g.1")
    world.hear()
    await until(lambda: world.known("bob") == {"conv:g.1": tuple(world.places["conv:g.1"])})
    assert not late.failures


@pytest.mark.parametrize("remembered", [1, 2, 3])
async def test_where_more_conversations_have_news_than_are_remembered_it_is_asked_again(remembered: int) -> None:
    world = made(8, remembered=remembered)
    world.add("conv:g.1", "bob")
    world.hear()
    world.inboxes.source = late = Late(world)
    opening = asyncio.create_task(world.inboxes.opened("inbox:#bob"))
    await late.asked["watch"].wait()
    for channel in ["conv:g.1", "conv:g.2", "conv:g.3", "conv:g.4"]:
        world.event(channel)
        world.event(channel)
        world.hear()
    late.held["watch"].set()
    await opening
    listed = tuple(world.places["conv:g.1"])  # the client asks for its list now
    assert world.known("bob").get("conv:g.1", listed) == listed
    world.event("conv:g.1")
    world.hear()
    await until(lambda: world.known("bob") == {"conv:g.1": tuple(world.places["conv:g.1"])})
    told = {change["channel"]: change["offset"] for change in world.pushed["bob"]}
    assert told == {"conv:g.1": 4}


async def test_a_newer_hint_of_a_remembered_conversation_takes_the_place_of_the_older_one() -> None:
    world = made(10, remembered=1)
    world.add("conv:g.1", "bob")
    world.add("conv:g.2", "ann")
    world.hear()
    await world.inboxes.opened("inbox:#bob")
    world.inboxes.source = late = Late(world)
    world.add("conv:g.2", "bob")
    world.hear()
    await late.asked["members"].wait()
    world.event("conv:g.2")
    world.event("conv:g.2")
    world.hear()
    late.held["members"].set()
    await until(lambda: world.known("bob").get("conv:g.2") == tuple(world.places["conv:g.2"]))


async def test_an_answer_from_before_a_removal_gives_nobody_the_conversation() -> None:
    """It was asked for after a gap, and comes while the membership is being looked up."""
    world = made(9)
    world.add("conv:g.1", "eve")
    world.hear()
    await world.inboxes.opened("inbox:#eve")
    world.inboxes.source = late = Late(world)
    world.inboxes.on_gap("trimmed")
    await late.asked["watch"].wait()
    world.remove("conv:g.1", "eve")
    world.hear()
    await late.asked["members"].wait()
    late.held["watch"].set()
    for _ in range(20):
        world.event("conv:g.1")
        world.hear()
        await asyncio.sleep(0.005)
    late.held["members"].set()
    await until(lambda: world.pushed["eve"])
    for _ in range(3):
        world.event("conv:g.1")
        world.hear()
        await asyncio.sleep(PERIOD_S)
    assert world.pushed["eve"] == [{"channel": "conv:g.1", "removed": True}]


@pytest.mark.parametrize("seed", range(sized(12, 400)))
async def test_after_whatever_happens_clients_know_the_truth(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages, joins, removals, gaps, a persistence that fails, late hints."""
    print(f"seed {seed}")
    monkeypatch.setattr(watching, "_CHECK_S", [0.05, 0.001][seed % 2])
    world = made(seed, remembered=[100_000, 2, 1][seed % 3])
    rng = world.rng
    users = ["ann", "bob", "cem", "d/ü"]
    channels = [f"conv:g.{number}" for number in range(4)]
    for channel in channels:
        for user in users:
            if rng.random() < 0.6:
                world.add(channel, user)
            else:
                world.people.setdefault(channel, set())
                world.event(channel)
    world.hear()
    names = {user: f"inbox:#{user}" for user in users[:3]}
    listed: dict[str, dict[str, tuple[int, int]]] = {}
    for user, name in names.items():
        await world.inboxes.opened(name)
        listed[user] = {one: tuple(world.places[one]) for one in channels if user in world.people[one]}  # type: ignore[misc]
    world.fails = 0.2
    for _ in range(sized(60, 300)):
        channel, user = rng.choice(channels), rng.choice(users)
        what = rng.random()
        if what < 0.6:
            world.event(channel, rng.choice([0, 1, 1]))
        elif what < 0.75 and user not in world.people[channel]:
            world.add(channel, user)
        elif what < 0.9 and user in world.people[channel]:
            world.remove(channel, user)
        elif what > 0.97:
            world.feed.clear()  # what was not read is lost
            world.inboxes.on_gap("trimmed")
        world.hear(rng.choice([0, 1, 5, None]))
        if rng.random() < 0.3:
            await asyncio.sleep(rng.choice([0, 0.001, 0.01]))
        for (of, who), at in world.removed_at.items():
            told = [one["offset"] for one in world.pushed[who] if one["channel"] == of and "offset" in one]
            assert not told or max(told) <= at, f"{who} was told of {max(told)} in {of}, and was removed at {at}"
    world.hear()
    world.fails = 0.0

    def is_true(user: str) -> bool:
        known = dict(listed[user])
        for change in world.pushed[user]:
            if change.get("removed"):
                known.pop(change["channel"], None)
            else:
                known[change["channel"]] = change["offset"], change["n"]
        return known == {one: tuple(world.places[one]) for one in channels if user in world.people[one]}

    with contextlib.suppress(TimeoutError):
        await until(lambda: all(map(is_true, names)))
    for user in names:
        assert is_true(user), user
        gaps = [later - sooner for sooner, later in zip(world.times[user], world.times[user][1:], strict=False)]
        assert all(gap >= PERIOD_S * 0.9 for gap in gaps), gaps
    for name in names.values():
        world.inboxes.closed(name)
