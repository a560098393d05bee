"""An SDK that speaks Protobuf is told so, once, and does not come back again and again."""

from __future__ import annotations

import asyncio

from centrifuge import Client, ClientEventHandler, DisconnectedContext

from tests.support.stack import Stack


async def test_an_sdk_in_protobuf_mode_is_disconnected_for_good_with_the_reason(stack: Stack) -> None:
    told: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    class Events(ClientEventHandler):  # type: ignore[misc]  # the SDK has no types
        async def on_disconnected(self, ctx: DisconnectedContext) -> None:
            told.put_nowait((ctx.code, ctx.reason))

    client = Client(stack.ws_urls[0], token=stack.token("alice"), use_protobuf=True, events=Events())
    await client.connect()
    code, reason = await asyncio.wait_for(told.get(), 10)
    assert code == 3506
    assert "Protobuf" in reason
    await client.disconnect()
