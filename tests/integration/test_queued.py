"""Durability `queued` on a whole stack."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.wire_client import WireClient

WITHIN_S = 20.0
CHANNELS = """
[namespaces.post]
durability = "queued"
history_size = 20
recovery = "force"
subscribe = ["authenticated"]
publish = ["authenticated"]
history = ["authenticated"]
"""


@pytest.fixture
def queued(tmp_path: Path) -> Iterator[Stack]:
    """Two edges; what dies stays dead until the test starts it."""
    channels = tmp_path / "channels.toml"
    channels.write_text(CHANNELS)
    with Stack(restart=False, channels_file=channels) as running:
        yield running


async def publish(stack: Stack, count: int, label: str) -> list[tuple[str, int]]:
    """Through each edge in turn; each until it is acknowledged."""
    made: list[tuple[str, int]] = []
    deadline = time.monotonic() + WITHIN_S
    async with httpx.AsyncClient(headers={"x-api-key": stack.api_key}, timeout=10) as http:
        while len(made) < count:
            body = {"channel": "post:a", "data": f"{label}{len(made)}", "idempotency_key": f"{label}{len(made)}"}
            response = (await http.post(stack.http_urls[len(made) % 2] + "/api/publish", json=body)).json()
            if "result" in response:
                made.append((response["result"]["epoch"], response["result"]["offset"]))
            else:
                assert time.monotonic() < deadline, response
                await asyncio.sleep(0.05)
    return made


async def history(stack: Stack) -> list[tuple[int, str]]:
    async with httpx.AsyncClient(headers={"x-api-key": stack.api_key}, timeout=10) as http:
        body = {"channel": "post:a", "limit": 500}
        response = (await http.post(stack.http_urls[0] + "/api/history", json=body)).json()
    return [(one["offset"], one["data"]) for one in response["result"]["publications"]]


@pytest.mark.slow
async def test_a_lost_redis_is_told_and_costs_nothing_that_is_stored(queued: Stack) -> None:
    async with WireClient(queued.ws_urls[1]) as client:
        await client.connect(queued.token("ann"))
        await client.subscribe("post:a")
        first = await publish(queued, 50, "a")
        assert [offset for _, offset in first] == list(range(1, 51))
        assert await history(queued) == [(n + 1, f"a{n}") for n in range(50)]
        await asyncio.to_thread(queued.kill9, "persistence")
        await asyncio.to_thread(queued.start, "persistence")
        second = await publish(queued, 10, "b")
        assert {epoch for epoch, _ in second} == {epoch for epoch, _ in first}
        assert [offset for _, offset in second] == list(range(51, 61))
        # All is stored once the queue was drained or swept.
        await asyncio.to_thread(queued.terminate, "persistence")
        await asyncio.to_thread(queued.kill9, "redis")
        shutil.rmtree(queued.data / "redis")
        (queued.data / "redis").mkdir()
        for name in ("redis", "persistence"):
            await asyncio.to_thread(queued.start, name)
        third = await publish(queued, 5, "c")
        assert third[0][0] != first[0][0], "another epoch"
        assert [offset for _, offset in third] == list(range(61, 66))
        assert await history(queued) == [
            (n + 1, text)
            for n, text in enumerate(
                [f"a{n}" for n in range(50)] + [f"b{n}" for n in range(10)] + [f"c{n}" for n in range(5)]
            )
        ]
        since = {"epoch": second[-1][0], "offset": second[-1][1]}
    async with WireClient(queued.ws_urls[0]) as client:
        await client.connect(queued.token("ann"))
        found = await client.subscribe("post:a", recover=True, **since)
        assert not found.get("recovered")
