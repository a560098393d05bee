"""Whoever is sent away has left the roster before: back on another edge, it takes its own place."""

from __future__ import annotations

import asyncio
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
        return not cluster.presence.left_clean or await gate.wait()

    cluster.presence.written = slow  # type: ignore[method-assign]
    async with drained(cluster) as client:
        assert client.closed is None
        assert cluster.presence.left_clean == [(CHANNEL, client.session.client, False)]
        gate.set()
        await settle()
        assert client.closed == (3001, "shutdown")


async def test_a_presence_that_does_not_answer_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "_ROSTER_S", 0.05)
    cluster = Cluster()

    async def never(channel: str, client: str) -> bool:
        if cluster.presence.left_clean:
            await asyncio.sleep(60)
        return False

    cluster.presence.written = never  # type: ignore[method-assign]
    async with drained(cluster) as client:
        async with asyncio.timeout(5):
            while client.closed is None:
                await asyncio.sleep(0.01)
        assert client.closed == (3001, "shutdown")
