"""Edges, persistence and Redis are asked to end in every order.

What is known of Redis at the next start.

Decision 20: `hot` logs go on where persistence ended when no edge was there, and before Redis. Else nobody can prove
for what Redis has, and they begin anew, honestly. `stored` ones go on in any case.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.wire_client import WireClient

HOT, STORED = "live:orders", "chat:orders"
PROCESSES = {"edges": ("edge-1", "edge-2"), "persistence": ("persistence",), "redis": ("redis",)}
GOES_ON = ("edges", "persistence", "redis")


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    with Stack(restart=False, environment={"EDGE_DRAIN_GRACE_S": "0"}) as running:
        yield running


async def published(stack: Stack, channel: str) -> tuple[str, int]:
    async with httpx.AsyncClient(headers={"x-api-key": stack.api_key}, timeout=10) as http:
        response = (await http.post(f"{stack.http_urls[0]}/api/publish", json={"channel": channel, "data": {}})).json()
    return response["result"]["epoch"], response["result"]["offset"]


@pytest.mark.parametrize("order", list(itertools.permutations(PROCESSES)), ids="-".join)
@pytest.mark.slow
async def test_every_order_of_an_orderly_stop(own_stack: Stack, order: tuple[str, ...]) -> None:
    before = {channel: await published(own_stack, channel) for channel in (HOT, STORED)}
    await asyncio.sleep(1.5)  # the counter is kept
    for kind in order:
        await asyncio.gather(*(asyncio.to_thread(own_stack.terminate, name) for name in PROCESSES[kind]))
    for name in ("redis", "persistence", "edge-1", "edge-2"):
        await asyncio.to_thread(own_stack.start, name)
    goes_on = {STORED} | ({HOT} if order == GOES_ON else set())
    async with WireClient(own_stack.ws_urls[1]) as client:
        await client.connect(own_stack.token("reader"))
        for channel, (epoch, offset) in before.items():
            found = await client.subscribe(channel, recover=True, epoch=epoch, offset=offset)
            assert found.get("recovered", False) is (channel in goes_on)
            assert (found["epoch"] == epoch) is (channel in goes_on)
