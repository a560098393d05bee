"""Rules of stored grants: what may be given, and what is taken."""

from __future__ import annotations

import pytest

from services.auth.domain.grants import MAX_GRANTS, OPERATIONS, UserGrants
from services.auth.domain.ports import GrantRow
from services.auth.domain.refusals import Invalid
from services.edge.domain.access.grants import Operation
from tests.support.grants import MemoryGrants

NOW = 1_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def grants(clock: Clock) -> UserGrants:
    return UserGrants(MemoryGrants(), clock)


def test_auth_and_edges_know_the_same_operations() -> None:
    assert set(OPERATIONS) == set(Operation)


async def test_each_operation_is_given_in_each_channel_once(grants: UserGrants) -> None:
    await grants.give("ann", ["b", "a*", "b"], ["publish", "history", "publish"], 0.0)
    assert await grants.of("ann") == [
        GrantRow(channel, operation) for channel in ("a*", "b") for operation in ("history", "publish")
    ]
    assert await grants.of("bob") == []


async def test_what_is_named_is_taken_and_nothing_else(grants: UserGrants) -> None:
    async def left(channels: list[str], operations: list[str]) -> set[str]:
        await grants.give("ann", ["a", "a*"], ["publish", "history"], 0.0)
        await grants.give("bob", ["a"], ["publish"], 0.0)
        await grants.take("ann", channels, operations)
        assert await grants.of("bob") == [GrantRow("a", "publish")]
        return {f"{row.channel} {row.operation}" for row in await grants.of("ann")}

    assert await left(["a"], ["publish"]) == {"a history", "a* publish", "a* history"}
    assert await left(["a"], []) == {"a* publish", "a* history"}
    assert await left([], ["publish"]) == {"a history", "a* history"}
    assert await left(["nothing"], []) == {"a publish", "a history", "a* publish", "a* history"}
    assert await left(["a"], ["manage"]) == {"a publish", "a history", "a* publish", "a* history"}
    assert await left([], []) == set()


async def test_an_expired_grant_is_gone_and_a_new_expiry_replaces_the_old_one(grants: UserGrants, clock: Clock) -> None:
    await grants.give("ann", ["a"], ["publish"], NOW + 10)
    await grants.give("ann", ["a"], ["publish"], NOW + 5)
    await grants.give("ann", ["b"], ["publish"], NOW + 10)
    clock.now += 5
    assert await grants.of("ann") == [GrantRow("b", "publish", NOW + 10)]


async def test_a_user_may_have_a_thousand_that_have_not_expired(grants: UserGrants, clock: Clock) -> None:
    for start in range(0, MAX_GRANTS, 100):
        await grants.give("ann", [f"c{number}" for number in range(start, start + 100)], ["publish"], NOW + 5)
    await grants.give("ann", ["c1"], ["publish"], NOW + 6)  # one that is there
    with pytest.raises(Invalid, match="a user may have 1,000 grants"):
        await grants.give("ann", ["another"], ["publish"], 0.0)
    await grants.give("bob", ["another"], ["publish"], 0.0)
    clock.now += 5
    await grants.give("ann", ["another"], ["publish"], 0.0)
    assert [row.channel for row in await grants.of("ann")] == ["another", "c1"]


@pytest.mark.parametrize(
    ("user", "channels", "operations", "expires_at", "said"),
    [
        ("", ["a"], ["publish"], 0.0, "user: 1 to 255 bytes"),
        ("ä" * 128, ["a"], ["publish"], 0.0, "user: 1 to 255 bytes"),
        ("ann", [], ["publish"], 0.0, "needs a channel and an operation"),
        ("ann", ["a"], [], 0.0, "needs a channel and an operation"),
        ("ann", [""], ["publish"], 0.0, "a channel has 1 to 255"),
        ("ann", ["x" * 256], ["publish"], 0.0, "a channel has 1 to 255"),
        ("ann", ["ä"], ["publish"], 0.0, "a channel has 1 to 255"),
        ("ann", ["a\n"], ["publish"], 0.0, "a channel has 1 to 255"),
        ("ann", ["a"], ["fly"], 0.0, "operation: one of subscribe, publish"),
        ("ann", ["a"], ["pub"], 0.0, "operation: one of subscribe, publish"),
        ("ann", ["a"], ["publish"], NOW, "the expiry is past"),
        ("ann", ["a"], ["publish"], -1.0, "the expiry is past"),
        ("ann", ["a"], ["publish"], 253_402_300_800.0, "after the year 9999"),
        ("ann", ["a"], ["publish"], 1e308, "after the year 9999"),
        ("ann", ["a"], ["publish"], float("inf"), "after the year 9999"),
        ("ann", ["a"], ["publish"], float("nan"), "after the year 9999"),
        ("ann", [f"c{number}" for number in range(51)], ["publish", "history"], 0.0, "100 at most"),
    ],
)
async def test_what_is_not_allowed_is_refused_by_name(
    grants: UserGrants, user: str, channels: list[str], operations: list[str], expires_at: float, said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        await grants.give(user, channels, operations, expires_at)
    assert await grants.of("ann") == []
