"""mTLS between all services of a stack.

Alone, and while it is turned on one service after the other.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys

import httpx
import pytest

from tests.support.stack import Stack, clean_environment
from tests.support.wire_client import WireClient


async def reaches_all_services(stack: Stack, edge: int) -> None:
    body = {"username": f"user-{secrets.token_hex(4)}", "password": "correct horse battery"}
    async with httpx.AsyncClient(base_url=stack.http_urls[edge], timeout=10) as http:
        assert (await http.post("/auth/register", json=body)).status_code == 200  # auth
    async with WireClient(stack.ws_urls[edge]) as client:
        await client.connect(stack.token("ann"))
        channel = f"chat:{secrets.token_hex(4)}"
        await client.subscribe(channel)
        await client.publish(channel, 1)  # persistence
        assert len((await client.call(presence={"channel": channel}))["presence"]) == 1  # presence


async def test_required_by_all_the_platform_and_the_command_line_work_without_a_token() -> None:
    with Stack(edges=1, environment={"SERVICE_TLS": "require"}) as stack:
        assert stack.api_key  # made by auth, over mTLS
        await reaches_all_services(stack, 0)
        command = [sys.executable, "-m", "cli.main", "token", "--user", "ann", "--data", str(stack.data)]
        made = await asyncio.to_thread(subprocess.check_output, command, text=True, env=clean_environment(), timeout=60)
        async with WireClient(stack.ws_urls[0]) as client:
            await client.connect(made.strip().splitlines()[-1])
        assert stack.supervisor.children["auth"].spec.environment["SERVICE_TLS"] == "require"


@pytest.mark.parametrize("services", ["accept", "use"])
async def test_edges_before_and_after_the_step_reach_services_before_and_after_it(services: str) -> None:
    """From `accept` to `use`: one edge calls with the token, one with a certificate."""
    environment_of = {"edge-1": {"SERVICE_TLS": "accept"}, "edge-2": {"SERVICE_TLS": "use"}}
    with Stack(edges=2, environment={"SERVICE_TLS": services}, environment_of=environment_of) as stack:
        for edge in range(2):
            await reaches_all_services(stack, edge)
