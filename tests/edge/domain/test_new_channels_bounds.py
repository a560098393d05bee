"""What the limit of new channels remembers is bounded, whoever comes.

With however many names.
"""

from __future__ import annotations

import pytest

from services.edge.domain.channels import new_channels
from services.edge.domain.channels.new_channels import NewChannels
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Durability
from tests.support.edge import OPEN, Cluster, replace_namespace

HOT = replace_namespace(OPEN, durability=Durability.HOT)


def limit(per_minute: int) -> tuple[NewChannels, Cluster]:
    cluster = Cluster(default=HOT)
    return NewChannels(cluster.edge().reader, per_minute, cluster.clock.monotonic), cluster


async def test_names_beyond_those_that_are_remembered_cost_a_token_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_channels, "_CHANNELS", 3)
    limits, _ = limit(4)
    for name in ("a", "b", "c"):
        await limits.admit("ann", name, HOT)
    await limits.admit("ann", "a", HOT)
    assert limits.has_seen("a")
    await limits.admit("ann", "d", HOT)  # there is no room: all others are forgotten
    assert [limits.has_seen(name) for name in "abcd"] == [False, False, False, True]
    with pytest.raises(ThalamusError) as refused:
        await limits.admit("ann", "a", HOT)
    assert refused.value.code is ErrorCode.TOO_MANY_REQUESTS
    assert refused.value.retry_after_s == pytest.approx(15.0)


async def test_of_too_many_users_the_one_goes_that_began_nothing_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_channels, "_USERS", 2)
    limits, _ = limit(2)
    assert limits.try_admit("ann", "a1", HOT)
    assert limits.try_admit("bob", "b1", HOT)
    assert limits.try_admit("ann", "a2", HOT)
    assert limits.try_admit("cid", "c1", HOT)  # bob is forgotten, ann is not
    assert not limits.try_admit("ann", "a3", HOT)
    assert limits.try_admit("bob", "b2", HOT)
    assert limits.try_admit("bob", "b3", HOT), "a bucket of its own, full again"


async def test_without_a_limit_and_without_a_log_nothing_is_counted() -> None:
    unlimited, _ = limit(0)
    limited, _ = limit(1)
    unlogged = replace_namespace(OPEN, durability=Durability.NONE)
    for number in range(50):
        assert unlimited.try_admit("ann", f"a{number}", HOT)
        assert limited.try_admit("ann", f"a{number}", unlogged)
    assert limited.try_admit("ann", "first", HOT)
    assert not limited.try_admit("ann", "second", HOT)


async def test_who_has_no_token_left_may_use_what_exists() -> None:
    limits, cluster = limit(1)
    await limits.admit("ann", "first", HOT)
    cluster.bus.log("old")
    await limits.admit("ann", "old", HOT)
    assert limits.has_seen("old")
    with pytest.raises(ThalamusError):
        await limits.admit("ann", "new", HOT)
    assert not limits.has_seen("new")
    cluster.clock.now += 60
    await limits.admit("ann", "new", HOT)
