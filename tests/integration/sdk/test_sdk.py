"""Official SDKs against two edges.

Publisher on the first, subscriber on the second.
"""

from __future__ import annotations

import secrets

import pytest

from tests.support.filling import fill
from tests.support.sdk import CLIENTS, SCENARIOS, SDKS, run_scenario
from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(("sdk", "encoding"), CLIENTS)
async def test_sdk(sdk: str, encoding: str, scenario: str, request: pytest.FixtureRequest, stack: Stack) -> None:
    command: list[str] = request.getfixturevalue(SDKS[sdk])
    edge1, edge2 = stack.ws_urls[:2]
    host, port = edge2.removeprefix("ws://").split("/")[0].split(":")
    async with TcpProxy(host, int(port)) as proxy:
        addresses = {
            "edge1": edge1,
            "edge2": edge2,
            "proxied2": edge2.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}"),
            "run": secrets.token_hex(4),
            "version": sdk.rpartition("-")[2],
        }

        def token(user: str, ttl_s: float, claims: dict[str, object]) -> str:
            return stack.token(user, ttl_s=ttl_s, **claims)

        async def publish(channel: str, count: int) -> None:
            await fill(stack, channel, count, first=1)

        code, errors = await run_scenario([*command, scenario], addresses, token, proxy, publish, encoding=encoding)
    assert code == 0, errors
