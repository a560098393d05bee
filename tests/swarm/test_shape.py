"""What is deployed is what the stack file says.

Healthy, spread, locked down, and nothing of it secret in sight.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jwt
import pytest

from tests.support.sdk import SDKS, run_scenario
from tests.support.tcp_proxy import TcpProxy
from tests.support.wire_client import WireClient
from tests.swarm.docker import docker
from tests.swarm.stack import IN_CHAT, SwarmStack
from verify.target import call_api


@pytest.mark.parametrize("scenario", ["chat", "presence", "history", "recovery"])
@pytest.mark.parametrize("sdk", ["js", "python-newest"])
async def test_the_official_sdks_chat_through_the_balancer(
    sdk: str, scenario: str, request: pytest.FixtureRequest, stack: SwarmStack
) -> None:
    command: list[str] = request.getfixturevalue(SDKS[sdk])
    secret = (stack.secrets / "token_secret").read_bytes()

    def token(user: str, ttl_s: float, claims: dict[str, object]) -> str:
        own: dict[str, object] = {"sub": user, "exp": int(time.time() + ttl_s), "caps": [IN_CHAT]}
        return jwt.encode(own | claims, secret, algorithm="HS256")

    async with TcpProxy("127.0.0.1", int(stack.environment["PUBLIC_PORT"])) as proxy:
        addresses = {
            "edge1": stack.websocket,
            "edge2": stack.websocket,
            "proxied2": stack.websocket.replace(stack.environment["PUBLIC_PORT"], str(proxy.port)),
            "run": secrets.token_hex(4),
            "version": sdk.rpartition("-")[2],
        }
        code, errors = await run_scenario([*command, scenario], addresses, token, proxy)
    assert code == 0, errors


async def _clients_of_edges(stack: SwarmStack) -> list[int]:
    """How many clients each edge has."""
    async with httpx.AsyncClient() as client:
        found = await call_api(client, stack.http, stack.api_key, "info")
    return [node["num_clients"] for node in found["nodes"]]


@contextlib.asynccontextmanager
async def connected(stack: SwarmStack, count: int) -> AsyncIterator[list[WireClient]]:
    """So many clients, users u0, u1, …"""
    async with contextlib.AsyncExitStack() as exits:
        clients = [await exits.enter_async_context(WireClient(stack.websocket)) for _ in range(count)]
        for number, client in enumerate(clients):
            await client.connect(stack.token(f"u{number}"))
        yield clients


async def test_clients_spread_over_the_edges(stack: SwarmStack) -> None:
    async with connected(stack, 30):
        found = await _clients_of_edges(stack)
    assert len(found) == 3
    assert min(found) >= 6, found


async def test_five_replicas_are_five_and_are_used(stack: SwarmStack) -> None:
    await asyncio.to_thread(stack.up, EDGE_REPLICAS="5")
    try:
        await asyncio.to_thread(stack.wait_healthy)
        assert stack.replicas()["edge"] == "5/5"
        async with asyncio.timeout(15):  # the balancer asks DNS every second
            while True:
                async with connected(stack, 25):
                    found = await _clients_of_edges(stack)
                if len(found) == 5 and min(found) > 0:
                    break
                await asyncio.sleep(1)
    finally:
        await asyncio.to_thread(stack.up, EDGE_REPLICAS="3")
        await asyncio.to_thread(stack.wait_healthy)


async def test_messages_cross_edges(stack: SwarmStack) -> None:
    channel = f"chat:cross-{secrets.token_hex(4)}"
    async with connected(stack, 9) as clients:
        assert min(await _clients_of_edges(stack)) > 0
        for client in clients:
            await client.subscribe(channel)
        for number, client in enumerate(clients):
            await client.publish(channel, {"n": number})
        for client in clients:
            found = [one["data"]["n"] for one in await client.publications(channel, len(clients))]
            assert found == list(range(len(clients)))


async def test_tls_is_served_with_the_certificate_of_the_secret(stack: SwarmStack) -> None:
    context = ssl.create_default_context(cafile=str(stack.secrets / "tls"))
    port = int(stack.environment["PUBLIC_TLS_PORT"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    response = await reader.read()
    writer.close()
    assert response.startswith(b"HTTP/1.1 200 "), response[:200]


@pytest.mark.parametrize("service", ["edge", "auth", "presence", "persistence"])
def test_containers_have_no_more_than_they_need(stack: SwarmStack, service: str) -> None:
    (found,) = json.loads(docker("inspect", stack.containers(service)[0]))
    assert found["Config"]["User"] == "65532:65532"
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["Init"] is True
    assert found["HostConfig"]["Memory"] > 0
    with pytest.raises(Exception, match=r"(?i)read-only"):
        stack.execute(service, "python", "-c", "open('/opt/thalamus/x', 'w')")


def test_no_secret_shows_where_it_does_not_belong_b36(stack: SwarmStack, tmp_path: Path) -> None:
    """Row B36: environment, labels, image layers, logs."""
    secrets_ = {
        path.name: path.read_text().strip()
        for path in stack.secrets.iterdir()
        if path.is_file() and path.name not in ("redis_acl", "tls") and not path.name.startswith("aws_credentials")
    }
    for name, nothing in (("fcm_account", "{}"), ("apns_key", "none")):  # only Google and Apple make these
        assert secrets_.pop(name) == nothing
    secrets_["tls"] = "PRIVATE KEY"
    assert all(len(secret) >= 11 for secret in secrets_.values()), "what is that short stands anywhere"
    sight = {"history": docker("history", "--no-trunc", "thalamus:dev")}
    for service in stack.replicas():
        sight[f"{service} logs"] = stack.logs(service, 1_000)
        for container in stack.containers(service):
            sight[f"{service} inspect"] = docker("inspect", container)
            sight[f"{service} service"] = docker("service", "inspect", f"{stack.environment['STACK']}_{service}")
    for place, text in sight.items():
        for name, secret in secrets_.items():
            assert secret not in text, f"{name} in {place}"


def test_the_image_has_nothing_that_builds(stack: SwarmStack) -> None:
    said = stack.execute(
        "edge", "python", "-c", "import importlib.util as u; print(u.find_spec('pip'), u.find_spec('hatchling'))"
    )
    assert said.split() == ["None", "None"]
