"""Grants of connection tokens: the claim `caps`. Protocol, 9 and 10."""

from __future__ import annotations

from typing import Any

import pytest

from services.edge.domain.session.node import Node
from services.shared.errors import UnsubscribeCode
from services.shared.namespaces import Mode, Namespace, Permission
from tests.support.edge import Client, Cluster, connected, settle

GRANT = frozenset({Permission.GRANT})
PRIVATE = Namespace(
    name="private",
    presence=True,
    join_leave=Mode.ALLOW,
    subscribe=GRANT,
    publish=GRANT,
    history=GRANT,
    presence_read=GRANT,
)
OPERATIONS: dict[str, list[dict[str, Any]]] = {
    "sub": [{"subscribe": {"channel": "private:a"}}],
    "pub": [{"publish": {"channel": "private:a", "data": 1}}],
    "hst": [{"history": {"channel": "private:a", "limit": 1}}],
    "prs": [{"presence": {"channel": "private:a"}}, {"presence_stats": {"channel": "private:a"}}],
}
EVERYTHING = list(OPERATIONS)


def cap(*allow: str, channel: str = "private:a", **more: Any) -> dict[str, Any]:
    return {"channels": [channel], "allow": list(allow), **more}


async def ready(*caps: dict[str, Any], user: str = "alice") -> tuple[Cluster, Node, Client]:
    cluster = Cluster(private=PRIVATE)
    node = cluster.edge(ping_interval_s=0.0)
    return cluster, node, await connected(cluster, node, user, claims={"caps": list(caps), "ttl_s": 1_000})


def pushed(client: Client, kind: str) -> list[dict[str, Any]]:
    return [push for push in client.pushes if kind in push]


async def refused(client: Client, operation: str) -> list[int]:
    """The errors of the operation; 0: it was done."""
    replies = [await client.reply(**request) for request in OPERATIONS[operation]]
    return [reply.get("error", {}).get("code", 0) for reply in replies]


@pytest.mark.parametrize("granted", EVERYTHING)
async def test_a_grant_permits_its_operation_alone(granted: str) -> None:
    _, _, client = await ready(cap(granted))
    for operation in EVERYTHING:
        expected = {0} if operation == granted else {103}
        assert set(await refused(client, operation)) == expected, operation


async def test_grants_are_of_their_channels_alone() -> None:
    _, _, client = await ready(
        cap(*EVERYTHING, channel="private:ab"), cap(*EVERYTHING, channel="private:b*", match="wildcard")
    )
    for operation in EVERYTHING:
        assert set(await refused(client, operation)) == {103}
    await client.call(publish={"channel": "private:board", "data": 1})
    reply = await client.reply(publish={"channel": "elsewhere", "data": 1})  # its namespace asks for no grant
    assert reply["error"]["code"] == 103


async def test_without_caps_nothing_of_the_namespace_is_permitted() -> None:
    _, _, client = await ready()
    for operation in EVERYTHING:
        assert set(await refused(client, operation)) == {103}


async def test_an_anonymous_token_may_have_grants_too() -> None:
    _, _, client = await ready(cap("sub", "pub"), user="")
    assert await refused(client, "sub") == [0]
    assert await refused(client, "pub") == [0]


@pytest.mark.parametrize("channel", ["$private:a", "private:a#bob"])
async def test_a_grant_does_not_open_names_that_are_for_others(channel: str) -> None:
    _, _, client = await ready(cap("sub", channel=channel), cap("sub", channel="*", match="wildcard"))
    reply = await client.reply(subscribe={"channel": channel})
    assert reply["error"]["code"] == 103


async def test_recovery_and_joins_need_the_grants_of_history_and_presence() -> None:
    cluster, node, both = await ready(cap("sub", "hst", "prs"))
    neither = await connected(cluster, node, "bob", claims={"caps": [cap("sub")]})
    for client, permitted in ((both, True), (neither, False)):
        result = await client.call(subscribe={"channel": "private:a", "recoverable": True, "join_leave": True})
        assert result.get("recoverable", False) is permitted
    await connected(cluster, node, "carol", claims={"channels": ["private:a"]})
    await settle()
    assert pushed(both, "join")
    assert not pushed(neither, "join")


async def test_a_refresh_replaces_the_grants_and_ends_what_they_permitted() -> None:
    cluster, _, client = await ready(cap(*EVERYTHING))
    await client.call(subscribe={"channel": "private:a", "join_leave": True})
    await client.call(refresh={"token": cluster.token("alice", caps=[cap("sub")], ttl_s=1_000)})
    assert pushed(client, "unsubscribe") == []
    assert await refused(client, "pub") == [103]
    joins = len(pushed(client, "join"))
    await connected(cluster, cluster.nodes[0], "carol", claims={"channels": ["private:a"]})
    await settle()
    assert len(pushed(client, "join")) == joins  # they need the grant of presence, which is gone
    await client.call(refresh={"token": cluster.token("alice", caps=[], ttl_s=1_000)})
    (push,) = pushed(client, "unsubscribe")
    assert push["channel"] == "private:a"
    assert push["unsubscribe"]["code"] == UnsubscribeCode.PERMISSION_DENIED < 2500
    assert await refused(client, "sub") == [103]
    await client.call(refresh={"token": cluster.token("alice", caps=[cap("sub")], ttl_s=1_000)})
    assert await refused(client, "sub") == [0]


async def test_grants_of_an_expired_token_permit_nothing() -> None:
    cluster, _, client = await ready(cap(*EVERYTHING))
    await cluster.advance(1_001.0)
    for operation in EVERYTHING:
        assert set(await refused(client, operation)) == {109}, operation
    assert client.closed is None


@pytest.mark.parametrize(
    "caps", ["admin", [1], [{"channels": "private:a"}], [{"channels": ["x" * 300], "allow": ["sub"]}]]
)
async def test_a_token_with_a_claim_of_another_shape_is_refused(caps: Any) -> None:
    cluster = Cluster(private=PRIVATE)
    client = Client(cluster, cluster.edge())
    await client.post(connect={"token": cluster.token("alice", caps=caps)})
    assert client.closed == (3500, "invalid token")
