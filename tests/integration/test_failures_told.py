"""What the public hears of a service that fails.

That it failed, and nothing of how we are built.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from tests.support.stack import Stack
from tests.support.wire_client import WireClient

INTERNAL = re.compile(
    r"\d+\.\d+\.\d+\.\d+|:\d{4,5}\b|[A-Z][a-z]+Service|[A-Z]+_[A-Z]+|redis|sqlite|grpc|store|internal:|auth.internal|StatusCode|ipv4",
    re.IGNORECASE,
)
PUBLIC = re.compile(r'no-store|"retry_after_ms":\d+')
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
            response = await http.post("/auth/login", json=SIGNING_IN)
            assert (response.status_code, response.json()) == (503, FAILED)
            assert response.headers["Retry-After"] == "1"
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
        received = []
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
            response = await http.post(path, json=body)
            assert response.status_code == (503 if path.startswith("/auth") else 200), response.text
            assert '"code":100' in response.text, path
            received.append(response.text)
        for command in (
            {"publish": {"channel": "chat:room", "data": 1}},
            {"history": {"channel": "chat:room", "limit": 1}},
            {"presence": {"channel": "chat:room"}},
            {"subscribe": {"channel": "live:elsewhere"}},
        ):
            received.append(str(await client.error(**command)))
    assert [text for text in received if INTERNAL.search(text)] == []


class Impostor(grpc.GenericRpcHandler):
    """Refuses every method with every status in turn, with texts for nobody outside."""

    def __init__(self) -> None:
        self._statuses = itertools.cycle(status for status in grpc.StatusCode if status is not grpc.StatusCode.OK)
        self.said: set[str] = set()

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        async def refuse(_: Any, context: Any) -> None:
            status = next(self._statuses)
            self.said.add(status.name)
            await context.abort(status, f"{status}: ipv4:10.0.0.7:9001 {call.method} (auth.internal)")

        return grpc.unary_unary_rpc_method_handler(refuse)


async def test_whoever_answers_in_a_services_place_the_public_hears_nothing_of_it() -> None:
    """Garbage, an HTTP server, an unused port, and gRPC that always refuses."""

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(random.Random(1).randbytes(400))
        await writer.drain()
        writer.close()

    async def http_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nServer: auth.internal:9001\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        writer.close()

    impostor = Impostor()
    grpc_server = grpc.aio.server()
    grpc_server.add_generic_rpc_handlers((impostor,))
    ports = [grpc_server.add_insecure_port("127.0.0.1:0")]
    await grpc_server.start()
    listeners = [await asyncio.start_server(response, "127.0.0.1", 0) for response in (garbage, http_server)]
    silent = socket.create_server(("127.0.0.1", 0))
    ports += [listener.sockets[0].getsockname()[1] for listener in listeners] + [silent.getsockname()[1]]
    calls: dict[str, list[Any]] = {
        "auth": [
            ("/auth/register", SIGNING_IN),
            ("/auth/login", SIGNING_IN),
            ("/auth/refresh", {"refresh_token": "x"}),
            ("/auth/logout", {"refresh_token": "x"}),
        ],
        "presence": [{"presence": {"channel": "room"}}, {"presence_stats": {"channel": "room"}}],
        "persistence": [
            {"subscribe": {"channel": "chat:room"}},
            {"history": {"channel": "room", "limit": 1}},
            {"publish": {"channel": "chat:room", "data": 1}},
        ],
    }
    environment_of = {
        f"edge-{number}": {f"EDGE_{service.upper()}_ADDR": f"127.0.0.1:{port}" for service in calls}
        for number, port in enumerate(ports, start=1)
    }
    received = []
    try:
        running = await asyncio.to_thread(Stack(edges=len(ports), environment_of=environment_of).__enter__)
        try:
            for http_url, ws_url in zip(running.http_urls, running.ws_urls, strict=True):
                async with (
                    httpx.AsyncClient(base_url=http_url, timeout=10) as http,
                    WireClient(ws_url) as client,
                ):
                    await client.connect(running.token("ann"))
                    await client.subscribe("room")
                    for _ in range(len(grpc.StatusCode) if http_url == running.http_urls[0] else 1):
                        for path, body in calls["auth"]:
                            response = await http.post(path, json=body)
                            assert response.status_code >= 400, response.text
                            response.headers.pop("set-cookie", None)  # its name is one that the public reads
                            received.append(f"{response.text} {response.headers}")
                    for command in (*calls["presence"], *calls["persistence"]):
                        received.append(str(await client.reply(await client.post(**command), 6.0)))
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
    finally:
        await grpc_server.stop(0)
        for listener in listeners:
            listener.close()
        silent.close()
    assert len(impostor.said) == len(grpc.StatusCode) - 1
    assert [text for text in received if INTERNAL.search(PUBLIC.sub("", text))] == []
