"""SIGTERM on an edge: clients reconnect over the grace, and nothing is lost.

Nobody is seen leaving.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import httpx

from tests.support.stack import Stack
from tests.support.wire_client import WireClient

CLIENTS = 20
GRACE_S = 2.0


async def test_a_drained_edge_hands_its_clients_over_and_nobody_is_seen_leaving() -> None:
    with Stack(restart=False, environment={"EDGE_DRAIN_GRACE_S": str(GRACE_S)}) as stack:
        async with AsyncExitStack() as exits:
            watcher = await exits.enter_async_context(WireClient(stack.ws_urls[1]))
            await watcher.connect(stack.token("watcher"))
            epoch = (await watcher.subscribe("chat:drain", join_leave=True))["epoch"]
            leaving = [await exits.enter_async_context(WireClient(stack.ws_urls[0])) for _ in range(CLIENTS)]
            for number, client in enumerate(leaving):
                await client.connect(stack.token(f"user{number}"))
                await client.subscribe("chat:drain")
            for _ in range(CLIENTS + 1):
                await watcher.push("chat:drain", "join")
            stopping = asyncio.create_task(asyncio.to_thread(stack.terminate, "edge-1"))
            started = time.monotonic()

            async def hand_over(number: int, client: WireClient) -> float:
                code, reason = await client.expect_close(GRACE_S + 60)
                assert (code, reason) == (3001, "shutdown")
                took_s = time.monotonic() - started
                moved = await exits.enter_async_context(WireClient(stack.ws_urls[1]))
                await moved.connect(stack.token(f"user{number}"))
                result = await moved.subscribe("chat:drain", recover=True, offset=0, epoch=epoch)
                assert result["recovered"] is True
                return took_s

            # While it drains its port still answers, and says that it takes nobody new.
            async with httpx.AsyncClient() as http:
                while True:
                    response = await http.get(stack.http_urls[0] + "/docs")
                    if response.status_code == 503:
                        break
                    assert time.monotonic() - started < GRACE_S
                assert response.headers["retry-after"]
            took = await asyncio.gather(*(hand_over(number, client) for number, client in enumerate(leaving)))
            await stopping
            assert max(took) - min(took) >= 0.5 * GRACE_S  # spread, not all at once
            assert stack.supervisor.children["edge-1"].last_code == 0
            await watcher.publish("chat:drain", "still here")
            assert (await watcher.publication("chat:drain"))["data"] == "still here"
            await watcher.expect_silence(0.5)
            assert watcher.pushes("chat:drain", "leave") == []
            assert len(watcher.pushes("chat:drain", "join")) == CLIENTS + 1
            there = (await watcher.call(presence={"channel": "chat:drain"}))["presence"]
            assert len(there) == CLIENTS + 1
