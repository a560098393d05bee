"""C44: ephemeral events leave the position of the official SDKs where it is.

Over 1,000 of them, on subscriptions of the client and of the server; then what was missed is recovered exactly.
"""

from __future__ import annotations

import json
import secrets

import pytest
import redis.asyncio

from services.shared.hotlog import keys
from tests.support.sdk import CLIENTS, SDKS, run_scenario
from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy
from thalamus.common.v1 import common_pb2 as pb

AT_ONCE = 100  # events
BEFORE = "js-5.7.0"  # the last one that takes a publication without offset, over Protobuf, as the position 0


@pytest.mark.parametrize("kind", ["client", "server"])
@pytest.mark.parametrize(("sdk", "encoding"), [*CLIENTS, (BEFORE, "json"), (BEFORE, "protobuf")])
async def test_a_position_stands_over_ephemeral_events_and_recovery_is_exact(
    sdk: str, encoding: str, kind: str, request: pytest.FixtureRequest, stack: Stack
) -> None:
    command: list[str] = request.getfixturevalue(SDKS["js" if sdk == BEFORE else sdk])
    if sdk == BEFORE:
        command = ["env", "SDK_PACKAGE=centrifuge-before", *command]
    edge1, edge2 = stack.ws_urls[:2]
    host, port = edge2.removeprefix("ws://").split("/")[0].split(":")
    async with TcpProxy(host, int(port)) as proxy, redis.asyncio.Redis.from_url(stack.redis_url) as client:
        addresses = {
            "edge1": edge1,
            "edge2": edge2,
            "proxied2": edge2.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}"),
            "run": secrets.token_hex(4),
            "kind": kind,
        }

        def token(user: str, ttl_s: float, claims: dict[str, object]) -> str:
            return stack.token(user, ttl_s=ttl_s, **claims)

        async def publish(channel: str, count: int) -> None:
            for start in range(0, count, AT_ONCE):
                async with client.pipeline(transaction=False) as pipeline:
                    for number in range(start, min(count, start + AT_ONCE)):
                        data = json.dumps({"kind": "typing", "number": number}).encode()
                        event = pb.Publication(data=data, info=pb.ClientInfo(user="ann", client="c"))
                        pipeline.publish(keys.pub(channel), keys.EPHEMERAL + event.SerializeToString())
                    await pipeline.execute()

        code, errors = await run_scenario(
            [*command, "ephemeral"], addresses, token, proxy, ephemeral=publish, encoding=encoding
        )
    assert code == 0, errors
