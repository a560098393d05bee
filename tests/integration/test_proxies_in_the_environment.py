"""A host with a proxy in the environment, and a Redis with TLS.

The proxy is there for AWS; Redis wants a certificate of ours.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.shared.test_redis_tls import Certificates
from tests.support.faults import free_port
from tests.support.stack import Stack
from tests.support.tcp_proxy import BackgroundProxy
from tests.support.wire_client import WireClient

NAMES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def proxy() -> Iterator[socket.socket]:
    """Takes connections, as far as the backlog goes, and answers nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        listening.setblocking(False)
        yield listening


async def degraded(stack: Stack) -> list[str]:
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(f"{stack.internal_urls['edge-1']}/readyz")
    assert response.status_code == 200
    return list(response.json()["degraded"])


async def test_services_reach_one_another_and_an_edge_names_those_it_does_not(
    proxy: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in NAMES:
        monkeypatch.setenv(name, address)
    certificates, port = Certificates(tmp_path, ["127.0.0.1"]), str(free_port())
    with (
        BackgroundProxy("127.0.0.1", int(port), tls=certificates.context) as tls,
        Stack(
            edges=1,
            restart=False,
            environment={"REDIS_PORT": port},
            environment_of={
                service: {"REDIS_URL": certificates.url(tls.port, ssl_ca_certs=str(certificates.server))}
                for service in ("auth", "presence", "persistence", "edge-1")
            },
        ) as stack,
    ):
        assert stack.api_key  # the command line reaches auth
        async with WireClient(stack.ws_urls[0]) as ann:
            await ann.connect(stack.token("ann"))
            await ann.subscribe("chat:proxy")
            await ann.publish("chat:proxy", {"n": 1})
            assert (await ann.publication("chat:proxy"))["data"] == {"n": 1}
            assert len((await ann.call(presence={"channel": "chat:proxy"}))["presence"]) == 1
            assert await degraded(stack) == []
            for name in ("presence", "persistence"):
                await asyncio.to_thread(stack.kill9, name)
            async with asyncio.timeout(30):
                while await degraded(stack) != ["persistence", "presence"]:
                    await asyncio.sleep(0.1)
            await ann.subscribe("tick:proxy")
            await ann.publish("tick:proxy", {"n": 2})  # what needs neither goes on
            assert (await ann.publication("tick:proxy"))["data"] == {"n": 2}
    with pytest.raises(BlockingIOError):
        proxy.accept()
