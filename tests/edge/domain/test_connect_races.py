"""Server-side subscriptions whose channels or connections end while others are still being made."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from services.shared.namespaces import Mode
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle

FORCED = replace_namespace(OPEN, recovery=Mode.FORCE)


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
        client.protocol.closed(clean=False)
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
