"""Limits of the cluster (docs/limits.md) on two running edges."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import httpx
import pytest

from services.edge.domain.limits.publishes import slice_of
from services.edge.domain.settings import Settings
from tests.support.stack import Stack
from tests.support.wire_client import WireClient, WireError

CONNECTIONS = 5
CALLS_PER_S, CALLS_BURST = 2.5, 10
PUBLISH = {"channel": "tick:limits", "data": 1}


@pytest.fixture(scope="module")
def limited() -> Iterator[Stack]:
    environment = {"EDGE_API_CALLS_PER_KEY_PER_S": str(CALLS_PER_S), "EDGE_API_CALLS_PER_KEY_BURST": str(CALLS_BURST)}
    environment["EDGE_CONNECTIONS_PER_USER"] = str(CONNECTIONS)
    with Stack(environment=environment) as running:
        yield running


async def metric(stack: Stack, edge: str, name: str) -> float:
    """The value of a series of an edge."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(stack.internal_urls[edge] + "/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return float(line.split()[-1])


async def test_calls_of_an_api_key_are_limited_over_both_edges(limited: Stack) -> None:
    refusals = 'thalamus_edge_limit_refusals_total{limit="api_calls"}'
    async with httpx.AsyncClient(headers={"X-API-Key": limited.api_key}, timeout=10) as http:
        started = time.monotonic()
        responses = await asyncio.gather(
            *(http.post(f"{limited.http_urls[number % 2]}/api/publish", json=PUBLISH) for number in range(60))
        )
        took_s = time.monotonic() - started
        admitted = [response for response in responses if response.status_code == 200]
        refused = [response for response in responses if response.status_code == 429]
        assert len(admitted) + len(refused) == len(responses)
        # `api_key` has made calls until the edges knew the key.
        assert CALLS_BURST - 3 <= len(admitted) <= CALLS_BURST + CALLS_PER_S * took_s + 1
        assert refused
        for response in refused:
            error = response.json()["error"]
            assert (error["code"], error["message"]) == (111, "too many requests")
            assert 1 <= error["retry_after_ms"] <= CALLS_BURST / CALLS_PER_S * 1_000
            assert int(response.headers["Retry-After"]) >= 1
        assert len(refused) == sum([await metric(limited, edge, refusals) for edge in ("edge-1", "edge-2")])

        # A batch counts as its commands.
        await asyncio.sleep(CALLS_BURST / CALLS_PER_S)
        batch = {"commands": [{"publish": PUBLISH}] * CALLS_BURST}
        assert (await http.post(f"{limited.http_urls[0]}/api/batch", json=batch)).status_code == 200
        assert (await http.post(f"{limited.http_urls[1]}/api/batch", json=batch)).status_code == 429
        await asyncio.sleep(1 / CALLS_PER_S)  # a request counts before its body is read
        larger = {"commands": [{"publish": PUBLISH}] * (CALLS_BURST + 1)}
        response = await http.post(f"{limited.http_urls[0]}/api/batch", json=larger)
        assert (response.status_code, response.json()["error"]["code"]) == (200, 106)
        await asyncio.sleep(1 / CALLS_PER_S)
        empty = await http.post(f"{limited.http_urls[0]}/api/batch", json={"commands": []})
        assert (empty.status_code, empty.json()) == (200, {"result": {"replies": []}})

        # A wrong key takes nothing.
        wrong = await http.post(f"{limited.http_urls[0]}/api/publish", json=PUBLISH, headers={"X-API-Key": "wrong"})
        assert wrong.status_code == 401


async def test_a_user_has_as_many_connections_as_the_cap_on_both_edges_also_when_one_dies(limited: Stack) -> None:
    token = limited.token("ann")
    async with AsyncExitStack() as exits:

        async def come(edge: int) -> str:
            """ "" if the connection is admitted; otherwise what happened instead."""
            client = await exits.enter_async_context(WireClient(limited.ws_urls[edge]))
            try:
                await client.connect(token)
            except WireError as error:
                return str(error)
            return ""

        assert [await come(0), await come(1)] == ["", ""]
        outcomes = await asyncio.gather(*(come(number % 2) for number in range(40)))
        assert outcomes.count("") == CONNECTIONS - 2
        assert all("closed 3504" in outcome for outcome in outcomes if outcome)

        await asyncio.to_thread(limited.kill9, "edge-2")
        assert "closed 3504" in await come(0), "what the dead edge had counts until its lease ends"
        async with asyncio.timeout(20):  # after 10 to 15 s
            while await come(0):
                await asyncio.sleep(0.5)
    await asyncio.to_thread(limited.start, "edge-2")


async def test_what_a_user_writes_to_conversations_is_limited_over_both_edges_by_every_way(limited: Stack) -> None:
    settings = Settings()
    rate, burst = settings.messages_per_user_per_s, settings.messages_per_user_burst
    bearer = {"Authorization": f"Bearer {limited.token('ann')}"}
    async with (
        httpx.AsyncClient(headers=bearer, timeout=10) as http,
        WireClient(limited.ws_urls[1]) as client,
    ):
        made = await http.post(f"{limited.http_urls[0]}/chat/conversations", json={"name": "Lunch"})
        channel = made.json()["result"]["channel"]
        await client.connect(limited.token("ann"))
        said = {"channel": channel, "text": "x"}
        started = time.monotonic()
        over_http, commands = await asyncio.gather(
            asyncio.gather(
                *(
                    http.post(
                        f"{limited.http_urls[number % 2]}/chat/conversations/{channel}/messages", json={"text": "x"}
                    )
                    for number in range(60)
                )
            ),
            client.batch(*({"rpc": {"method": "messages.send", "data": said}} for _ in range(30))),
        )
        replies = [await client.reply(command) for command in commands]
        took_s = time.monotonic() - started
        page = await http.get(f"{limited.http_urls[1]}/chat/conversations/{channel}/messages?limit=100")
    admitted = sum(response.status_code == 200 for response in over_http) + sum("rpc" in reply for reply in replies)
    assert burst <= admitted <= burst + rate * took_s + 2 * slice_of(rate)
    assert len(page.json()["result"]["messages"]) == admitted
    for response in over_http:
        if response.status_code != 200:
            assert (response.status_code, response.json()["error"]["code"]) == (429, 111)
            assert int(response.headers["Retry-After"]) >= 1
    for reply in replies:
        if "error" in reply:
            assert reply["error"]["code"] == 111
            assert reply["error"]["retry_after_ms"] > 0
