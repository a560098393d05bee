"""Official SDKs come back with a token that expired while they were away.

They come to another edge, and auth is stopped. Time is scaled: `EDGE_RESUME_S` is 16 here, and a client is away for 12
s or 18 s. With RESUME=full it is the default of 120 s, and 100 s or 130 s.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio

from tests.support.sdk import run_scenario
from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until
from tests.support.wire_client import WireClient, WireError

SDK_TESTS = Path(__file__).parent / "sdk"
PATH = "/connection/websocket"
FULL = os.environ.get("RESUME") == "full"
RESUME_S, BACK_S, LATE_S = (120.0, 100.0, 130.0) if FULL else (16.0, 12.0, 18.0)
TOKEN_S = 60 if FULL else 9  # lifetime of access tokens: a client is cut off before it refreshes, seconds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def resuming() -> Iterator[Stack]:
    environment = {
        "AUTH_ACCESS_TTL_S": str(TOKEN_S),
        "AUTH_ATTEMPTS_PER_ADDRESS": "0",
        "AUTH_REGISTRATION": "open",
        "EDGE_RESUME_S": str(RESUME_S),
    }
    with Stack(edges=2, environment=environment, restart=False) as running:
        yield running


class Away:
    """One client: its proxy leads to `edge-1`, and after its time away to `edge-2`."""

    def __init__(self, stack: Stack, api_key: str, auth_has_stopped: asyncio.Event, away_s: float) -> None:
        self.stack, self.api_key, self.auth_has_stopped, self.away_s = stack, api_key, auth_has_stopped, away_s
        self.ports = [int(url.rpartition(":")[2]) for url in stack.http_urls]
        self.proxy = TcpProxy("127.0.0.1", self.ports[0])
        self.is_cut = asyncio.Event()
        self.signed_in = 0
        self.user = self.access_token = ""

    async def sign_in(self) -> None:
        account = {"username": f"user-{secrets.token_hex(4)}", "password": secrets.token_urlsafe(16)}
        async with httpx.AsyncClient(base_url=self.stack.http_urls[0], timeout=10) as http:
            answer = await http.post("/auth/register", json=account)
        self.access_token = answer.json()["result"]["access_token"]
        self.user = answer.json()["result"]["user"]

    def token(self, user: str, ttl_s: float, claims: dict[str, object]) -> str:
        if not ttl_s:
            return self.access_token
        self.signed_in += 1
        return self.stack.token(self.user, ttl_s=ttl_s)

    async def miss(self, channel: str, count: int) -> None:
        """Publish, then wait until the client has been away for its time."""
        cut_at = asyncio.get_running_loop().time()
        self.is_cut.set()
        commands = [{"publish": {"channel": channel, "data": {"n": number}}} for number in range(1, count + 1)]
        key = {"X-API-Key": self.api_key}
        async with httpx.AsyncClient(base_url=self.stack.http_urls[0], headers=key, timeout=10) as http:
            replies = (await http.post("/api/batch", json={"commands": commands})).json()["result"]["replies"]
        assert all("publish" in reply for reply in replies), replies
        await self.auth_has_stopped.wait()
        self.proxy.lead_to("127.0.0.1", self.ports[1])
        await asyncio.sleep(cut_at + self.away_s - asyncio.get_running_loop().time())

    async def run(self, command: list[str]) -> tuple[int | None, str]:
        async with self.proxy:
            config: dict[str, Any] = {
                "proxied1": f"ws://127.0.0.1:{self.proxy.port}{PATH}",
                "channel": f"chat:away-{secrets.token_hex(4)}",
                "run": secrets.token_hex(4),
            }
            return await run_scenario(command, config, self.token, self.proxy, self.miss, limit_s=self.away_s + 90)


async def test_who_is_away_for_100_of_120_s_recovers_without_a_login_and_after_130_s_signs_in(
    resuming: Stack, javascript: list[str]
) -> None:
    """All four clients at once; auth is stopped for good once they have their tokens."""
    commands = {
        "node": [javascript[0], str(SDK_TESTS / "resume.mjs")],
        "python": [sys.executable, str(SDK_TESTS / "resume.py")],
    }
    key = await asyncio.to_thread(lambda: resuming.api_key)
    stopped = asyncio.Event()
    runs = []
    clients: dict[str, Away] = {}
    for sdk, command in commands.items():
        for how, away_s in (("back", BACK_S), ("late", LATE_S)):
            client = clients[f"{sdk} {how}"] = Away(resuming, key, stopped, away_s)
            await client.sign_in()
            runs.append(asyncio.create_task(client.run([*command, how])))
    cuts = [asyncio.create_task(client.is_cut.wait()) for client in clients.values()]
    _, never = await asyncio.wait(cuts, timeout=TOKEN_S)
    assert not never, "a client was not connected in time"
    await asyncio.to_thread(resuming.terminate, "auth")
    stopped.set()
    for name, (code, errors) in zip(clients, await asyncio.gather(*runs), strict=True):
        assert code == 0, (name, errors)
    text = await metrics(resuming, "edge-2")
    assert 'thalamus_edge_resumes_total{outcome="resumed"} 2.0' in text
    assert 'thalamus_edge_resumes_total{outcome="refused"}' in text
    assert [clients[f"{sdk} late"].signed_in for sdk in commands] == [1, 1]


async def test_the_client_of_a_killed_edge_resumes_and_is_listed_nowhere_until_then() -> None:
    """Nobody has written that its connection ended."""
    with Stack(edges=2, restart=False) as stack:
        key = {"X-API-Key": await asyncio.to_thread(lambda: stack.api_key)}
        token = stack.token("alice", ttl_s=3, sid="s1")
        other = stack.token("bob", ttl_s=3)
        async with httpx.AsyncClient(base_url=stack.http_urls[1], headers=key, timeout=10) as http:

            async def listed() -> list[str]:
                answer = await http.post("/api/connections", json={"user": "alice"})
                return [one["session"] for one in answer.json()["result"]["connections"]]

            async with WireClient(stack.ws_urls[0]) as client:
                await client.connect(token)
                assert await listed() == ["s1"]
                async with redis.asyncio.Redis.from_url(stack.redis_url) as conn:
                    await until(lambda: conn.keys("*:session"))  # the entry is written
                await asyncio.to_thread(stack.kill9, "edge-1")
            assert await listed() == []
            await asyncio.sleep(3.5)  # until the tokens have expired
            async with WireClient(stack.ws_urls[1]) as client:
                assert (await client.connect(token))["expires"] is True
                assert await listed() == ["s1"]
            async with WireClient(stack.ws_urls[1]) as client:
                with pytest.raises(WireError, match="109"):
                    await client.connect(other)


async def metrics(stack: Stack, name: str) -> str:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{stack.internal_urls[name]}/metrics")).text
