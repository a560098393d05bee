"""A whole platform over IPv6.

Every address of a service is `::1` or `::`, and clients come over both families.
"""

from __future__ import annotations

import httpx
import pytest

from services.shared.redis.address import parse_redis_url
from tests.support.ipv6 import needs_ipv6
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

pytestmark = needs_ipv6

HOSTS = {
    "EDGE_HOST": "::",
    "EDGE_INTERNAL_HOST": "::1",
    "AUTH_HOST": "::1",
    "AUTH_INTERNAL_HOST": "[::1]",
    "PRESENCE_HOST": "::",
    "PRESENCE_INTERNAL_HOST": "::",
    "PERSISTENCE_HOST": "[::1]",
    "PERSISTENCE_INTERNAL_HOST": "::1",
}


async def test_a_platform_on_ipv6_serves_both_families() -> None:
    with Stack(edges=1, environment=HOSTS) as stack:
        port = httpx.URL(stack.http_urls[0]).port
        assert stack.internal_urls["edge-1"].startswith("http://[::1]:")
        for host in ("[::1]", "127.0.0.1"):
            async with WireClient(f"ws://{host}:{port}/connection/websocket") as client:
                await client.connect(stack.token("ann"))
                await client.subscribe("chat:ipv6")
                await client.publish("chat:ipv6", {"over": host})
                assert (await client.publication("chat:ipv6"))["data"] == {"over": host}
            async with httpx.AsyncClient(timeout=10) as http:
                response = await http.post(
                    f"http://{host}:{port}/api/presence",
                    headers={"X-API-Key": stack.api_key},
                    json={"channel": "chat:ipv6"},
                )
            assert "result" in response.json(), response.text


@pytest.mark.parametrize("address", ["::1", "2001:db8::7"])
def test_redis_may_have_an_address_of_ipv6(address: str) -> None:
    assert parse_redis_url(f"redis://[{address}]:6380/2").host == address
