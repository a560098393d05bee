"""How many channels one user may begin per minute on an edge.

Those that exist are free.
"""

from __future__ import annotations

from typing import Any

import pytest

from services.edge.domain.session.node import Node
from services.shared.namespaces import Durability, Permission
from tests.support.edge import OPEN, SIGNED_IN, Client, Cluster, connected, replace_namespace

LIMIT = 5
ANYBODY = replace_namespace(OPEN, publish=SIGNED_IN, history=SIGNED_IN)
STORED = replace_namespace(ANYBODY, durability=Durability.STORED)
NONE = replace_namespace(ANYBODY, durability=Durability.NONE, history_size=0)


def made(**settings: Any) -> tuple[Cluster, Node]:
    cluster = Cluster(default=ANYBODY, stored=STORED, none=NONE)
    return cluster, cluster.edge(**{"new_channels_per_minute": LIMIT, "channels_per_client": 1_000, **settings})


async def spend(client: Client, prefix: str = "") -> None:
    """Begin as many as may be."""
    for number in range(LIMIT):
        await client.call(subscribe={"channel": f"{prefix}spent{number}"})


@pytest.mark.parametrize("prefix", ["", "stored:"])
async def test_one_more_is_refused_and_is_allowed_after_a_while(prefix: str) -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    await spend(client, prefix)
    error = (await client.reply(subscribe={"channel": f"{prefix}more"}))["error"]
    assert (error["code"], error["temporary"], error["retry_after_ms"]) == (111, True, 12_000)
    assert f"{prefix}more" not in cluster.bus.logs
    assert await client.error(subscribe={"channel": f"{prefix}more"}) == 111
    other = await connected(cluster, node, "bob")
    await other.call(subscribe={"channel": f"{prefix}bobs"})  # a limit of its own
    await cluster.advance(12.5)
    await client.call(subscribe={"channel": f"{prefix}more"})
    assert await client.error(subscribe={"channel": f"{prefix}another"}) == 111


@pytest.mark.parametrize("prefix", ["", "stored:"])
async def test_channels_that_exist_are_free_however_many(prefix: str) -> None:
    cluster, node = made()
    names = [f"{prefix}room{number}" for number in range(128)]
    for name in names:  # nobody is there now, on any edge
        cluster.bus.log(name)
    client = await connected(cluster, node)
    for name in names:
        await client.call(subscribe={"channel": name})
    assert await client.error(subscribe={"channel": f"{prefix}new"}) == 111


async def test_publish_and_history_begin_channels_too() -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    for number in range(LIMIT - 1):
        await client.call(publish={"channel": f"p{number}", "data": 1})
        await client.call(publish={"channel": f"p{number}", "data": 2})  # it exists now
    await client.call(history={"channel": "h"})
    assert await client.error(publish={"channel": "new", "data": 1}) == 111
    assert await client.error(history={"channel": "new"}) == 111
    assert "new" not in cluster.bus.logs
    cluster.bus.log("old")
    assert (await client.call(publish={"channel": "old", "data": 1}))["offset"] == 1
    await client.call(history={"channel": "old", "limit": 1})


async def test_a_publish_that_waits_for_that_keeps_its_place_before_the_next() -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    await spend(client)
    cluster.bus.log("old")
    await client.raw(
        '{"id":91,"publish":{"channel":"old","data":1}}\n{"id":92,"publish":{"channel":"spent0","data":2}}\n'
        '{"id":93,"publish":{"channel":"old","data":3}}'
    )
    assert [line["id"] for line in client.lines if line.get("id", 0) > 90] == [91, 92, 93]
    assert [entry.data for entry in cluster.bus.log("old").entries] == [b"1", b"3"]


async def test_what_is_granted_and_what_leaves_nothing_is_not_counted() -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    for number in range(LIMIT + 1):
        await client.call(subscribe={"channel": f"none:{number}"})
        channel = f"granted{number}"
        token = cluster.token("alice", channel=channel)
        await client.call(subscribe={"channel": channel, "token": token})
    await spend(client)
    again = await connected(cluster, node, claims={"channels": [f"mine{number}" for number in range(LIMIT + 1)]})
    assert len(again.session.subscriptions) == LIMIT + 1


async def test_the_anonymous_of_one_address_share_one_limit() -> None:
    cluster = Cluster(default=replace_namespace(ANYBODY, subscribe=frozenset({Permission.ANYONE})))
    node = cluster.edge(new_channels_per_minute=LIMIT, allow_anonymous=True)
    clients = [Client(cluster, node, client_id=f"c{number}") for number in range(2)]
    for client in clients:
        await client.call(connect={})
    clients[1].connection.peer = "192.0.2.2"
    await spend(clients[0])
    assert await clients[0].error(subscribe={"channel": "more"}) == 111
    await clients[1].call(subscribe={"channel": "elsewhere"})


async def test_to_be_seen_in_a_channel_begins_it() -> None:
    cluster = Cluster(default=replace_namespace(ANYBODY, presence_enter=SIGNED_IN))
    node = cluster.edge(new_channels_per_minute=LIMIT)
    client = await connected(cluster, node)

    def entering(channel: str) -> dict[str, Any]:
        return {"method": "presence.enter", "data": {"channel": channel}}

    for number in range(LIMIT):
        await client.call(rpc=entering(f"c{number}"))
    assert await client.error(rpc=entering("more")) == 111
    await client.call(rpc=entering("c0"))  # replaces the entry


async def test_zero_is_no_limit() -> None:
    cluster, node = made(new_channels_per_minute=0)
    client = await connected(cluster, node)
    for number in range(20 * LIMIT):
        await client.call(subscribe={"channel": f"c{number}"})


@pytest.mark.parametrize("channel", ["x" * 60_000, "a b", "unknown:room", ""])
async def test_a_name_that_no_channel_may_have_is_neither_counted_nor_kept(channel: str) -> None:
    cluster, node = made()
    for _ in range(LIMIT + 1):
        client = await connected(cluster, node)
        await client.post(publish={"channel": channel, "data": 1})  # refused, or the end of the connection
        assert not cluster.bus.logs
    assert not node.new_channels.has_seen(channel)
    await (await connected(cluster, node)).call(subscribe={"channel": "new"})
