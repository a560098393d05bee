"""Years of history, and many who come back at once, on a real stack."""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import redis.asyncio

from services.shared.hotlog import keys
from tests.support.filling import fill
from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy
from tests.support.wire_client import WireClient

COUNT = 10_000


async def pages(client: WireClient, channel: str, *, reverse: bool) -> list[tuple[int, Any]]:
    """All pages of a history, 300 at a time."""
    found: list[tuple[int, Any]] = []
    request: dict[str, Any] = {"channel": channel, "limit": 300, "reverse": reverse}
    while True:
        page = await client.call(history=request)
        publications = page.get("publications", [])
        found += [(publication["offset"], publication["data"]) for publication in publications]
        if not publications or publications[-1]["offset"] == (1 if reverse else page["offset"]):
            return found
        request["since"] = {"offset": publications[-1]["offset"], "epoch": page["epoch"]}


async def test_ten_thousand_publications_are_paged_both_ways_and_survive_the_loss_of_redis(stack: Stack) -> None:
    channel = f"chat:long-{secrets.token_hex(4)}"
    epoch = await fill(stack, channel, COUNT)
    expected = [(number + 1, number) for number in range(COUNT)]
    async with WireClient(stack.ws_urls[1]) as client:
        await client.connect(stack.token("reader"))
        await client.subscribe(channel)
        assert await pages(client, channel, reverse=False) == expected
        assert await pages(client, channel, reverse=True) == expected[::-1]
        async with redis.asyncio.Redis.from_url(stack.redis_url) as conn:
            await conn.delete(keys.log(channel), keys.meta(channel))
        assert await pages(client, channel, reverse=True) == expected[::-1]
        # Away for very long: 900 publications ago is within the limit, and only the store has them.
        async with WireClient(stack.ws_urls[0]) as late:
            await late.connect(stack.token("late"))
            result = await late.subscribe(channel, recover=True, offset=COUNT - 900, epoch=epoch)
            assert result["recovered"] is True
            assert [one["offset"] for one in result["publications"]] == list(range(COUNT - 899, COUNT + 1))
        async with WireClient(stack.ws_urls[0], deadline_s=20) as very_late:
            await very_late.connect(stack.token("very-late"))
            result = await very_late.subscribe(channel, recover=True, offset=1, epoch=epoch)
            assert (result["recovered"], result["offset"]) == (True, 1)
            got = [one["offset"] for one in result["publications"]]
            got += [one["offset"] for one in await very_late.publications(channel, COUNT - 1 - len(got))]
            assert got == list(range(2, COUNT + 1))


async def log_reads(stack: Stack, edge: str) -> float:
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{stack.internal_urls[edge]}/metrics")).text
    found = re.search(r"^thalamus_edge_log_reads_total (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("namespace", ["chat", "live"])
async def test_hundreds_that_come_back_to_one_channel_at_once_cost_few_reads(stack: Stack, namespace: str) -> None:
    """At the same moment on one edge.

    How many join a read is up to the moment, that they share it is not.
    """
    channel, many = f"{namespace}:herd-{secrets.token_hex(4)}", 300
    epoch = await fill(stack, channel, 600)  # more than the edge keeps in its ring
    async with AsyncExitStack() as exits:
        clients = []
        for number in range(many):
            client = await exits.enter_async_context(WireClient(stack.ws_urls[0], deadline_s=20))
            await client.connect(stack.token(f"herd{number}"))
            clients.append(client)
        await clients[0].subscribe(channel)
        before = await log_reads(stack, "edge-1")
        results = await asyncio.gather(
            *(one.subscribe(channel, recover=True, offset=100, epoch=epoch) for one in clients[1:])
        )
        reads = await log_reads(stack, "edge-1") - before
    assert all(result["recovered"] for result in results)
    assert all(len(result["publications"]) == 500 for result in results)
    print(f"{reads:.0f} reads for {many - 1} recoveries")
    assert reads <= many / 10


@pytest.mark.parametrize("size", [1, 40, 200, 700, 3_000, 20_000])
async def test_a_connection_cut_after_n_bytes_costs_nothing_once_the_client_recovers(stack: Stack, size: int) -> None:
    channel = f"chat:cut-{secrets.token_hex(4)}"
    host, port = stack.http_urls[0].removeprefix("http://").split(":")
    async with TcpProxy(host, int(port)) as proxy, WireClient(stack.ws_urls[1]) as publisher:
        await publisher.connect(stack.token("publisher"))
        first = await publisher.subscribe(channel)
        seen: list[int] = []
        offset, epoch = 0, first["epoch"]
        proxy.cut_after = size
        for attempt in range(4):
            if attempt == 3:
                proxy.cut_after = None
            for number in range(10):
                await publisher.publish(channel, attempt * 10 + number)
            try:
                async with WireClient(f"ws://127.0.0.1:{proxy.port}/connection/websocket", deadline_s=3) as client:
                    await client.connect(stack.token("cut"))
                    result = await client.subscribe(channel, recover=True, offset=offset, epoch=epoch)
                    assert result["recovered"] is True
                    got = [one["offset"] for one in result.get("publications", [])]
                    if attempt == 3:  # what its edge had not heard of yet when it replied follows live
                        missing = 40 - (got[-1] if got else offset)
                        got += [one["offset"] for one in await client.publications(channel, missing)]
                    seen += got
                    offset = seen[-1] if seen else offset
            except (AssertionError, OSError, EOFError):
                continue
            except Exception as error:
                if type(error).__module__.split(".")[0] != "websockets":
                    raise
        assert seen == list(range(1, 41))
