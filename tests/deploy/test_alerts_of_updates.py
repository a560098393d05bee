"""What a real Prometheus says of real services.

Nothing at a start and in two updates, and much when one is gone.

Rules, scrapes and evaluations are twice as quick as deployed; the services are not, so that an outage of theirs counts
twice as long as it would. There is one replica of each but of edges, and it ends before the next one starts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import WebSocketException

from tests.deploy.tools import command, rules
from tests.support.prometheus import Prometheus, prometheus
from tests.support.stack import Stack
from tests.support.wire_client import WireClient, WireError

FACTOR = 2.0
JOBS = {
    "edge": 2,
    **dict.fromkeys(("auth", "presence", "persistence", "worker", "webhooks", "notifier", "balancer", "prometheus"), 1),
}
UPDATED = ("auth", "presence", "persistence", "edge-1", "edge-2", "redis")
CHANNELS = ("live:watched", "chat:watched")
# True here, with one replica of each, which ends before the next one starts; a stack has two, and the next one first.
OF_THE_SIZE = {"NoSpareReplica", "ServiceGone"}
# What must be behind an alert without `for`, at the latest.
SEEN_WITHIN_S = 6.0


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Two edges; what ends is started again by the test."""
    with Stack(restart=False, environment={"EDGE_DRAIN_GRACE_S": "0.3"}) as running:
        yield running


@pytest.fixture
def watching(own_stack: Stack, tmp_path: Path) -> Iterator[Prometheus]:
    targets: dict[str, list[str]] = {}
    for name, url in own_stack.internal_urls.items():
        targets.setdefault(name.split("-")[0], []).append(url.removeprefix("http://"))
    with prometheus(command("prometheus"), tmp_path / "prometheus", targets, factor=FACTOR) as running:
        running.wait_until_scraped(JOBS)
        yield running


async def publish(stack: Stack, http: httpx.AsyncClient) -> None:
    """A few a second, through both edges, whatever becomes of them."""
    number = 0
    while True:
        number += 1
        body = {"channel": CHANNELS[number % 2], "data": number, "idempotency_key": f"{number}"}
        with suppress(httpx.HTTPError):
            await http.post(f"{stack.http_urls[number // 2 % 2]}/api/publish", json=body)
        await asyncio.sleep(0.05)


async def follow(stack: Stack, edge: int, user: str) -> None:
    """Subscribe to both channels, and come back as SDKs do."""
    places: dict[str, dict[str, object]] = {}
    while True:
        with suppress(OSError, WireError, WebSocketException, TimeoutError):
            async with WireClient(stack.ws_urls[edge]) as client:
                await client.connect(stack.token(user))
                for channel in CHANNELS:
                    found = await client.subscribe(channel, **({"recover": True} | places.get(channel, {})))
                    places[channel] = {"epoch": found["epoch"], "offset": found.get("offset", 0)}
                while True:
                    for channel in CHANNELS:
                        publication = await client.publication(channel, deadline_s=20.0)
                        places[channel]["offset"] = publication["offset"]
        await asyncio.sleep(0.2)


async def test_starts_and_updates_raise_nothing_and_a_service_that_is_gone_does(
    own_stack: Stack, watching: Prometheus
) -> None:
    began = time.monotonic()
    async with AsyncExitStack() as exits:
        http = await exits.enter_async_context(httpx.AsyncClient(headers={"x-api-key": own_stack.api_key}, timeout=4))
        tasks = [asyncio.create_task(publish(own_stack, http))]
        tasks += [asyncio.create_task(follow(own_stack, number % 2, f"user{number}")) for number in range(4)]
        await asyncio.sleep(4.0)
        for _ in range(2):
            for name in UPDATED:
                await asyncio.to_thread(own_stack.restart, name)
                await asyncio.sleep(0.5)
        await asyncio.sleep(SEEN_WITHIN_S)
        window_s = time.monotonic() - began + 30
        assert await asyncio.to_thread(watching.fired, window_s) - OF_THE_SIZE == set()

        assert "ServiceGone" not in await asyncio.to_thread(watching.firing)
        await asyncio.to_thread(own_stack.kill9, "auth")
        deadline = time.monotonic() + 40.0
        while "ServiceGone" not in (firing := await asyncio.to_thread(watching.firing)):
            assert time.monotonic() < deadline, firing
            await asyncio.sleep(0.2)
        for task in tasks:
            assert not task.done(), task
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_what_is_left_out_is_an_alert() -> None:
    assert set(rules("alert")) >= OF_THE_SIZE
