"""Whoever is sent away has left the roster before.

Back on another edge, it takes its own place.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.edge.domain.session import drain as draining
from services.edge.domain.session.drain import drain
from tests.support.edge import Client, Cluster, connected, settle

CHANNEL = "room"


@asynccontextmanager
async def drained(cluster: Cluster) -> AsyncIterator[Client]:
    """A member whose edge drains, with a grace that is over."""
    client = await connected(cluster, cluster.edge(), "ann")
    await client.call(subscribe={"channel": CHANNEL})
    work = asyncio.create_task(drain(client.session.node, 0.0))
    await settle()
    yield client
    await work


async def test_presence_hears_of_it_before_the_client_does() -> None:
    cluster, gate = Cluster(), asyncio.Event()

    async def slow(channel: str, client: str) -> bool:
        return not cluster.presence.left or await gate.wait()

    cluster.presence.written = slow  # type: ignore[method-assign]
    async with drained(cluster) as client:
        assert client.closed is None
        assert cluster.presence.left == [(CHANNEL, client.session.client, math.inf)]
        gate.set()
        await settle()
        assert client.closed == (3001, "shutdown")


async def test_who_is_off_the_rosters_comes_on_none_again_and_is_told_to_try_later() -> None:
    cluster, gate = Cluster(), asyncio.Event()

    async def slow(channel: str, client: str) -> bool:
        return not cluster.presence.left or await gate.wait()

    cluster.presence.written = slow  # type: ignore[method-assign]
    async with drained(cluster) as client:
        for method, data in (
            ("enter", {"channel": CHANNEL}),
            ("update", {"channel": CHANNEL, "data": {"n": 1}}),
            ("state", {"state": "away"}),
        ):
            assert await client.error(rpc={"method": f"presence.{method}", "data": data}) == 100, method
        await client.call(subscribe={"channel": "lounge"})
        assert not any(cluster.presence.members_of.values())
        gate.set()
        await settle()


async def test_a_presence_that_does_not_answer_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "_ROSTER_S", 0.05)
    cluster = Cluster()

    async def never(channel: str, client: str) -> bool:
        if cluster.presence.left:
            await asyncio.sleep(60)
        return False

    cluster.presence.written = never  # type: ignore[method-assign]
    async with drained(cluster) as client:
        async with asyncio.timeout(30):
            while client.closed is None:
                await asyncio.sleep(0.01)
        assert client.closed == (3001, "shutdown")


async def test_clients_are_sent_away_spread_over_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the other edges would get all of them at once."""
    monkeypatch.setattr(draining, "_STEP_S", 0.0)
    cluster = Cluster()
    node = cluster.edge()
    clients = [await connected(cluster, node, f"user{number}") for number in range(40)]
    work = asyncio.create_task(drain(node, 10.0))
    gone = []
    for _ in range(9):
        await cluster.advance(1.0)
        for client in clients:
            if client.closed is not None and client.session in node.sessions:
                await client.hang_up()
        gone.append(sum(client.closed is not None for client in clients))
    assert 0 < gone[0] < 15
    assert 10 < gone[4] < 35
    assert gone[-1] == 40
    await asyncio.wait_for(work, 30)
    assert {client.closed for client in clients} == {(3001, "shutdown")}


async def test_who_comes_during_a_drain_is_sent_away_too_and_who_stays_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(draining, "_STEP_S", 0.0)
    cluster = Cluster()
    node = cluster.edge()
    first = await connected(cluster, node, "ann")
    work = asyncio.create_task(drain(node, 10.0))
    await settle()
    late = await connected(cluster, node, "bob")
    await cluster.advance(9.5)
    assert first.closed == late.closed == (3001, "shutdown")
    assert not work.done(), "both are there still"
    await cluster.advance(1.0)
    await asyncio.wait_for(work, 30)
