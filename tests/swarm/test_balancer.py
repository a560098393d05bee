"""Bad requests through the balancer, by row of docs/reliability.md.

Refused by name or closed, and never upgraded.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.swarm.docker import DockerError, docker, until
from tests.swarm.stack import SwarmStack

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    "GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
)
PLAIN = "GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\n"

# (row, what is sent, statuses that are right; 0: closed without an answer)
INPUTS: list[tuple[str, bytes, set[int]]] = [
    ("b01 foreign origin", (UPGRADE + "Origin: https://evil.example\r\n\r\n").encode(), {403}),
    ("b01 null origin", (UPGRADE + "Origin: null\r\n\r\n").encode(), {403}),
    ("b02 plain GET", (PLAIN + "\r\n").encode(), {426}),
    ("b02 POST", (PLAIN.replace("GET", "POST") + "Content-Length: 0\r\n\r\n").encode(), {405}),
    ("b02 HTTP/1.0", (UPGRADE.replace("HTTP/1.1", "HTTP/1.0") + "\r\n").encode(), {400, 426, 505, 0}),
    ("b02 HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505, 0}),
    ("b02 TLS bytes", bytes.fromhex("16030100a5010000a10303") + b"\0" * 64, {400, 0}),
    ("b03 version 8", (UPGRADE.replace("Version: 13", "Version: 8") + "\r\n").encode(), {426}),
    ("b03 no version", (UPGRADE.replace("Sec-WebSocket-Version: 13\r\n", "") + "\r\n").encode(), {400, 426}),
    ("b03 no key", (UPGRADE.replace(f"Sec-WebSocket-Key: {KEY}\r\n", "") + "\r\n").encode(), {400}),
    ("b03 two keys", (UPGRADE + f"Sec-WebSocket-Key: {KEY}\r\n\r\n").encode(), {400}),
    ("b03 short key", (UPGRADE.replace(KEY, "c2hvcnQ=") + "\r\n").encode(), {400}),
    ("b03 no host", (UPGRADE.replace("Host: localhost\r\n", "") + "\r\n").encode(), {400}),
    ("b04 content length", (UPGRADE + "Content-Length: 3\r\n\r\nabc").encode(), {400, 0}),
    ("b04 chunked", (UPGRADE + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").encode(), {400, 0}),
    ("b04 both", (PLAIN + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").encode(), {400, 426, 0}),
    # HAProxy makes one line of it (RFC 9112, 5.2), so edges never see it; by itself an edge refuses it.
    ("b05 folded", (UPGRADE + "X-A: b\r\n c\r\n\r\n").encode(), {101, 400, 0}),
    ("b05 NUL", (UPGRADE + "X-A: b\0c\r\n\r\n").encode(), {400, 0}),
    ("b05 space before colon", (UPGRADE + "X-A : b\r\n\r\n").encode(), {400, 0}),
    ("b06 long line", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 414, 0}),
    ("b06 long header", (UPGRADE + f"X-A: {'a' * 20_000}\r\n\r\n").encode(), {400, 431, 0}),
    ("b06 many headers", (UPGRADE + "X-A: b\r\n" * 200 + "\r\n").encode(), {400, 431, 0}),
    ("b35 metrics", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    ("b35 health", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    ("b35 readiness", b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
]


async def answer(stack: SwarmStack, data: bytes, limit_s: float = 8.0) -> int:
    """Status of the answer; 0: closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.environment["PUBLIC_PORT"]))
    try:
        writer.write(data)
        async with asyncio.timeout(limit_s):
            line = await reader.readline()
    except ConnectionError:
        return 0
    finally:
        writer.close()
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", line)
    return int(found[1]) if found else 0


@pytest.mark.parametrize(("row", "data", "right"), INPUTS, ids=[row for row, *_ in INPUTS])
async def test_bad_request(row: str, data: bytes, right: set[int], stack: SwarmStack) -> None:
    assert await answer(stack, data) in right


async def test_a_good_request_is_upgraded(stack: SwarmStack) -> None:
    """Otherwise the rows above would hold of anything."""
    assert await answer(stack, (UPGRADE + "\r\n").encode()) == 101


async def test_b07_half_a_request_is_closed_in_time(stack: SwarmStack) -> None:
    began = time.monotonic()
    assert await answer(stack, UPGRADE.encode(), limit_s=12.0) in (0, 408)
    assert 3 < time.monotonic() - began < 9


async def test_b08_nobody_hides_behind_a_header_of_their_own(stack: SwarmStack) -> None:
    """Attempts are counted by the address that the balancer saw.

    Whatever each of them says of itself.
    """
    body = {"username": "nobody", "password": "wrong-password"}
    async with httpx.AsyncClient(base_url=stack.http) as client:
        for number in range(70):  # 60 a minute are allowed
            forged = {"X-Forwarded-For": f"203.0.113.{number}"}
            response = await client.post("/auth/login", json={**body, "username": f"nobody{number}"}, headers=forged)
            if response.status_code == 429:
                break
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0


def test_b08_connections_over_the_cap_of_an_address_are_told_to_wait(stack: SwarmStack) -> None:
    """The cap is the edge's; whose connections they are it knows from the balancer."""

    async def over_the_cap() -> list[tuple[int, bool]]:
        async with contextlib.AsyncExitStack() as exits:
            found = []
            for _ in range(10):
                try:
                    await exits.enter_async_context(connect(stack.websocket))
                    found.append((101, False))
                except InvalidStatus as refusal:
                    found.append((refusal.response.status_code, "Retry-After" in refusal.response.headers))
            return found

    stack.up(EDGE_REPLICAS="1", EDGE_MAX_CONNECTIONS_PER_ADDRESS="5")
    try:
        stack.wait_changed("edge")
        assert asyncio.run(over_the_cap()) == [(101, False)] * 5 + [(429, True)] * 5
    finally:
        stack.up(EDGE_REPLICAS="3", EDGE_MAX_CONNECTIONS_PER_ADDRESS="0")
        stack.wait_changed("edge")


def test_without_an_edge_clients_are_told_when_to_come_again(stack: SwarmStack) -> None:
    stack.scale("edge", 0)
    try:
        until(lambda: stack.status("/") == 503, 60.0, "an edge answers")
        with pytest.raises(InvalidStatus) as caught:
            asyncio.run(connect(stack.websocket).__aenter__())
        assert (caught.value.response.status_code, caught.value.response.headers["Retry-After"]) == (503, "1")
    finally:
        stack.scale("edge", 3)
        stack.wait_healthy()


def redis_cli(stack: SwarmStack, *words: str) -> str:
    """As whoever reaches the port."""
    return docker("exec", stack.containers("redis")[0], "redis-cli", *words)


def test_b34_redis_wants_a_password(stack: SwarmStack) -> None:
    assert "NOAUTH" in redis_cli(stack, "PING")


@pytest.mark.parametrize("service", ["edge", "auth", "presence", "persistence"])
@pytest.mark.parametrize("command", ["CONFIG GET *", "KEYS *", "FLUSHALL", "ACL LIST", "SHUTDOWN", "SELECT 1"])
def test_b34_services_may_not_run(stack: SwarmStack, service: str, command: str) -> None:
    if (service, command) == ("persistence", "SELECT 1"):
        pytest.skip("it looks for another platform's store in the other databases, with the same rights in each")
    password = stack.execute(service, "cat", "/run/secrets/redis_password").strip()
    try:
        said = redis_cli(stack, "--user", service, "--pass", password, "--no-auth-warning", *command.split())
    except DockerError as error:
        said = str(error)
    assert "NOPERM" in said, said
