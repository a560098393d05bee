"""Connect: who may, what is known then, and server-side subscriptions.

Also when one of these fails.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from services.edge.domain.ends import ClientEnd, EndReason
from services.edge.domain.model import Publication
from services.shared.namespaces import DataFormat, Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle

FORCED = replace_namespace(OPEN, recovery=Mode.FORCE)
GRANTED = frozenset({Permission.GRANT})


def held_subscribe(cluster: Cluster, channel: str) -> asyncio.Event:
    """The broker's subscribe to this channel waits for the event."""
    gate = asyncio.Event()
    broker = cluster.bus.brokers[0]
    subscribe = broker.subscribe

    async def slow(name: str) -> None:
        if name == channel:
            await gate.wait()
        await subscribe(name)

    broker.subscribe = slow  # type: ignore[method-assign, assignment]
    return gate


async def test_a_subscription_that_ended_while_others_were_made_is_not_announced_as_alive() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    gate = held_subscribe(cluster, "b")
    client = Client(cluster, node)
    token = cluster.token("ann", channels=["a", "b"])
    await client.raw(json.dumps({"id": 1, "connect": {"token": token}}))
    node.hub.was_reset("a", "another epoch")
    gate.set()
    await settle()
    (reply,) = [line for line in client.lines if line.get("id") == 1]
    assert reply["error"]["code"] == 100
    assert reply["error"]["temporary"]
    assert not client.session.subscriptions
    assert client.connection.dropped_after is not None


async def test_a_connection_lost_right_behind_connect_leaves_nothing() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    client = Client(cluster, node)
    token = cluster.token("ann", channels=["a", "b"])
    for turns in range(12):
        client = Client(cluster, node)
        client.protocol.message(json.dumps({"id": 1, "connect": {"token": token}}).encode(), binary=False)
        for _ in range(turns):
            await asyncio.sleep(0)
        client.protocol.closed(ClientEnd.LOST)
        await settle()
        assert not client.session.subscriptions, turns
        for channel in node.hub.channels.values():
            assert len(channel) == 0, turns
        assert not any(cluster.presence.members_of.values()), turns


async def test_a_connect_that_fails_inside_is_refused_and_dropped() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()

    async def broken(*_: Any) -> Any:
        raise RuntimeError("inside")

    node.hub.open = broken  # type: ignore[method-assign, assignment]
    client = Client(cluster, node)
    await client.raw(json.dumps({"id": 1, "connect": {"token": cluster.token("ann", channels=["a"])}}))
    assert client.lines[-1]["error"]["code"] == 100
    assert client.connection.dropped_after is not None


async def test_a_repair_asked_for_while_an_older_view_still_ends_is_not_forgotten() -> None:
    cluster = Cluster(default=FORCED)
    alice = await connected(cluster, cluster.edge())
    bob = await connected(cluster, cluster.edge(), "bob")
    for client in (alice, bob):
        await client.call(subscribe={"channel": "a"})
    hub = bob.session.node.hub
    broker = cluster.bus.brokers[1]
    gate = asyncio.Event()
    read = broker.read

    async def slow(*arguments: Any, **options: Any) -> Any:
        await gate.wait()
        return await read(*arguments, **options)

    broker.read = slow  # type: ignore[method-assign]
    broker.stalled = True
    await alice.call(publish={"channel": "a", "data": 1})
    hub.reconnected()  # the first view's repair begins, and hangs
    await settle()
    hub.was_reset("a", "another epoch")
    result = await bob.call(subscribe={"channel": "a"})
    assert result["offset"] == 1
    await alice.call(publish={"channel": "a", "data": 2})
    hub.reconnected()
    gate.set()
    await settle()
    assert [pub["data"] for pub in bob.publications("a")] == [2]


@pytest.mark.parametrize("where", ["_identify", "_server_side", "_establish_all"])
async def test_a_connect_that_fails_unforeseen_is_refused_as_any_other(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("as the test wants")

    monkeypatch.setattr(sys.modules["services.edge.domain.session.handlers.connect"], where, fails)
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    client = Client(cluster, node)
    assert await client.error(connect={"token": cluster.token("ann")}) == 100
    assert client.connection.dropped_after is not None
    assert client.session.is_over
    assert not node.clients


# Who may connect.


async def connect(client: Client, **request: Any) -> Any:
    """What connect is answered with.

    The result, the code of its error, or the code of the close.
    """
    await client.post(connect=request)
    if client.closed is not None:
        return client.closed[0]
    (line,) = client.lines[:1]
    return line["error"]["code"] if "error" in line else line["connect"]


@pytest.mark.parametrize(
    ("settings", "accepted"), [({}, False), ({"allow_anonymous": True}, True), ({"insecure": True}, True)], ids=repr
)
async def test_without_a_token_a_client_is_anonymous_or_refused(settings: dict[str, bool], accepted: bool) -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(**settings))
    found = await connect(client)
    assert found == 3501 if not accepted else found["client"] == client.session.client
    assert client.session.user == ""
    assert client.session.is_open == accepted


@pytest.mark.parametrize(
    ("claims", "settings", "code"),
    [
        ({"ttl_s": 0}, {}, 109),
        ({"expire_at": 1_800_000_000.0}, {}, 110),
        ({"expire_at": 1_799_999_999.0}, {}, 110),
        ({"expire_at": 1_800_000_001.0}, {}, 0),
        ({"expire_at": 1_000.0}, {"insecure": True}, 0),
        ({"channel": "a"}, {}, 3500),
        ({"user": ""}, {}, 0),
        ({"user": ""}, {"disallow_anonymous_tokens": True}, 3507),
        ({}, {"disallow_anonymous_tokens": True}, 0),
        ({"channels": ["a b"]}, {}, 107),
        ({"channels": ["x:a"]}, {}, 102),
        ({"channels": ["a" * 256]}, {}, 107),
        ({"channels": ["a", "b"]}, {"channels_per_client": 2}, 0),
        ({"channels": ["a", "b", "c"]}, {"channels_per_client": 2}, 3505),
        ({"channels": ["a", "b"]}, {"channels_per_client": 2, "personal_channel": True}, 3505),
    ],
    ids=repr,
)
async def test_a_token_is_accepted_or_refused_by_name(
    claims: dict[str, Any], settings: dict[str, Any], code: int
) -> None:
    cluster = Cluster()
    node = cluster.edge(**settings)
    client = Client(cluster, node)
    found = await connect(client, token=cluster.token(**{"user": "alice", **claims}))
    assert (0 if isinstance(found, dict) else found) == code
    assert client.session.is_open == (not code)
    assert bool(node.clients) == (not code)
    if code and code < 1_000:
        assert client.connection.dropped_after == 5.0


@pytest.mark.parametrize(("limit", "accepted"), [(1, 1), (2, 2), (0, 4)])
async def test_a_user_has_so_many_connections_on_an_edge(limit: int, accepted: int) -> None:
    cluster = Cluster()
    node = cluster.edge(connections_per_user=limit)
    found = [
        await connect(Client(cluster, node, client_id=f"c{number}"), token=cluster.token("alice"))
        for number in range(4)
    ]
    assert [one != 3504 for one in found] == [True] * accepted + [False] * (4 - accepted)


async def test_anonymous_clients_share_no_limit_of_connections() -> None:
    cluster = Cluster()
    node = cluster.edge(connections_per_user=1, allow_anonymous=True)
    for number in range(3):
        client = Client(cluster, node, client_id=f"c{number}")
        await client.call(connect={})


# What a connection knows of its client.


async def test_the_token_says_who_the_client_is() -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = Client(cluster, node)
    token = cluster.token("alice", info={"v": 1}, sid="s1", channels=["a"])
    await client.call(connect={"token": token, "name": "a name of more than sixteen"})
    session = client.session
    assert (session.user, session.conn_info, session.token_session) == ("alice", b'{"v":1}', "s1")
    assert session.name == "a name of more t"
    assert session.token_channels == frozenset({"a"})
    assert node.users == {"alice": {session.client: session}}


@pytest.mark.parametrize(
    ("claims", "insecure", "told"),
    [({"ttl_s": 60}, False, (True, 54)), ({"ttl_s": None}, False, None), ({"ttl_s": 60}, True, None)],
    ids=["expires", "never", "insecure"],
)
async def test_the_reply_says_when_the_connection_expires(
    claims: dict[str, Any], insecure: bool, told: tuple[bool, int] | None
) -> None:
    cluster = Cluster()
    result = await Client(cluster, cluster.edge(insecure=insecure)).call(
        connect={"token": cluster.token("alice", **claims)}
    )
    assert ((result["expires"], result["ttl"]) if "expires" in result else None) == told
    assert ("ttl" in result) == bool(told)


async def test_the_reply_says_which_server_this_is() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(server_name="here", version="7"))
    assert (await client.call(connect={"token": cluster.token("alice")}))["version"] == "here 7"


async def test_a_client_is_found_by_its_id_while_it_still_connects_and_ends_when_told_so() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    gate = held_subscribe(cluster, "a")
    client = Client(cluster, node)
    await client.raw(json.dumps({"id": 1, "connect": {"token": cluster.token("ann", channels=["a"])}}))
    (session,) = node.users["ann"].values()
    assert session.is_connecting
    session.disconnect(EndReason.DISCONNECTED)
    gate.set()
    await settle()
    assert client.lines == []
    assert client.closed is not None
    assert not session.subscriptions
    assert not any(len(channel) for channel in node.hub.channels.values())


# Server-side subscriptions.


async def test_the_subscriptions_of_a_token_are_made_whatever_the_namespace_permits() -> None:
    nobody = replace_namespace(FORCED, subscribe=frozenset(), history=frozenset(), publish=GRANTED)
    cluster = Cluster(default=nobody)
    client = Client(cluster, cluster.edge())
    subs = {"$a": {"info": {"r": 1}, "data": {"d": 2}}, "b": {"override": {"presence": {"value": False}}}}
    result = await client.call(connect={"token": cluster.token("alice", subs=subs)})
    assert set(result["subs"]) == {"$a", "b"}
    assert result["subs"]["$a"]["data"] == {"d": 2}
    assert [channel for channel, members in cluster.presence.members_of.items() if members] == ["$a"]
    assert all(one.server_side for one in client.session.subscriptions.values())
    await client.call(publish={"channel": "$a", "data": 1})
    assert client.publications("$a")[0]["info"]["chan_info"] == {"r": 1}


async def test_subs_of_the_request_give_positions_and_no_subscriptions() -> None:
    cluster = Cluster(default=FORCED)
    client = Client(cluster, cluster.edge())
    for number in range(3):
        cluster.bus.append("a", Publication(b"%d" % number), "", "", 10)
    subs = {"a": {"recover": True, "offset": 1}, "other": {"recover": True}}
    result = await client.call(connect={"token": cluster.token("alice", channels=["a"]), "subs": subs})
    assert set(result["subs"]) == {"a"}
    assert [one["offset"] for one in result["subs"]["a"]["publications"]] == [2, 3]


async def test_the_channels_of_one_reply_share_64_kib_of_what_was_missed() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(ring_size=1)
    names = ["a", "b", "c"]
    for name in names:
        for _ in range(9):
            cluster.bus.append(name, Publication(b'"%s"' % (b"x" * 9_998)), "", "", 10)
    wish = {"recover": True, "offset": 0}
    for asked, in_reply in ((names[:1], 6), (names[:2], 3), (names, 2)):  # of 10,000 bytes
        client = Client(cluster, node)
        token = cluster.token("alice", channels=asked)
        result = await client.call(connect={"token": token, "subs": dict.fromkeys(asked, wish)})
        assert [len(sub["publications"]) for sub in result["subs"].values()] == [in_reply] * len(asked)
        await settle()
        for name in asked:
            assert [one["offset"] for one in client.publications(name)] == list(range(in_reply + 1, 10))
        await client.hang_up()


@pytest.mark.parametrize(("namespace", "channel"), [("", "#ann"), ("mine", "mine:#ann")])
async def test_the_personal_channel_is_for_users_and_the_token_may_say_more_of_it(namespace: str, channel: str) -> None:
    cluster = Cluster(mine=OPEN)
    node = cluster.edge(personal_channel=True, personal_channel_namespace=namespace, allow_anonymous=True)
    ann, more, nobody, token = (Client(cluster, node, client_id=f"c{number}") for number in range(4))
    assert (await ann.call(connect={"token": cluster.token("ann")}))["subs"] == {channel: {}}
    subs = {channel: {"data": {"d": 1}}}
    assert (await more.call(connect={"token": cluster.token("ann", subs=subs)}))["subs"] == {
        channel: {"data": {"d": 1}}
    }
    assert "subs" not in await nobody.call(connect={})
    assert "subs" not in await token.call(connect={"token": cluster.token()})
    off = Client(cluster, cluster.edge())
    assert "subs" not in await off.call(connect={"token": cluster.token("ann")})


async def test_one_subscription_that_can_not_be_made_refuses_connect_and_leaves_none() -> None:
    cluster = Cluster(default=FORCED, binary=replace_namespace(FORCED, data_format=DataFormat.BINARY))
    node = cluster.edge()
    client = Client(cluster, node)
    assert await connect(client, token=cluster.token("ann", channels=["a", "binary:b", "c"])) == 108
    assert not client.session.subscriptions
    assert not any(len(channel) for channel in node.hub.channels.values())
    assert not any(cluster.presence.members_of.values())
    assert client.connection.dropped_after == 5.0


async def test_a_subscription_whose_buffer_ran_over_while_others_were_made_refuses_connect() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(join_buffer_size=1)
    gate = held_subscribe(cluster, "b")
    client = Client(cluster, node)
    await client.raw(json.dumps({"id": 1, "connect": {"token": cluster.token("ann", channels=["a", "b"])}}))
    for _ in range(3):
        cluster.bus.append("a", Publication(b"1"), "", "", 10)
    gate.set()
    await settle()
    (reply,) = client.lines
    assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)
    assert not client.session.subscriptions


async def test_what_comes_while_a_subscription_is_made_follows_the_reply() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    gate = held_subscribe(cluster, "b")
    client = Client(cluster, node)
    await client.raw(json.dumps({"id": 1, "connect": {"token": cluster.token("ann", channels=["a", "b"])}}))
    cluster.bus.append("a", Publication(b"7"), "", "", 10)
    await settle()
    assert client.lines == []
    gate.set()
    await settle()
    assert "connect" in client.lines[0]
    assert [one["data"] for one in client.publications("a")] == [7]
    cluster.bus.append("b", Publication(b"8"), "", "", 10)
    assert [one["data"] for one in client.publications("b")] == [8]
