"""The RPC methods `presence.…` of docs/presence.md, and what others see of them."""

from __future__ import annotations

from typing import Any

import pytest

from services.shared.namespaces import CommandToken, Mode, Permission, PresenceBy
from tests.support.edge import OPEN, SIGNED_IN, SUBSCRIBERS, Client, Cluster, connected, replace_namespace

SEEN = replace_namespace(OPEN, join_leave=Mode.FORCE)
APART = replace_namespace(SEEN, presence_auto=False, presence_enter=SIGNED_IN, presence_read=SIGNED_IN)


async def rpc(client: Client, method: str, **data: Any) -> Any:
    return (await client.call(rpc={"method": f"presence.{method}", "data": data}))["data"]


async def refusal(client: Client, method: str, **data: Any) -> int:
    return await client.error(rpc={"method": f"presence.{method}", "data": data})


def told(client: Client, channel: str = "a") -> list[tuple[str, str, Any]]:
    """What a client was told of: join, update or leave, the client, its chan_info."""
    found: list[tuple[str, str, Any]] = []
    for push in client.pushes:
        for kind in ("join", "leave"):
            if push["channel"] == channel and kind in push:
                what = "update" if push[kind].get("updated") else kind
                info = push[kind]["info"]
                found.append((what, info["client"], info.get("chan_info")))
    return found


async def two(cluster: Cluster, channel: str = "a") -> tuple[Client, Client]:
    """Ann, who does things, and Bob on another edge, who looks on."""
    bob = await connected(cluster, cluster.edge(), "bob")
    await bob.call(subscribe={"channel": channel})
    return await connected(cluster, cluster.edge(), "ann"), bob


async def test_to_be_seen_is_apart_from_looking_on() -> None:
    cluster = Cluster(default=APART)
    ann, bob = await two(cluster)
    assert (await rpc(bob, "members", channel="a")) == {"members": []}
    assert await rpc(ann, "enter", channel="a", data={"mood": "good"}) == {}
    assert told(bob) == [("join", ann.session.client, {"mood": "good"})]
    assert await rpc(bob, "members", channel="a") == {
        "members": [{"user": "ann", "client": ann.session.client, "chan_info": {"mood": "good"}}]
    }
    await ann.call(subscribe={"channel": "a"})
    await ann.call(unsubscribe={"channel": "a"})
    assert [what for what, *_ in told(bob)] == ["join"]  # she stays: everyone signed in may enter
    assert await rpc(ann, "leave", channel="a") == {}
    assert await rpc(ann, "leave", channel="a") == {}
    assert told(bob)[1:] == [("leave", ann.session.client, {"mood": "good"})]
    assert told(ann) == []


async def test_who_subscribes_enters_without_data_and_leaves_with_the_subscription() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    await ann.call(subscribe={"channel": "a"})
    await rpc(ann, "enter", channel="a", data=[1])
    await ann.call(unsubscribe={"channel": "a"})
    assert told(bob)[1:] == [
        ("join", ann.session.client, None),
        ("update", ann.session.client, [1]),
        ("leave", ann.session.client, [1]),
    ]


async def test_who_leaves_is_subscribed_still_and_may_enter_again() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    await ann.call(subscribe={"channel": "a"})
    await rpc(ann, "leave", channel="a")
    await bob.call(publish={"channel": "a", "data": 1})
    assert ann.publications("a")
    await rpc(ann, "enter", channel="a")
    assert [what for what, *_ in told(bob)[1:]] == ["join", "leave", "join"]


async def test_without_a_channel_the_connection_leaves_all() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    other = await connected(cluster, ann.session.node, "ann")
    for one in (ann, other):
        for channel in ("a", "b"):
            await one.call(subscribe={"channel": channel})
    await rpc(ann, "leave")
    assert told(bob)[-1] == ("leave", ann.session.client, None)
    assert [list(cluster.presence.members_of[channel]) for channel in ("a", "b")] == [
        [bob.session.client, other.session.client],
        [other.session.client],
    ]


async def test_an_update_merges_or_replaces() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    assert await refusal(ann, "update", channel="a", data={}) == 103  # no subscriber
    await ann.call(subscribe={"channel": "a"})
    for patch, replace, expected in (
        ({"a": {"x": 1, "y": 2}, "b": 1}, False, {"a": {"x": 1, "y": 2}, "b": 1}),
        ({"a": {"x": None, "z": 3}, "c": [None]}, False, {"a": {"y": 2, "z": 3}, "b": 1, "c": [None]}),
        ({"d": 1}, True, {"d": 1}),
        ("text", False, "text"),
        ({"e": {"f": None}}, False, {"e": {}}),
    ):
        await rpc(ann, "update", channel="a", data=patch, replace=replace)
        assert told(bob)[-1] == ("update", ann.session.client, expected), patch
    await rpc(ann, "leave", channel="a")
    assert await refusal(ann, "update", channel="a", data={}) == 108


async def test_data_is_a_member_of_what_a_subscription_token_gave() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    token = cluster.token("ann", channel="a", info={"role": "host"})
    await ann.call(subscribe={"channel": "a", "token": token})
    await rpc(ann, "update", channel="a", data={"typing": True})
    assert told(bob)[-1] == ("update", ann.session.client, {"role": "host", "presence": {"typing": True}})
    await ann.call(publish={"channel": "a", "data": 1})
    assert bob.publications("a")[0]["info"]["chan_info"] == {"role": "host"}
    await ann.call(unsubscribe={"channel": "a"})
    assert told(bob)[-1] == ("leave", ann.session.client, {"role": "host", "presence": {"typing": True}})
    await ann.call(subscribe={"channel": "a", "token": cluster.token("ann", channel="a", info="text")})
    assert await refusal(ann, "enter", channel="a", data=1) == 108
    assert told(bob)[-1] == ("join", ann.session.client, "text")


async def test_data_that_has_no_place_goes_when_a_token_gives_another_info() -> None:
    cluster = Cluster(default=APART)
    ann, bob = await two(cluster)
    await rpc(ann, "enter", channel="a", data=1)
    await ann.call(subscribe={"channel": "a", "token": cluster.token("ann", channel="a", info={"role": "host"})})
    assert told(bob)[-1] == ("update", ann.session.client, {"role": "host", "presence": 1})
    await ann.call(unsubscribe={"channel": "a"})
    assert told(bob)[-1] == ("update", ann.session.client, 1)
    await ann.call(subscribe={"channel": "a", "token": cluster.token("ann", channel="a", info="text")})
    assert told(bob)[-1] == ("update", ann.session.client, "text")


@pytest.mark.parametrize("method", ["enter", "update"])
async def test_data_has_two_kibibytes_at_most(method: str) -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    await ann.call(subscribe={"channel": "a"})
    await rpc(ann, method, channel="a", data="x" * 2_046)
    assert await refusal(ann, method, channel="a", data="x" * 2_047) == 106
    assert told(bob)[-1] == ("update", ann.session.client, "x" * 2_046)


async def test_a_merge_may_not_grow_beyond_the_bound() -> None:
    cluster = Cluster(default=SEEN)
    ann, _ = await two(cluster)
    await ann.call(subscribe={"channel": "a"})
    await rpc(ann, "update", channel="a", data={"a": "x" * 1_500})
    assert await refusal(ann, "update", channel="a", data={"b": "x" * 1_500}) == 106
    assert (await rpc(ann, "members", channel="a"))["members"][-1]["chan_info"] == {"a": "x" * 1_500}


async def test_a_new_name_is_an_update_that_keeps_the_data() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    await ann.call(subscribe={"channel": "a"})
    await rpc(ann, "enter", channel="a", data=1)
    await ann.call(refresh={"token": cluster.token("ann", info={"name": "Anne"})})
    last = bob.pushes[-1]["join"]
    assert last["updated"]
    assert last["info"]["conn_info"] == {"name": "Anne"}
    assert last["info"]["chan_info"] == 1


async def test_three_tabs_are_three_clients_and_one_user() -> None:
    cluster = Cluster(default=replace_namespace(SEEN, presence_by=PresenceBy.USER, presence_read=SIGNED_IN))
    tab, bob = await two(cluster)
    tabs = [tab, *[await connected(cluster, node, "ann") for node in cluster.nodes]]
    for one in tabs:
        await one.call(subscribe={"channel": "a"})
    assert await rpc(bob, "counts", channels=["a"]) == {"channels": {"a": {"num_clients": 4, "num_users": 2}}}
    await rpc(tabs[1], "update", channel="a", data="here")
    for one in tabs:
        await one.call(unsubscribe={"channel": "a"})
    first, second, last = (one.session.client for one in tabs)
    assert told(bob)[1:] == [("join", first, None), ("update", second, "here"), ("leave", last, None)]


async def test_members_come_in_pages_in_the_order_of_clients() -> None:
    cluster = Cluster(default=SEEN)
    node = cluster.edge()
    clients = [await connected(cluster, node, f"user{number}") for number in range(5)]
    for one in clients:
        await one.call(subscribe={"channel": "a"})
    pages, cursor = [], ""
    while True:
        page = await rpc(clients[0], "members", channel="a", limit=2, cursor=cursor)
        pages.append([info["client"] for info in page["members"]])
        cursor = page.get("cursor", "")
        if not cursor:
            break
    assert pages == [sorted(one.session.client for one in clients)[at : at + 2] for at in (0, 2, 4)]


async def test_channels_of_me() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster, "b")
    for channel in ("c", "a", "b"):
        await ann.call(subscribe={"channel": channel})
    assert await rpc(ann, "channels") == {"channels": ["a", "b", "c"]}
    assert await rpc(ann, "channels", limit=2) == {"channels": ["a", "b"], "cursor": "b"}
    assert await rpc(ann, "channels", limit=2, cursor="b") == {"channels": ["c"]}
    assert await rpc(bob, "channels") == {"channels": ["b"]}


async def test_online_says_since_when_the_state_and_when_last() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    tab = await connected(cluster, cluster.edge(), "ann")
    since = int(1000 * cluster.clock.unix)
    online = {"online": True, "state": "active", "since": since, "connections": 2}
    assert await rpc(bob, "online", users=["ann", "cyd"]) == {"users": {"ann": online, "cyd": {"online": False}}}
    await rpc(ann, "state", state="away")
    assert (await rpc(bob, "online", users=["ann"]))["users"]["ann"] == online  # the other tab does not say so
    await rpc(tab, "state", state="away")
    assert (await rpc(bob, "online", users=["ann"]))["users"]["ann"] == online | {"state": "away"}
    await rpc(tab, "state", state="active")
    assert (await rpc(bob, "online", users=["ann"]))["users"]["ann"] == online
    for one in (ann, tab):
        await one.hang_up()
    gone = (await rpc(bob, "online", users=["ann"]))["users"]["ann"]
    assert gone.keys() == {"online", "last_seen"}
    assert not gone["online"]


async def test_while_presence_is_down_everything_is_100_and_messages_go_on() -> None:
    cluster = Cluster(default=SEEN)
    ann, bob = await two(cluster)
    await ann.call(subscribe={"channel": "a"})
    cluster.presence.down = True
    for method, data in (
        ("enter", {"channel": "a"}),
        ("update", {"channel": "a", "data": 1}),
        ("members", {"channel": "a"}),
        ("counts", {"channels": ["a"]}),
        ("channels", {}),
        ("online", {"users": ["bob"]}),
        ("leave", {"channel": "a"}),
    ):
        assert await refusal(ann, method, **data) == 100, method
    await ann.call(publish={"channel": "a", "data": 1})
    assert bob.publications("a")


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        ("enter", {}, 107),
        ("enter", {"channel": ""}, 107),
        ("enter", {"channel": 1}, 107),
        ("enter", {"channel": "a", "more": 1}, 107),
        ("enter", {"channel": "a b"}, 107),
        ("enter", {"channel": "x:a"}, 102),
        ("enter", {"channel": "off:a"}, 108),
        ("update", {"channel": "a"}, 107),
        ("leave", {"channel": "off:a"}, 108),
        ("members", {"channel": "a", "limit": 0}, 107),
        ("members", {"channel": "a", "limit": 1_001}, 107),
        ("counts", {"channels": ["a", "off:a"]}, 108),
        ("counts", {"channels": ["a"] * 101}, 106),
        ("channels", {"limit": 1_001}, 107),
        ("online", {"users": [""]}, 107),
        ("online", {"users": ["a"] * 101}, 106),
        ("state", {"state": "asleep"}, 107),
        ("state", {}, 107),
        ("forget", {}, 104),
    ],
)
async def test_what_is_wrong_is_refused(method: str, data: dict[str, Any], code: int) -> None:
    cluster = Cluster(default=APART, off=replace_namespace(OPEN, presence=False))
    ann = await connected(cluster, cluster.edge(), "ann")
    assert await refusal(ann, method, **data) == code


async def test_a_client_may_enter_as_many_channels_as_it_may_subscribe_to() -> None:
    cluster = Cluster(default=APART)
    ann = await connected(cluster, cluster.edge(channels_per_client=2), "ann")
    for channel in ("a", "b"):
        await rpc(ann, "enter", channel=channel)
    assert await refusal(ann, "enter", channel="c") == 106
    await rpc(ann, "enter", channel="a", data=1)
    await rpc(ann, "leave", channel="a")
    await rpc(ann, "enter", channel="c")


async def test_an_entry_of_ones_own_ends_with_what_permitted_it() -> None:
    cluster = Cluster(
        default=replace_namespace(APART, presence_enter=frozenset({Permission.GRANT, Permission.SUBSCRIBER}))
    )
    ann, bob = await two(cluster)
    await ann.call(subscribe={"channel": "a"})
    await rpc(ann, "enter", channel="a")
    await ann.call(unsubscribe={"channel": "a"})
    assert told(bob) == [("join", ann.session.client, None), ("leave", ann.session.client, None)]
    granted = cluster.token("ann", caps=[{"channels": ["a"], "allow": ["enter"]}])
    await ann.call(refresh={"token": granted})
    await rpc(ann, "enter", channel="a")
    await ann.call(subscribe={"channel": "a"})
    await ann.call(unsubscribe={"channel": "a"})
    assert [what for what, *_ in told(bob)][2:] == ["join"]
    await ann.call(refresh={"token": cluster.token("ann")})
    assert [what for what, *_ in told(bob)][2:] == ["join", "leave"]
    assert ann.pushes[-1]["leave"]["info"]["client"] == ann.session.client  # she is told


async def test_the_anonymous_have_no_channels_of_theirs_and_no_state() -> None:
    cluster = Cluster(default=SEEN)
    node = cluster.edge(allow_anonymous=True)
    nobody = Client(cluster, node)
    await nobody.call(connect={})
    for method, data in (("channels", {}), ("online", {"users": ["bob"]}), ("state", {"state": "away"})):
        assert await refusal(nobody, method, **data) == 103


@pytest.mark.parametrize(
    ("settings", "online", "state"), [({"online": False}, 108, 108), ({"online_read": False}, 103, 0)]
)
async def test_an_operator_may_keep_nobody_or_tell_only_backends(
    settings: dict[str, Any], online: int, state: int
) -> None:
    cluster = Cluster(default=replace_namespace(SEEN, presence_read=SUBSCRIBERS))
    ann = await connected(cluster, cluster.edge(**settings), "ann")
    assert await refusal(ann, "online", users=["ann"]) == online
    if state:
        assert await refusal(ann, "state", state="away") == state
    assert bool(cluster.presence.connections) == settings.get("online", True)


async def test_the_namespace_of_the_channel_says_whether_a_command_needs_a_token() -> None:
    required = replace_namespace(APART, command_token=CommandToken.REQUIRED)
    cluster = Cluster(default=APART, strict=required)
    ann = await connected(cluster, cluster.edge(), "ann")
    for method, data in (
        ("enter", {"channel": "strict:a"}),
        ("leave", {"channel": "strict:a"}),
        ("members", {"channel": "strict:a"}),
        ("counts", {"channels": ["a", "strict:a"]}),
    ):
        assert await refusal(ann, method, **data) == 103, method
        request = {"method": f"presence.{method}", "data": data}
        reply = await ann.reply(rpc=request, token=cluster.token("ann"))
        assert "error" not in reply, method
    await rpc(ann, "channels")  # has no channel: the default namespace says it
    other = Cluster(default=required, free=APART)
    bob = await connected(other, other.edge(), "bob")
    assert await refusal(bob, "channels") == 103
    await rpc(bob, "enter", channel="free:a")
