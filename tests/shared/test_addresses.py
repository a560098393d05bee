"""Services are reached over IPv4 and IPv6, by address and by name.

Also by names that lead to both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from services.edge.transport.options import TransportOptions
from services.edge.transport.server import EdgeServer
from services.shared.addresses import with_port, without_brackets
from services.shared.process.internal_http import start_internal_http
from services.shared.rpc.replicas import Replicas
from tests.edge.transport.support import OneProtocol, Recorder, head
from tests.support.grpc import ScriptedServer, Stub
from tests.support.ipv6 import needs_ipv6
from thalamus.persistence.v1 import persistence_pb2 as pb

LIMIT_S = 30.0
HOSTS = [
    ("127.0.0.1", {"127.0.0.1"}),
    ("::1", {"::1"}),
    ("[::1]", {"::1"}),
    ("::", {"127.0.0.1", "::1"}),
    ("[::]", {"127.0.0.1", "::1"}),
]

pytestmark = needs_ipv6


@pytest.fixture(params=HOSTS, ids=[host for host, _ in HOSTS])
def place(request: pytest.FixtureRequest) -> tuple[str, set[str]]:
    found: tuple[str, set[str]] = request.param
    return found


def test_an_address_of_ipv6_has_brackets_before_a_port() -> None:
    assert [with_port(host, 1) for host in ("::1", "[::1]", "10.0.0.1", "auth")] == [
        *("[::1]:1", "[::1]:1", "10.0.0.1:1", "auth:1")
    ]
    assert [without_brackets(host) for host in ("[::1]", "::1", "auth", "[")] == ["::1", "::1", "auth", "["]


async def test_the_internal_port_listens_there(place: tuple[str, set[str]]) -> None:
    host, reached = place
    server = await start_internal_http(host, 0, ready=lambda: {"all": True})
    try:
        async with httpx.AsyncClient() as http:
            for address in reached:
                response = await http.get(f"http://{with_port(address, server.port)}/readyz")
                assert response.status_code == 200
    finally:
        await server.close()


async def test_the_public_port_listens_there(place: tuple[str, set[str]]) -> None:
    host, reached = place
    seen = []

    def new_handler(connection: object, info: object) -> Recorder:
        seen.append(Recorder(connection, info, echo=False))  # type: ignore[arg-type]
        return seen[-1]

    server = EdgeServer(TransportOptions(), OneProtocol(new_handler))
    await server.start(host, 0)
    for address in sorted(reached):
        reader, writer = await asyncio.open_connection(address, server.port)
        writer.write(head())
        assert (await asyncio.wait_for(reader.readline(), LIMIT_S)).startswith(b"HTTP/1.1 101 ")
        writer.close()
    await asyncio.wait_for(server.close(), LIMIT_S)
    assert [one.info.peer for one in seen] == sorted(reached)  # IPv4 in IPv6 counts as IPv4


@pytest.fixture
async def log(place: tuple[str, set[str]]) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(host=place[0])
    await server.start()
    yield server
    await server.stop()


async def asked(target: str, addresses: set[str] | None = None) -> int:
    async def resolve(_: str, port: int) -> set[str]:
        assert addresses is not None
        return {with_port(address, port) for address in addresses}

    replicas = Replicas(target, service_token=None, service="test", resolve=None if addresses is None else resolve)
    await replicas.start()
    try:
        async with asyncio.timeout(LIMIT_S):
            while not replicas.is_ready():
                await asyncio.sleep(0.01)
        reply = await replicas.call(lambda channel: Stub(channel).Open(pb.OpenRequest(channel="chat:1")), 5.0)
        return int(reply.top.offset)
    finally:
        await replicas.close()


async def test_a_service_is_reached_there_and_by_a_name_of_both_families(
    place: tuple[str, set[str]], log: ScriptedServer
) -> None:
    for address in place[1]:
        assert await asked(with_port(address, log.port)) == 7
    assert await asked(f"log:{log.port}", {"127.0.0.1", "::1"}) == 7
