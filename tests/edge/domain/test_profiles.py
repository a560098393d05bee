"""Profiles as an edge keeps them: when they are read, how long they are good."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from services.edge.domain.ports import AccountRefused
from services.edge.domain.profiles.cache import ProfileCache
from services.edge.domain.profiles.reader import ProfileReader
from services.edge.domain.user_ports import User
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from tests.support.edge import settle
from tests.support.profiles import MemoryProfiles, user_of

ABSENT_S, FRESH_S, HELD_S = 5.0, 60.0, 300.0  # as docs/users.md says


class Setup:
    def __init__(self) -> None:
        self.now = 1_000.0
        self.auth = MemoryProfiles(*(user_of(user) for user in ("ann", "bob", "cid")))
        self.disabled: set[str] = set()
        self.reader = ProfileReader(self.auth, lambda: self.now, self.disabled.__contains__)

    async def versions(self, *users: str) -> dict[str, int]:
        return {user.id: user.version for user in await self.reader.get(users)}

    def took(self) -> int:
        """How many calls auth has got since the last look."""
        count = len(self.auth.calls)
        self.auth.calls.clear()
        return count


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_profiles_that_are_asked_for_together_are_read_in_one_call(setup: Setup) -> None:
    asked = [setup.reader.get(users) for users in (["cid", "ann", "nobody"], ["ann", "bob"], ["bob"])]
    found = await asyncio.gather(*asked)
    assert [[user.id for user in users] for users in found] == [["cid", "ann"], ["ann", "bob"], ["bob"]]
    assert setup.auth.calls == [["cid", "ann", "nobody", "bob"]]
    assert setup.reader.outcomes == {"hit": 0, "miss": 6, "stale": 0, "failed": 0}
    await setup.versions("ann", "nobody")
    assert setup.reader.outcomes["hit"] == 2
    assert setup.took() == 1


async def test_a_refusal_of_auth_is_an_error_with_its_code(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(users: Sequence[str]) -> list[User]:
        raise AccountRefused(400, ErrorCode.BAD_REQUEST, "user too long")

    monkeypatch.setattr(setup.auth, "profiles", refuse)
    with pytest.raises(ThalamusError, match="user too long") as refused:
        await setup.reader.get(["ann"])
    assert refused.value.code is ErrorCode.BAD_REQUEST


async def test_a_call_has_100_ids_at_most(setup: Setup) -> None:
    users = [f"u{number}" for number in range(250)]
    for user in users:
        setup.auth.put(user_of(user))
    found = await asyncio.gather(*(setup.reader.get(users[start : start + 50]) for start in range(0, 250, 50)))
    assert [user.id for some in found for user in some] == users
    assert [len(call) for call in setup.auth.calls] == [100, 100, 50]


async def test_what_is_known_is_good_for_a_minute_and_that_there_is_nothing_for_5_s(setup: Setup) -> None:
    await setup.versions("ann", "new")
    setup.auth.put(user_of("ann", 2))
    setup.auth.put(user_of("new"))
    setup.now += ABSENT_S
    assert await setup.versions("ann", "new") == {"ann": 1}
    setup.now += 0.1
    assert await setup.versions("ann", "new") == {"ann": 1, "new": 1}
    setup.now = 1_000.0 + FRESH_S
    assert await setup.versions("ann") == {"ann": 1}
    setup.now += 0.1
    assert await setup.versions("ann") == {"ann": 2}


async def test_an_older_version_is_dropped_and_the_same_one_is_not(setup: Setup) -> None:
    await setup.versions("ann", "bob", "nobody")
    setup.took()
    setup.auth.put(user_of("ann", 2))
    for user, version in (("ann", 2), ("bob", 1), ("cid", 1)):
        setup.reader.changed(user, version)
    assert await setup.versions("ann", "bob") == {"ann": 2, "bob": 1}
    assert setup.auth.calls == [["ann"]]
    setup.reader.changed("ann", 1)  # late
    setup.auth.put(user_of("nobody"))
    setup.reader.changed("nobody", 1)
    assert await setup.versions("ann", "nobody") == {"ann": 2, "nobody": 1}
    assert setup.took() == 2
    del setup.auth.users["bob"]
    setup.reader.changed("bob")
    assert await setup.versions("bob") == {}


@pytest.mark.parametrize("told", ["version", "any", "all"])
async def test_a_read_that_began_before_a_change_is_repeated(setup: Setup, told: str) -> None:
    setup.auth.hold = asyncio.Event()
    asked = asyncio.create_task(setup.versions("ann", "bob"))
    await settle()
    setup.auth.put(user_of("ann", 2))
    match told:
        case "version":
            setup.reader.changed("ann", 2)
        case "any":
            setup.reader.changed("ann")
        case "all":
            setup.reader.clear()
    joined = asyncio.create_task(setup.versions("ann"))
    setup.auth.hold.set()
    assert await asked == {"ann": 2, "bob": 1}
    assert await joined == {"ann": 2}
    assert setup.auth.calls == [["ann", "bob"], ["ann", "bob"] if told == "all" else ["ann"]]


async def test_a_read_that_has_brought_the_new_version_already_counts(setup: Setup) -> None:
    setup.auth.put(user_of("ann", 2))
    setup.auth.hold = asyncio.Event()
    asked = asyncio.create_task(setup.versions("ann"))
    await settle()
    setup.reader.changed("ann", 2)
    setup.auth.hold.set()
    assert await asked == {"ann": 2}
    assert setup.took() == 1


async def test_while_auth_is_away_what_is_known_is_good_for_5_minutes_and_nobody_waits(setup: Setup) -> None:
    await setup.versions("ann", "bob")
    setup.auth.away = True
    setup.took()
    setup.now += FRESH_S + 1
    assert await setup.versions("ann") == {"ann": 1}
    assert (setup.took(), setup.reader.outcomes["stale"]) == (1, 1)
    assert await setup.versions("ann", "bob") == {"ann": 1, "bob": 1}
    for users in (["nobody"], ["ann", "cid"]):
        with pytest.raises(Unavailable) as caught:
            await setup.versions(*users)
        assert caught.value.code is ErrorCode.INTERNAL
    assert setup.took() == 0, "auth is not asked for a second"
    assert setup.reader.outcomes["failed"] == 2
    setup.reader.changed("bob", 2)
    with pytest.raises(Unavailable):
        await setup.versions("bob")  # rather than the old one
    setup.now = 1_000.0 + HELD_S + 0.1
    with pytest.raises(Unavailable):
        await setup.versions("ann")
    assert setup.took() == 1
    setup.auth.away = False
    setup.now += 1.1
    assert await setup.versions("ann", "bob", "cid") == {"ann": 1, "bob": 1, "cid": 1}


async def test_whoever_gives_up_takes_nothing_from_others(setup: Setup) -> None:
    setup.auth.hold = asyncio.Event()
    asked = [asyncio.create_task(setup.versions("ann")) for _ in range(2)]
    await settle()
    asked[0].cancel()
    await settle()
    setup.auth.hold.set()
    assert await asked[1] == {"ann": 1}


async def test_an_answer_that_comes_too_late_changes_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.edge.domain.profiles.reader._DEADLINE_S", 0.05)
    first = setup.auth.hold = asyncio.Event()
    with pytest.raises(Unavailable):
        await setup.versions("ann")
    setup.auth.put(user_of("ann", 2))
    setup.auth.hold = None
    assert await setup.versions("ann") == {"ann": 2}
    first.set()
    await settle()
    assert await setup.versions("ann") == {"ann": 2}


async def test_a_disabled_user_has_no_profile_though_it_is_known(setup: Setup) -> None:
    await setup.versions("ann", "bob")
    setup.disabled.add("ann")
    assert await setup.versions("ann", "bob") == {"bob": 1}


async def test_without_a_source_nobody_has_a_profile() -> None:
    assert await ProfileReader(None, lambda: 0.0, lambda _: False).get(["ann"]) == []


def test_those_that_were_not_used_for_longest_go_first_and_absent_ones_on_their_own() -> None:
    size = 2_500  # a little more than an entry
    cache = ProfileCache(3 * size, 3 * size)
    for user in ("a", "b", "c"):
        cache.put(user, user_of(user, display_name="x" * 1_500), 0.0)
        cache.find("a")
    cache.put("d", user_of("d", display_name="x" * 1_500), 0.0)
    assert [user for user in "abcd" if cache.find(user)] == ["a", "c", "d"]
    for number in range(100):
        cache.put(f"nobody{number}", None, 0.0)
    assert [user for user in "abcd" if cache.find(user)] == ["a", "c", "d"]
    assert cache.find("nobody99")
    assert not cache.find("nobody0")
    for _ in range(50):  # the same again takes no more room
        cache.put("a", user_of("a", display_name="x" * 1_500), 0.0)
    assert len(cache) == 3
    cache.clear()
    assert len(cache) == 0


class SlowAuth:
    """Auth whose answers come late and in any order; each has what was there once.

    `seen`: (life, version) by user. A user may be deleted and come again, in another life, with a low version.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.seen: dict[str, tuple[int, int]] = {}
        self.waiting: list[asyncio.Future[None]] = []
        self.fails = 0.0

    async def profiles(self, users: Sequence[str]) -> list[User]:
        loop = asyncio.get_running_loop()
        read, answered = loop.create_future(), loop.create_future()
        self.waiting.append(read)
        await read
        found = [
            user_of(user, version, display_name=str(life))
            for user in users
            for life, version in [self.seen.get(user, (0, 0))]
            if version
        ]
        if self._rng.random() < self.fails:
            raise Unavailable("auth is away")
        self.waiting.append(answered)
        await answered
        return found

    def step(self) -> None:
        """Let one call go on: to its read, or to its answer."""
        if self.waiting:
            future = self.waiting.pop(self._rng.randrange(len(self.waiting)))
            if not future.done():
                future.set_result(None)


@pytest.mark.parametrize("seed", range(40))
async def test_nobody_sees_an_older_version_after_a_newer_one_was_seen_or_told(seed: int) -> None:
    """Changes, reads, answers and news in any order; news may be late, twice or lost.

    What a caller gets is at least what this edge had seen, or been told, when the call began.
    While auth answers, it is never more than 60 s old.
    """
    print(f"seed {seed}")
    rng, fails = random.Random(seed), bool(seed % 2)
    auth = SlowAuth(rng)
    now = 1_000.0
    size = rng.choice((1_500, 1 << 20))  # the small one removes profiles all the time
    reader = ProfileReader(auth, lambda: now, lambda _: False, ProfileCache(size, size))
    users = ["ann", "bob", "cid"]
    floor: dict[str, tuple[int, int]] = dict.fromkeys(users, (0, 0))  # (life, version) that was seen or told
    log: dict[str, list[tuple[float, tuple[int, int]]]] = {user: [(0.0, (0, 0))] for user in users}
    news: list[tuple[str, tuple[int, int]]] = []
    running: list[asyncio.Task[None]] = []
    served = repeated = 0

    async def ask(some: list[str]) -> None:
        nonlocal served
        began, least = now, {user: floor[user] for user in some}
        try:
            found = {user.id: user for user in await reader.get(some)}
        except Unavailable:
            return
        for user in some:
            profile = found.get(user)
            if profile is None:
                continue
            have = (int(profile.display_name), profile.version)
            assert have >= least[user], (user, have, least)
            oldest = max(state for at, state in log[user] if at < began - FRESH_S - 2)
            assert fails or have >= oldest, (user, have, oldest)
            floor[user] = max(floor[user], have)
            served += 1

    for step in range(600):
        auth.fails = 0.3 if fails and step // 100 % 2 else 0.0
        match rng.choice(("change", "change", "delete", "ask", "ask", "ask", "go", "go", "go", "go", "news", "time")):
            case "change":
                user = rng.choice(users)
                life, version = auth.seen.get(user, (1, 0))
                auth.seen[user] = (life, version + 1)
                log[user].append((now, auth.seen[user]))
                news.append((user, auth.seen[user]))
            case "delete":
                user = rng.choice(users)
                if rng.random() < 0.2 and user in auth.seen:
                    auth.seen[user] = (auth.seen[user][0] + 1, 0)
                    # Deletions are told and waited for, before anybody may write the id again.
                    reader.changed(user)
                    floor[user] = auth.seen[user]
                    log[user].append((now, auth.seen[user]))
                    news = [one for one in news if one[0] != user]
            case "ask":
                some = rng.sample(users, rng.randint(1, 3))
                running.append(asyncio.create_task(ask(some)))
            case "go":
                auth.step()
            case "news":
                if news:
                    user, state = rng.choice(news)
                    if rng.random() < 0.7:
                        news.remove((user, state))
                    reader.changed(user, state[1])
                    floor[user] = max(floor[user], state)
                    repeated += 1
            case "time":
                now += 0.01 if running else rng.choice((0.1, 3.0, 20.0))  # a call takes 2 s at most
        for _ in range(rng.randint(0, 6)):
            await asyncio.sleep(0)
        for task in [task for task in running if task.done()]:
            running.remove(task)
            task.result()
    auth.fails = 0.0
    while running:
        auth.step()
        await asyncio.sleep(0)
        for task in [task for task in running if task.done()]:
            running.remove(task)
            task.result()
    assert served > 50
    assert repeated > 5
