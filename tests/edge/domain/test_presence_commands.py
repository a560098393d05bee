"""What a backend changes in presence: commands, as each edge executes them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from services.edge.domain.control.operations import execute
from services.edge.domain.control.presence import EnterPresence, LeavePresence, UpdatePresence
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace

SEEN = replace_namespace(OPEN, join_leave=Mode.FORCE, presence_enter=frozenset({Permission.NOBODY}))


class Scene:
    """Two tabs of Ann and one of Bob on an edge; Bob sees joins."""

    cluster: Cluster
    tabs: list[Client]
    bob: Client

    async def begin(self) -> Scene:
        self.cluster = Cluster(default=SEEN)
        self.node = self.cluster.edge()
        self.bob = await connected(self.cluster, self.node, "bob")
        await self.bob.call(subscribe={"channel": "a"})
        self.tabs = [await connected(self.cluster, self.node, "ann") for _ in range(2)]
        return self

    async def do(self, command: Any, before: float = math.inf) -> dict[str, Any]:
        return await execute(self.node, command, before)

    def there(self, channel: str = "a") -> dict[str, bytes]:
        members = self.cluster.presence.members_of.get(channel, {})
        return {client: info.chan_info for client, info in members.items() if info.user == "ann"}

    def ids(self) -> list[str]:
        return [tab.session.client for tab in self.tabs]


@pytest.fixture
async def scene() -> Scene:
    return await Scene().begin()


async def test_a_backend_enters_all_clients_of_a_user_or_one_whatever_the_rule(scene: Scene) -> None:
    one, two = scene.ids()
    assert await scene.do(EnterPresence(user="ann", client=two, channel="a", data=b"1")) == {"clients": 1, "refused": 0}
    assert scene.there() == {two: b"1"}
    assert await scene.do(EnterPresence(user="ann", channel="a")) == {"clients": 2, "refused": 0}
    assert scene.there() == {one: b"", two: b""}
    assert await scene.do(EnterPresence(user="nobody", channel="a")) == {"clients": 0, "refused": 0}


async def test_what_a_backend_entered_stays_without_a_subscription_until_the_connection_ends(scene: Scene) -> None:
    one, two = scene.tabs
    await one.call(subscribe={"channel": "a", "token": scene.cluster.token("ann", channel="a", info={"x": 1})})
    await scene.do(EnterPresence(user="ann", channel="a", data=b"2"))
    assert scene.there()[scene.ids()[0]] == b'{"x":1,"presence":2}'
    await one.call(unsubscribe={"channel": "a"})
    assert scene.there() == dict.fromkeys(scene.ids(), b"2")
    await one.hang_up()
    await two.hang_up()
    assert scene.there() == {}


async def test_a_client_that_connected_after_the_call_is_not_concerned(scene: Scene) -> None:
    before = scene.cluster.clock.now
    await scene.cluster.advance(1)
    late = await connected(scene.cluster, scene.node, "ann")
    await scene.do(EnterPresence(user="ann", channel="a"), before + 0.5)
    assert set(scene.there()) == set(scene.ids())
    assert late.session.client not in scene.there()


async def test_an_update_is_for_those_who_are_there(scene: Scene) -> None:
    one, two = scene.ids()
    await scene.do(EnterPresence(user="ann", client=one, channel="a", data=b'{"x":1}'))
    update = UpdatePresence(user="ann", channel="a", data=b'{"y":2}')
    assert await scene.do(update) == {"clients": 1, "refused": 0}
    assert scene.there() == {one: b'{"x":1,"y":2}'}
    assert two not in scene.there()
    await scene.do(UpdatePresence(user="ann", channel="a", data=b"3", replace=True))
    assert scene.there() == {one: b"3"}


async def test_a_client_without_a_place_for_data_is_refused_and_the_others_are_not(scene: Scene) -> None:
    one, two = scene.tabs
    await one.call(subscribe={"channel": "a", "token": scene.cluster.token("ann", channel="a", info="text")})
    assert await scene.do(EnterPresence(user="ann", channel="a", data=b"1")) == {"clients": 1, "refused": 1}
    assert scene.there() == {one.session.client: b'"text"', two.session.client: b"1"}


async def test_a_merge_that_grows_too_long_is_106(scene: Scene) -> None:
    long = b'"%s"' % (b"x" * 1_500)
    first, second = scene.ids()
    await scene.do(EnterPresence(user="ann", channel="a", client=first, data=b"{}"))  # there it is not too long
    await scene.do(EnterPresence(user="ann", channel="a", client=second, data=b'{"a":%s}' % long))
    with pytest.raises(ThalamusError) as refused:
        await scene.do(UpdatePresence(user="ann", channel="a", data=b'{"b":%s}' % long))
    assert refused.value.code is ErrorCode.LIMIT_EXCEEDED


@pytest.mark.parametrize("channel", ["a", ""])
@pytest.mark.parametrize("unsubscribe", [False, True])
async def test_who_is_removed_is_told_and_leaves_at_once(scene: Scene, channel: str, unsubscribe: bool) -> None:
    for tab in scene.tabs:
        await tab.call(subscribe={"channel": "a"})
        await tab.call(subscribe={"channel": "b"})
    command = LeavePresence(user="ann", channel=channel, tell=True, unsubscribe=unsubscribe)
    assert await scene.do(command) == {"clients": 2, "refused": 0}
    gone = ["a"] if channel else ["a", "b"]
    assert scene.there() == {}
    assert bool(scene.there("b")) == bool(channel)
    leaves = [push["leave"]["info"]["client"] for push in scene.bob.pushes if "leave" in push]
    assert leaves == scene.ids()
    for tab in scene.tabs:
        own = [
            push["channel"]
            for push in tab.pushes
            if push.get("leave", {}).get("info", {}).get("client") == tab.session.client
        ]
        assert own == gone
        ended = [push["channel"] for push in tab.pushes if "unsubscribe" in push]
        assert ended == (gone if unsubscribe else [])
    assert await scene.do(command) == {"clients": 0, "refused": 0}


async def test_who_is_only_taken_out_is_not_told(scene: Scene) -> None:
    for tab in scene.tabs:
        await tab.call(subscribe={"channel": "a"})
    first = scene.ids()[0]
    assert await scene.do(LeavePresence(user="ann", client=first, channel="a")) == {"clients": 1, "refused": 0}
    assert not [push for push in scene.tabs[0].pushes if push.get("leave", {}).get("info", {}).get("client") == first]


async def test_a_client_that_is_not_in_presence_can_be_unsubscribed_with_it(scene: Scene) -> None:
    one, _ = scene.tabs
    await one.call(subscribe={"channel": "a"})
    await scene.do(LeavePresence(user="ann", channel="a"))
    await scene.do(LeavePresence(user="ann", channel="a", tell=True, unsubscribe=True))
    assert one.pushes[-1]["unsubscribe"]["code"] == 2000


async def test_while_presence_is_away_a_backend_is_told_that_the_outcome_is_unknown(scene: Scene) -> None:
    scene.cluster.presence.down = True
    with pytest.raises(Unavailable):
        await scene.do(EnterPresence(user="ann", channel="a"))
