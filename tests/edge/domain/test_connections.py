"""Pages of connections, put together from the answers of several edges."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from services.edge.domain.control.connections import Connections, find, merge
from services.edge.domain.control.operations import OPERATIONS, execute
from services.edge.domain.ends import ClientEnd
from services.edge.domain.session.node import Node
from tests.support.edge import Client, Cluster


async def page(nodes: list[Node], limit: int, after: str, **selected: str) -> tuple[list[dict[str, Any]], bool]:
    """As the server API asks: over JSON, and the edges answer in any order."""
    asked = Connections(limit=limit, after=after, **selected)  # type: ignore[arg-type]
    answers = [json.loads(json.dumps(await execute(node, asked))) for node in nodes]
    return merge(answers, limit)


async def pages(
    nodes: list[Node], rng: random.Random, change: Any = None, **selected: str
) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = []
    after = ""
    while True:
        one, more = await page(rng.sample(nodes, len(nodes)), rng.choice((1, 2, 3, 7)), after, **selected)
        found.append(one)
        if not more:
            return found
        after = one[-1]["client"]
        if change is not None:
            await change()


@pytest.mark.parametrize("seed", range(20))
async def test_every_connection_that_stays_is_listed_once_whatever_comes_and_goes(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    cluster = Cluster()
    nodes = [cluster.edge() for _ in range(3)]
    numbers = iter(range(1_000))

    async def come() -> Client:
        node = rng.choice(nodes)
        client = Client(cluster, node, client_id=f"{rng.randrange(10**9):09}-{next(numbers)}")
        await client.call(connect={"token": cluster.token("alice", ttl_s=None)})
        await client.call(subscribe={"channel": "room"})
        return client

    stay = [await come() for _ in range(rng.randrange(12))]
    go = [await come() for _ in range(6)]
    other = Client(cluster, nodes[0])
    await other.call(connect={"token": cluster.token("bob", ttl_s=None)})

    async def change() -> None:
        if go and rng.random() < 0.7:
            await go.pop().hang_up(ClientEnd.LOST)
        if rng.random() < 0.7:
            await come()

    for selected in ({"user": "alice"}, {"channel": "room"}):
        listed = [one["client"] for part in await pages(nodes, rng, change, **selected) for one in part]
        assert listed == sorted(set(listed))
        assert {client.session.client for client in stay} <= set(listed)
        assert other.session.client not in listed
    on_first = [one for part in await pages(nodes, rng, edge=nodes[0].edge_name) for one in part]
    assert {one["client"] for one in on_first} == set(nodes[0].clients)
    assert {one["edge_id"] for one in on_first} == {nodes[0].edge_id}


async def test_a_connection_that_is_not_open_is_not_listed() -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = Client(cluster, node)
    await client.call(connect={"token": cluster.token("alice", ttl_s=None, sid="s1"), "name": "js"})
    await cluster.advance(2)
    (one,) = find(node, Connections(user="alice", with_channels=True))["connections"]
    assert one == {
        "client": client.session.client,
        "user": "alice",
        "edge": node.edge_name,
        "edge_id": node.edge_id,
        "connected_at": int((cluster.clock.unix - 2) * 1000),
        "transport": "websocket",
        "protocol": client.session.encoder.name,
        "name": "js",
        "session": "s1",
        "channels": [],
    }
    node.clients[client.session.client].state = type(client.session.state).CONNECTING
    assert find(node, Connections(user="alice"))["connections"] == []


def test_edges_know_the_question_by_its_name() -> None:
    assert OPERATIONS["Connections"] is Connections
