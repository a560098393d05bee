"""Tokens of single commands, where the namespace requires them.

An extension of the protocol.
"""

from __future__ import annotations

from typing import Any

import pytest

from services.edge.domain.access.revocations import Revocation, RevokedKind
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.session.node import Node
from services.edge.domain.session.rpc import RpcContext
from services.shared.namespaces import CommandToken, Namespace
from tests.support.edge import OPEN, SIGNED_IN, Client, Cluster, connected, replace_namespace

STRICT = replace_namespace(OPEN, command_token=CommandToken.REQUIRED)
COMMANDS: list[dict[str, Any]] = [
    {"publish": {"channel": "room", "data": 1}},
    {"history": {"channel": "room", "limit": 1}},
    {"presence": {"channel": "room"}},
    {"presence_stats": {"channel": "room"}},
    {"rpc": {"method": "echo", "data": 1}},
]


async def ready(namespace: Namespace = STRICT, **settings: Any) -> tuple[Cluster, Node, Client]:
    cluster = Cluster(default=namespace)

    async def echo(context: RpcContext, data: bytes) -> bytes:
        return data

    cluster.rpc.register("echo", echo)
    node = cluster.edge(ping_interval_s=0.0, **settings)
    node.verifier = TokenVerifier(cluster.keyring, revocations=node.revocations)
    client = await connected(cluster, node, claims={"ttl_s": 10_000})
    await client.call(subscribe={"channel": "room"})  # has a token of its own, inside
    return cluster, node, client


@pytest.mark.parametrize("request_", COMMANDS, ids=lambda request: next(iter(request)))
async def test_a_command_needs_a_good_token_of_the_session_s_user(request_: dict[str, Any]) -> None:
    cluster, _, client = await ready()
    good = cluster.token("alice")
    for token, code in (
        ("", 103),
        ("garbage", 103),
        (cluster.token("bob"), 103),
        (cluster.token("alice", channel="room"), 103),
        (cluster.token("alice", ttl_s=-1), 109),
        (good[:-4] + "AAAA", 103),
    ):
        reply = await client.reply(**request_, **({"token": token} if token else {}))
        assert reply["error"]["code"] == code, token
    assert client.publications("room") == []  # nothing has happened
    await client.call(**request_, token=good)


async def test_a_token_is_remembered_until_it_expires_and_not_for_another_user() -> None:
    cluster, node, client = await ready()
    other = await connected(cluster, node, "bob", claims={"ttl_s": 10_000})
    await other.call(subscribe={"channel": "room"})
    token = cluster.token("alice", ttl_s=60)
    for _ in range(3):
        await client.call(publish={"channel": "room", "data": 1}, token=token)
    assert (await other.reply(publish={"channel": "room", "data": 1}, token=token))["error"]["code"] == 103
    await cluster.advance(61)
    assert (await client.reply(publish={"channel": "room", "data": 1}, token=token))["error"]["code"] == 109


async def test_a_remembered_token_that_is_revoked_is_refused() -> None:
    cluster, node, client = await ready()
    token = cluster.token("alice", jti="t1")
    await client.call(publish={"channel": "room", "data": 1}, token=token)
    node.revocations.add(Revocation(kind=RevokedKind.TOKEN, id="t1", at=0.0, until=9e9))
    assert (await client.reply(publish={"channel": "room", "data": 1}, token=token))["error"]["code"] == 103


async def test_a_remembered_token_is_refused_once_its_key_is_not_trusted_any_more() -> None:
    cluster, _, client = await ready()
    token = cluster.token("alice", ttl_s=None)
    await client.call(publish={"channel": "room", "data": 1}, token=token)
    cluster.keyring.set_secrets(b"another secret of thirty-two bytes")
    assert (await client.reply(publish={"channel": "room", "data": 1}, token=token))["error"]["code"] == 103


async def test_a_refused_publish_begins_no_channel() -> None:
    cluster, node, client = await ready(replace_namespace(STRICT, publish=SIGNED_IN), new_channels_per_minute=2)
    for number in range(10):
        assert await client.error(publish={"channel": f"new{number}", "data": 1}) == 103
    await client.call(publish={"channel": "new", "data": 1}, token=cluster.token("alice"))
    assert not node.new_channels.has_seen("new0")


async def test_where_it_is_off_a_token_beside_a_command_is_not_looked_at() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "room"})
    await client.call(publish={"channel": "room", "data": 1}, token="garbage")


@pytest.mark.json_only("a command without a request; Protobuf's is in test_protobuf_wire.py")
async def test_a_token_alone_is_no_command() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.raw('{"token":"x"}')
    assert client.closed == (3501, "bad request")
