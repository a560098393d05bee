"""Changed profiles in conversations, on edges with real sessions and channels.

Logs and pub/sub are in memory; every test runs with JSON and with Protobuf.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from services.edge.domain.control import operations
from services.edge.domain.profiles.announcer import AGAIN_S
from services.edge.domain.session.node import Node
from services.shared.namespaces import Delta
from tests.support.edge import Client, Cluster, connected, settle
from tests.support.edge_chat import CONV, GROUP, OPEN_ONE
from tests.support.full import sized


class Memberships:
    """Those of the conversations in memory; `calls` counts questions."""

    def __init__(self, cluster: Cluster) -> None:
        self._chat, self.calls = cluster.chat, 0

    async def channels_of(self, users: Sequence[str]) -> Mapping[str, Sequence[str]]:
        self.calls += 1
        states = self._chat.states.items()
        return {user: [name for name, state in states if user in state.members] for user in users}


def group(**options: Any) -> tuple[Cluster, Memberships]:
    cluster = Cluster(conv=replace(CONV, **options))
    cluster.chat.begin("ann", "bob", "cid")
    return cluster, Memberships(cluster)


def edge(cluster: Cluster, memberships: Memberships) -> Node:
    node = cluster.edge(commands_per_s=0)
    node.announcer._memberships = memberships  # noqa: SLF001  # `Cluster.edge` knows none
    return node


async def subscribed(cluster: Cluster, node: Node, user: str, channel: str = GROUP, **more: Any) -> Client:
    client = await connected(cluster, node, user)
    await client.call(subscribe={"channel": channel, **more})
    return client


async def tell(*nodes: Node) -> None:
    for node in nodes:
        assert await node.announcer.step()
    await settle()


def seen(client: Client, channel: str = GROUP) -> list[tuple[int, dict[str, Any]]]:
    """Offsets and events; with deltas, JSON has each full event as a text."""
    publications = client.publications(channel)
    assert not any(pub.get("delta") for pub in publications)
    events = [pub["data"] if isinstance(pub["data"], dict) else json.loads(pub["data"]) for pub in publications]
    return [(pub.get("offset", 0), event) for pub, event in zip(publications, events, strict=True)]


def told(client: Client, channel: str = GROUP) -> list[tuple[str, int]]:
    """Users and versions of the events in a channel."""
    events = [event for _, event in seen(client, channel)]
    return [(event["user"], event["version"]) for event in events if event["kind"] == "profile"]


def numbered(client: Client) -> list[int]:
    return [offset for offset, event in seen(client) if event["kind"] != "profile"]


@pytest.mark.parametrize("delta", [Delta.OFF, Delta.FOSSIL])
async def test_an_edge_that_hears_of_a_change_tells_its_own_subscribers(delta: Delta) -> None:
    cluster, memberships = group(delta=delta)
    asks = {"delta": "fossil"} if delta is Delta.FOSSIL else {}
    nodes = [edge(cluster, memberships) for _ in range(2)]
    bob, cid = [await subscribed(cluster, node, user, **asks) for node, user in zip(nodes, ("bob", "cid"), strict=True)]
    first = cluster.chat.says(GROUP, "ann")
    await settle()
    nodes[0].profiles.changed("ann", 4)
    nodes[0].profiles.changed("eve", 1)
    await operations.execute(nodes[1], operations.ProfilesChanged(versions={"ann": 3, "bob": 0}))
    await tell(*nodes)
    assert (told(bob), told(cid)) == ([("ann", 4)], [("ann", 3)])
    second = cluster.chat.says(GROUP, "ann")
    await settle()
    assert (numbered(bob), numbered(cid)) == ([first, second], [first, second])


async def test_who_becomes_live_behind_the_first_look_is_told_by_the_second() -> None:
    cluster, memberships = group()
    node = edge(cluster, memberships)
    await subscribed(cluster, node, "bob")
    node.profiles.changed("ann", 1)
    await tell(node)
    cid = await subscribed(cluster, node, "cid")
    await cluster.advance(AGAIN_S)
    await tell(node)
    assert told(cid) == [("ann", 1)]
    await cluster.advance(AGAIN_S)
    await tell(node)
    assert (told(cid), memberships.calls) == ([("ann", 1)], 2)


async def test_in_an_open_conversation_the_edges_of_the_user_tell_those_of_all_edges() -> None:
    cluster, memberships = group()
    cluster.chat.begin("owner", channel=OPEN_ONE)
    nodes = [edge(cluster, memberships) for _ in range(2)]
    dan, eve = [
        await subscribed(cluster, node, user, OPEN_ONE) for node, user in zip(nodes, ("dan", "eve"), strict=True)
    ]
    for node in nodes:
        node.profiles.changed("dan", 2)
        node.profiles.changed("who is not there", 5)
    await tell(*nodes)
    assert told(dan, OPEN_ONE) == told(eve, OPEN_ONE) == [("dan", 2)]


@pytest.mark.parametrize("seed", range(sized(10, 300)))
async def test_who_was_removed_hears_of_nobody_any_more_and_the_log_stays_whole(seed: int) -> None:
    order = random.Random(seed)
    cluster, memberships = group()
    nodes = [edge(cluster, memberships) for _ in range(2)]
    bobs = [await subscribed(cluster, node, "bob") for node in nodes]
    cids = [await subscribed(cluster, node, "cid") for node in nodes]
    log: list[int] = []
    removed_at, version = order.randrange(5, 20), 0
    for step in range(30):
        if step == removed_at:
            log.append(cluster.chat.does(GROUP, "ann", kind="member", op="remove", user="bob"))
        elif order.random() < 0.5:
            version += 1
            for node in nodes:
                node.profiles.changed("ann", version)
            await cluster.advance(1.1)
            await tell(*nodes)
        else:
            place = order.randrange(2)
            cluster.bus.brokers[place].stalled = order.random() < 0.3
            log.append(cluster.chat.says(GROUP, "ann"))
            cluster.bus.brokers[place].stalled = False
    for node in nodes:
        node.hub.reconnected()
    await settle()
    last = log[-1]
    assert [numbered(cid) for cid in cids] == [log, log], seed
    for bob in bobs:
        events = [event for _, event in seen(bob)]
        ends = next(place for place, event in enumerate(events) if event.get("op") == "remove")
        assert ends == len(events) - 1, (seed, "the removal is the last that he gets")
    assert numbered(cids[0])[-1] == last
