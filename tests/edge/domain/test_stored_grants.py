"""Stored grants as an edge knows them: when they are read, how long they hold."""

from __future__ import annotations

import asyncio

import pytest

from services.auth.domain.grants import UserGrants
from services.edge.domain.access.grants import NEVER, Operation
from services.edge.domain.access.stored_grants import StoredGrants
from services.shared.errors import Unavailable
from tests.support.edge import ManualClock, settle
from tests.support.grants import AuthGrants, MemoryGrants

PUBLISH, SUBSCRIBE = Operation.PUBLISH, Operation.SUBSCRIBE


class Setup:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.auth = AuthGrants(UserGrants(MemoryGrants(), self.clock.wall))
        self.grants = StoredGrants(self.auth, self.clock.monotonic, self.clock.wall)

    def sleep(self, seconds: float, *, reads: bool = False) -> None:
        self.clock.now += seconds
        self.clock.unix += seconds
        if reads:
            self.grants.list_was_read()

    def may(self, user: str = "ann", channel: str = "chat:a", operation: Operation = PUBLISH) -> bool | None:
        known = self.grants.known(user)
        return None if known is None else known.until(channel, operation) > self.clock.wall()


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_grants_are_read_once_for_all_who_wait(setup: Setup) -> None:
    await setup.auth.give_grants("ann", ["chat:*"], [PUBLISH], NEVER)
    assert setup.may() is None
    await asyncio.gather(*(setup.grants.load("ann") for _ in range(5)))
    assert setup.may() is True
    assert setup.may(operation=SUBSCRIBE) is False
    assert setup.may(channel="live:a") is False
    assert setup.auth.asked == ["ann"]


async def test_who_is_anonymous_or_has_a_very_long_id_has_none_and_nobody_is_asked(setup: Setup) -> None:
    assert setup.may("") is False
    assert setup.may("x" * 256) is False
    assert setup.auth.asked == []


async def test_what_is_forgotten_must_be_read_again(setup: Setup) -> None:
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], NEVER)
    await setup.grants.load("ann")
    await setup.auth.take_grants("ann", [], [])
    assert setup.may() is True
    setup.grants.forget("ann")
    assert setup.may() is None
    await setup.grants.load("ann")
    assert setup.may() is False


async def test_what_is_forgotten_while_it_is_read_does_not_count(setup: Setup) -> None:
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], NEVER)
    setup.auth.hold = asyncio.Event()
    reading = asyncio.create_task(setup.grants.load("ann"))
    await settle()  # what was granted is on its way
    await setup.auth.take_grants("ann", [], [])
    setup.grants.forget("ann")
    setup.auth.hold.set()
    await reading
    assert setup.may() is False
    assert setup.auth.asked == ["ann", "ann"]


async def test_grants_are_good_as_long_as_the_list_is_read(setup: Setup) -> None:
    await setup.grants.load("ann")
    for _ in range(100):
        setup.sleep(4.9, reads=True)
        assert setup.may() is False
    setup.sleep(5.0)
    assert setup.may() is False
    setup.sleep(0.1)
    assert setup.may() is None
    await setup.grants.load("ann")
    assert setup.may() is False
    setup.sleep(5.1)
    assert setup.may() is None
    setup.grants.list_was_read()  # nothing has changed meanwhile
    assert setup.may() is False
    assert setup.auth.asked == ["ann", "ann"]


async def test_a_read_of_the_list_counts_from_when_it_began(setup: Setup) -> None:
    await setup.grants.load("ann")
    setup.sleep(10)
    setup.grants.list_was_read(took_s=4.0)
    assert setup.may() is False
    setup.sleep(1.1)
    assert setup.may() is None


async def test_while_auth_is_away_what_is_known_holds_for_a_minute_and_nothing_else_is_permitted(setup: Setup) -> None:
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], NEVER)
    await setup.grants.load("ann")
    setup.auth.away = True
    setup.sleep(59)
    assert setup.may() is None
    await setup.grants.load("ann")  # tries, in vain
    assert setup.may() is True
    asked = len(setup.auth.asked)
    assert setup.may() is True  # does not ask again within a second
    assert len(setup.auth.asked) == asked
    setup.sleep(0.5)
    await setup.grants.load("ann")
    setup.sleep(0.8)
    assert setup.may() is None  # also if auth was asked less than a second ago
    assert setup.may() is None
    with pytest.raises(Unavailable) as refused:
        await setup.grants.load("ann")
    assert refused.value.retry_after_s == 1.0
    assert setup.may() is None
    with pytest.raises(Unavailable):
        await setup.grants.load("bob")
    assert setup.may("bob") is None


async def test_that_an_auth_of_before_has_no_grants_is_believed_for_10_s(setup: Setup) -> None:
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], NEVER)
    setup.auth.is_of_before = True
    await setup.grants.load("ann")
    setup.auth.is_of_before = False  # the next replica has been updated
    for _ in range(9):
        setup.sleep(1.0, reads=True)
        assert setup.may() is False
    setup.sleep(1.0, reads=True)
    assert setup.may() is None
    setup.auth.away = True
    with pytest.raises(Unavailable):  # that there are none does not hold for a minute
        await setup.grants.load("ann")
    setup.auth.away = False
    await setup.grants.load("ann")
    for _ in range(30):
        assert setup.may() is True
        setup.sleep(1.0, reads=True)


async def test_what_is_forgotten_while_auth_is_away_is_not_permitted(setup: Setup) -> None:
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], NEVER)
    await setup.grants.load("ann")
    setup.auth.away = True
    setup.grants.forget("ann")
    with pytest.raises(Unavailable):
        await setup.grants.load("ann")
    assert setup.may() is None


async def test_an_expiry_is_told_once_and_then_the_next(setup: Setup) -> None:
    now = setup.clock.wall()
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], now + 10)
    await setup.auth.give_grants("ann", ["chat:*"], [SUBSCRIBE], now + 20)
    await setup.grants.load("ann")
    assert setup.grants.take_expired() == set()
    setup.sleep(10, reads=True)
    assert setup.grants.take_expired() == {"ann"}
    assert setup.grants.take_expired() == set()
    assert (setup.may(), setup.may(operation=SUBSCRIBE)) == (False, True)
    setup.sleep(10, reads=True)
    assert setup.grants.take_expired() == {"ann"}
    assert setup.may(operation=SUBSCRIBE) is False
    setup.sleep(1_000, reads=True)
    assert setup.grants.take_expired() == set()


async def test_the_users_that_came_last_are_kept(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.edge.domain.access.stored_grants._USERS", 3)
    for number in range(10):
        await setup.grants.load(f"u{number}")
    assert [number for number in range(10) if setup.may(f"u{number}") is not None] == [7, 8, 9]


async def test_expiries_are_kept_once_for_each_user_however_often_its_grants_are_read(setup: Setup) -> None:
    now = setup.clock.wall()
    for number in range(3_000):
        await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], now + 100_000 + number)
        setup.grants.forget("ann")
        await setup.grants.load("ann")
    assert len(setup.grants._ends) < 1_100  # noqa: SLF001
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], now + 10)
    setup.grants.forget("ann")
    await setup.grants.load("ann")
    setup.sleep(9, reads=True)
    assert setup.grants.take_expired() == set()
    setup.sleep(1, reads=True)
    assert setup.grants.take_expired() == {"ann"}


async def test_an_expiry_that_was_taken_back_is_not_told(setup: Setup) -> None:
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], setup.clock.wall() + 10)
    await setup.grants.load("ann")
    await setup.auth.give_grants("ann", ["chat:a"], [PUBLISH], NEVER)
    setup.grants.forget("ann")
    await setup.grants.load("ann")
    setup.sleep(20, reads=True)
    assert setup.grants.take_expired() == set()


async def test_expiries_of_users_who_left_and_were_forgotten_are_forgotten_too(setup: Setup) -> None:
    for user in ("known", "connected", "gone"):
        await setup.auth.give_grants(user, ["chat:a"], [PUBLISH], setup.clock.wall() + 10)
        await setup.grants.load(user)
    setup.grants.forget("connected")
    setup.grants.forget("gone")
    setup.grants.forget_ends_but({"connected"})
    setup.sleep(10, reads=True)
    assert setup.grants.take_expired() == {"known", "connected"}


async def test_nothing_is_left_of_a_user_whose_read_failed_after_a_change(setup: Setup) -> None:
    setup.auth.hold = asyncio.Event()
    reading = asyncio.create_task(setup.grants.load("ann"))
    await settle()
    setup.grants.forget("ann")
    setup.auth.away = True
    setup.auth.hold.set()
    with pytest.raises(Unavailable):
        await reading
    assert setup.grants._changed == set()  # noqa: SLF001
