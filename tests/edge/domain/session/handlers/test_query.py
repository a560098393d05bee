"""History, presence, rpc and send: who may ask, and what is answered."""

from __future__ import annotations

from typing import Any

import pytest

from services.edge.domain.model import Publication
from services.edge.domain.session.node import Node
from services.edge.domain.session.rpc import RpcContext
from services.shared.namespaces import DataFormat, Durability, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace

SIGNED_IN = frozenset({Permission.AUTHENTICATED})
NOBODY: frozenset[Permission] = frozenset()
FREE = replace_namespace(OPEN, history=SIGNED_IN, presence_read=SIGNED_IN)


def made(**settings: Any) -> tuple[Cluster, Node]:
    cluster = Cluster(
        default=FREE,
        members=OPEN,
        closed=replace_namespace(OPEN, history=NOBODY, presence_read=NOBODY),
        off=replace_namespace(FREE, presence=False, history_size=0),
        plain=replace_namespace(FREE, durability=Durability.NONE),
        binary=replace_namespace(FREE, data_format=DataFormat.BINARY),
    )
    return cluster, cluster.edge(**settings)


async def ask(client: Client, kind: str, **request: Any) -> int:
    """The code of the error or of the close; 0: it was answered."""
    command_id = await client.post(**{kind: request})
    if client.closed is not None:
        return client.closed[0]
    (line,) = [line for line in client.lines if line.get("id") == command_id]
    code: int = line.get("error", {}).get("code", 0)
    return code


HISTORY = {"": 3501, "a": 0, "a b": 107, "x:a": 102, "members:a": 103, "closed:a": 103, "off:a": 108, "plain:a": 108}
PRESENCE = {"": 3501, "a": 0, "a b": 107, "x:a": 102, "members:a": 103, "closed:a": 103, "off:a": 108, "plain:a": 0}
CASES = [
    (kind, channel, code)
    for kind, codes in (
        ("history", {**HISTORY, "binary:a": 108}),
        ("presence", {**PRESENCE, "binary:a": 0}),
        ("presence_stats", {**PRESENCE, "binary:a": 0}),
    )
    for channel, code in codes.items()
]


@pytest.mark.parametrize(("kind", "channel", "code"), CASES)
async def test_who_may_not_ask_is_refused_by_name(kind: str, channel: str, code: int) -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    assert await ask(client, kind, channel=channel) == code


@pytest.mark.parametrize("kind", ["history", "presence", "presence_stats"])
async def test_subscribers_may_ask_where_the_rule_says_so_and_insecure_mode_asks_no_rule(kind: str) -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "members:a"})
    assert await ask(client, kind, channel="members:a") == 0
    assert await ask(await connected(cluster, cluster.edge(insecure=True)), kind, channel="closed:a") == 0


@pytest.mark.parametrize(
    ("request_", "offsets"),
    [
        ({}, []),
        ({"limit": 1}, [1]),
        ({"limit": 4}, [1, 2, 3, 4]),
        ({"limit": 5}, [1, 2, 3, 4]),
        ({"limit": -1}, [1, 2, 3, 4]),
        ({"limit": -5}, [1, 2, 3, 4]),
        ({"limit": 2, "reverse": True}, [6, 5]),
        ({"limit": 2, "since": {"offset": 3}}, [4, 5]),
        ({"limit": 2, "since": {"offset": 3}, "reverse": True}, [2, 1]),
    ],
    ids=repr,
)
async def test_history_is_one_page_and_the_newest_position(request_: dict[str, Any], offsets: list[int]) -> None:
    cluster, node = made(history_limit=4)
    for number in range(6):
        cluster.bus.append("a", Publication(b"%d" % number), "", "", 10)
    client = await connected(cluster, node)
    result = await client.call(history={"channel": "a", **request_})
    assert [one["offset"] for one in result["publications"]] == offsets
    assert (result["offset"], result["epoch"]) == (6, cluster.bus.log("a").epoch)


async def test_history_begins_channels_only_as_the_user_may() -> None:
    cluster, node = made(new_channels_per_minute=1)
    client = await connected(cluster, node)
    for channel in ("closed:a", "members:a", "plain:a", "off:a", "binary:a"):
        assert await ask(client, "history", channel=channel)
    assert [await ask(client, "history", channel=channel) for channel in ("new", "new", "more")] == [0, 0, 111]
    assert [await ask(client, kind, channel="more") for kind in ("presence", "presence_stats")] == [0, 0]


async def test_presence_names_the_clients_and_stats_count_them() -> None:
    cluster, node = made()
    clients = [await connected(cluster, node, user, claims={"info": user}) for user in ("ann", "ann", "bob")]
    for client in clients:
        await client.call(subscribe={"channel": "a"})
    assert (await clients[0].call(presence={"channel": "a"}))["presence"] == {
        client.session.client: {
            "user": client.session.user,
            "client": client.session.client,
            "conn_info": client.session.user,
        }
        for client in clients
    }
    assert await clients[0].call(presence_stats={"channel": "a"}) == {"num_clients": 3, "num_users": 2}
    cluster.presence.down = True
    for kind in ("presence", "presence_stats"):
        assert await ask(clients[0], kind, channel="a") == 100


async def test_rpc_calls_the_method_of_this_name_with_who_calls() -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    seen: list[tuple[str, str]] = []

    async def echo(context: RpcContext, data: bytes) -> bytes:
        seen.append((context.user, context.client))
        return data

    cluster.rpc.register("echo", echo)
    assert await client.call(rpc={"method": "echo", "data": {"a": 1}}) == {"data": {"a": 1}}
    assert seen == [("alice", client.session.client)]
    assert await ask(client, "rpc", method="another") == 104


async def test_a_client_whose_token_has_expired_calls_no_method() -> None:
    cluster, node = made(ping_interval_s=0.0)
    client = await connected(cluster, node, claims={"ttl_s": 10})
    called: list[str] = []

    async def echo(context: RpcContext, data: bytes) -> bytes:
        called.append(context.user)
        return data

    cluster.rpc.register("echo", echo)
    await cluster.advance(11)
    assert await ask(client, "rpc", method="echo") == 109
    assert not called


async def test_a_message_without_a_reply_ends_the_connection() -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    assert await ask(client, "send", data=1) == 3508
