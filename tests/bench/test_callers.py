"""Connections of measurements that call methods."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bench.callers import Caller
from services.shared.process.cancellation import end_task


async def test_pings_are_answered_while_nobody_asks_and_who_asks_is_told_of_the_end() -> None:
    asked = asyncio.Event()

    async def pinging(socket: ServerConnection) -> None:
        for _ in range(3):
            await socket.send("{}")
            assert await socket.recv() == "{}"
        asked.set()
        request = json.loads(await socket.recv())
        await socket.send('{"push":{}}\n' + json.dumps({"id": request["id"], "rpc": {"data": request["rpc"]}}))
        await socket.recv()

    async with serve(pinging, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", proxy=None) as socket:
            one = Caller(socket)
            reading = asyncio.create_task(one.run())
            await asyncio.wait_for(asked.wait(), 30)
            assert await one.call("m", a=1) == {"method": "m", "data": {"a": 1}}
            with pytest.raises(ConnectionClosed):
                await one.call("m")
            await end_task(reading)
