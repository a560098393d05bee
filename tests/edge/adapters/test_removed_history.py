"""What `history_size` and `history_ttl_s` have removed is given out by no edge.

Whoever keeps the channel open.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from services.shared.hotlog import keys
from services.shared.namespaces import Mode
from services.shared.redis.client import redis_client
from tests.support.edge import OPEN, SIGNED_IN, Client, Cluster, replace_namespace
from tests.support.live_edge import LiveEdge

KEPT = replace_namespace(OPEN, recovery=Mode.FORCE, history=SIGNED_IN, publish=SIGNED_IN)
PUBLISHED = 5


async def _answer(client: Client, **request: Any) -> dict[str, Any]:
    """The result of one command, which waits for a real Redis."""
    command_id = await client.post(**request)
    deadline = time.monotonic() + 30
    while not (found := [line for line in client.lines if line.get("id") == command_id]):
        assert time.monotonic() < deadline, request
        await asyncio.sleep(0.005)
    (name,) = request
    result: dict[str, Any] = found[0][name]
    return result


async def _recovered(edge: LiveEdge, user: str, offset: int, epoch: str) -> list[int] | None:
    """What a client that comes back to this offset gets.

    None: it is told that it can't recover.
    """
    client = await edge.client(user)
    wish = {"channel": "a", "recover": True, "offset": offset, "epoch": epoch}
    result = await _answer(client, subscribe=wish)
    if not result.get("recovered"):
        assert not result.get("publications")
        return None
    return [one["offset"] for one in result.get("publications", [])]


async def _published(tokens: Cluster, one: LiveEdge, two: LiveEdge) -> str:
    """Publish while subscribers keep the channel open on each edge; return the epoch."""
    watchers = [await edge.client("watcher") for edge in (one, two)]
    results = [await _answer(watcher, subscribe={"channel": "a"}) for watcher in watchers]
    for number in range(1, PUBLISHED + 1):
        await _answer(watchers[0], publish={"channel": "a", "data": number})
    for watcher in watchers:
        while len(watcher.publications("a")) < PUBLISHED:
            await asyncio.sleep(0.005)
    epoch: str = results[0]["epoch"]
    return epoch


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_what_the_history_size_has_removed_is_not_recovered(size: int, redis_url: str) -> None:
    tokens = Cluster(default=replace_namespace(KEPT, history_size=size))
    async with LiveEdge(tokens, redis_url) as one, LiveEdge(tokens, redis_url) as two:
        epoch = await _published(tokens, one, two)
        for edge in (one, two):
            reader = await edge.client("reader")
            page = await _answer(reader, history={"channel": "a", "limit": -1})
            kept = [publication["offset"] for publication in page["publications"]]
            assert kept == list(range(PUBLISHED - size + 1, PUBLISHED + 1))
            for offset in range(PUBLISHED + 1):
                missed = list(range(offset + 1, PUBLISHED + 1))
                expected = missed if set(missed) <= set(kept) else None
                assert await _recovered(edge, f"back-{offset}", offset, epoch) == expected


async def test_what_the_history_ttl_has_removed_is_not_recovered(redis_url: str) -> None:
    tokens = Cluster(default=replace_namespace(KEPT, history_ttl_s=1))
    async with LiveEdge(tokens, redis_url) as one, LiveEdge(tokens, redis_url) as two:
        epoch = await _published(tokens, one, two)
        async with redis_client(redis_url) as redis:
            while await redis.exists(keys.log("a")):
                await asyncio.sleep(0.02)
        for edge in (one, two):
            reader = await edge.client("reader")
            assert not (await _answer(reader, history={"channel": "a", "limit": -1}))["publications"]
            assert await _recovered(edge, "late", 0, epoch) is None
            assert await _recovered(edge, "missed-nothing", PUBLISHED, epoch) == []


async def test_the_ring_spares_a_read_of_what_the_log_has(redis_url: str) -> None:
    tokens = Cluster(default=KEPT)
    async with LiveEdge(tokens, redis_url) as one, LiveEdge(tokens, redis_url) as two:
        epoch = await _published(tokens, one, two)
        for edge in (one, two):
            before = edge.node.reader.reads
            assert await _recovered(edge, "back", 0, epoch) == [1, 2, 3, 4, 5]
            assert edge.node.reader.reads == before
