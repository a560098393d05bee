"""What the public hears of a service that fails: that it failed, and nothing of how we are built."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.wire_client import WireClient

INTERNAL = re.compile(
    r"\d+\.\d+\.\d+\.\d+|:\d{4,5}\b|[A-Z][a-z]+Service|[A-Z]+_[A-Z]+|redis|sqlite|grpc|store", re.IGNORECASE
)
FAILED = {"error": {"code": 100, "message": "internal server error"}}
SIGNING_IN = {"username": "ann", "password": "correct horse battery"}


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Stack(edges=1, restart=False) as running:
        yield running


async def readiness(stack: Stack, service: str) -> int:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{stack.internal_urls[service]}/readyz")).status_code


async def until_readiness(stack: Stack, service: str, status: int, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while await readiness(stack, service) != status:
        assert time.monotonic() < deadline, f"{service} does not say {status}"
        await asyncio.sleep(0.1)


async def test_accounts_that_are_locked_make_auth_not_ready_and_users_hear_nothing_of_it(stack: Stack) -> None:
    (file,) = stack.data.rglob("auth.sqlite3")
    async with httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10) as http:
        assert (await http.post("/auth/register", json=SIGNING_IN)).status_code == 200
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            answer = await http.post("/auth/login", json=SIGNING_IN)
            assert (answer.status_code, answer.json()) == (503, FAILED)
            assert answer.headers["Retry-After"] == "1"
            await until_readiness(stack, "auth", 503, 8)
        finally:
            connection.execute("ROLLBACK")
            connection.close()
        await until_readiness(stack, "auth", 200, 10)
        assert (await http.post("/auth/login", json=SIGNING_IN)).status_code == 200


async def test_whatever_is_away_the_public_hears_nothing_of_how_we_are_built(stack: Stack) -> None:
    headers = {"X-API-Key": stack.api_key}
    async with (
        httpx.AsyncClient(base_url=stack.http_urls[0], headers=headers, timeout=10) as http,
        WireClient(stack.ws_urls[0]) as client,
    ):
        await client.connect(stack.token("ann"))
        await client.subscribe("chat:room")
        for service in ("auth", "presence", "persistence", "redis"):
            stack.kill9(service)
        heard = []
        calls = {
            "/auth/login": SIGNING_IN,
            "/auth/refresh": {"refresh_token": "x"},
            "/auth/logout": {"refresh_token": "x"},
            "/api/publish": {"channel": "chat:room", "data": 1},
            "/api/history": {"channel": "live:room", "limit": 1},
            "/api/presence": {"channel": "chat:room"},
            "/api/presence_stats": {"channel": "chat:room"},
            "/api/history_remove": {"channel": "chat:room"},
            "/api/disconnect": {"user": "bob"},
            "/api/info": {},
            "/api/batch": {"commands": [{"publish": {"channel": "live:room", "data": 1}}]},
            "/api/broadcast": {"channels": ["chat:room", "live:room"], "data": 1},
        }
        for path, body in calls.items():
            answer = await http.post(path, json=body)
            assert answer.status_code == (503 if path.startswith("/auth") else 200), answer.text
            assert '"code":100' in answer.text, path
            heard.append(answer.text)
        for command in (
            {"publish": {"channel": "chat:room", "data": 1}},
            {"history": {"channel": "chat:room", "limit": 1}},
            {"presence": {"channel": "chat:room"}},
            {"subscribe": {"channel": "live:elsewhere"}},
        ):
            heard.append(str(await client.error(**command)))
    assert [text for text in heard if INTERNAL.search(text)] == []
