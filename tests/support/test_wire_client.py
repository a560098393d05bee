"""The test client itself, against a server that a test scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.support.wire_client import WireClient, WireError

Script = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def talking_to(script: Script, **options: bool | float) -> AsyncIterator[WireClient]:
    async with serve(script, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/connection/websocket"
        async with WireClient(url, **options) as client:  # type: ignore[arg-type]
            yield client


async def frames(socket: ServerConnection) -> AsyncIterator[str]:
    async for frame in socket:
        assert isinstance(frame, str)
        yield frame


async def echo(socket: ServerConnection) -> None:
    """Answers every command with its own request as the result."""
    async for frame in frames(socket):
        commands = [json.loads(line) for line in frame.split("\n")]
        await socket.send("\n".join(json.dumps(command) for command in commands))


async def test_replies_are_found_by_id_in_any_order_and_duplicates_one_after_the_other() -> None:
    async with talking_to(echo) as client:
        one, two = await client.batch({"publish": {"n": 1}}, {"publish": {"n": 2}})
        assert await client.reply(two) == {"id": two, "publish": {"n": 2}}
        assert await client.reply(one) == {"id": one, "publish": {"n": 1}}
        await client.send({"id": 9, "rpc": {}}, '{"id":9,"rpc":{"x":1}}')
        assert [await client.reply(9), await client.reply(9)] == [{"id": 9, "rpc": {}}, {"id": 9, "rpc": {"x": 1}}]
        assert await client.call(rpc={"a": None}) == {"a": None}
        with pytest.raises(WireError):
            await client.error(rpc={})


async def test_pushes_are_collected_per_channel_and_taken_in_order() -> None:
    async def script(socket: ServerConnection) -> None:
        pushes = [
            {"channel": "a", "join": {"info": {}}},
            {"channel": "a", "pub": {"data": 1}},
            {"channel": "b", "pub": {"data": 2}},
            {"channel": "a", "pub": {"data": 3}},
            {"message": {"data": 4}},
        ]
        await socket.send("\n".join(json.dumps({"push": push}) for push in pushes))
        await socket.wait_closed()

    async with talking_to(script, deadline_s=0.5) as client:
        assert [pub["data"] for pub in await client.publications("a", 2)] == [1, 3]
        assert await client.publication("b") == {"data": 2}
        assert await client.push() == {"message": {"data": 4}}
        assert [sorted(push) for push in client.pushes("a")] == [
            ["channel", "join"],
            ["channel", "pub"],
            ["channel", "pub"],
        ]
        assert len(client.pushes("a", "join")) == 1
        with pytest.raises(WireError, match="in time"):
            await client.push("a", deadline_s=0.05)


@pytest.mark.parametrize("auto_pong", [True, False])
async def test_pings_are_counted_and_answered_only_where_asked(auto_pong: bool) -> None:
    received: asyncio.Queue[str] = asyncio.Queue(10)

    async def script(socket: ServerConnection) -> None:
        await socket.send("{}")
        async for frame in frames(socket):
            await received.put(frame)

    async with talking_to(script, auto_pong=auto_pong) as client:
        await client.wait_for(lambda: True if client.pings else None, "ping")
        await client.send("last")
        assert await asyncio.wait_for(received.get(), 30) == ("{}" if auto_pong else "last")


async def test_a_close_is_told_with_code_and_reason_and_fails_what_waits() -> None:
    async def script(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.close(3501, "bad request")

    async with talking_to(script) as client:
        with pytest.raises(WireError, match="still open"):
            await client.expect_close(deadline_s=0.05)
        with pytest.raises(WireError, match="closed 3501 'bad request'"):
            await client.call(rpc={})
        assert await client.expect_close() == (3501, "bad request")


async def test_an_end_without_close_frame_is_1006() -> None:
    async def script(socket: ServerConnection) -> None:
        socket.transport.abort()

    async with talking_to(script) as client:
        assert await client.expect_close() == (1006, "")


async def test_silence_is_broken_by_lines_but_not_by_pings() -> None:
    async def script(socket: ServerConnection) -> None:
        await socket.send("{}")
        await socket.recv()
        await socket.send('{"push":{"channel":"a","pub":{"data":1}}}')
        await socket.wait_closed()

    async with talking_to(script, auto_pong=False) as client:
        await client.expect_silence(0.1)
        await client.pong()
        with pytest.raises(WireError, match="not silent"):
            await client.expect_silence(0.5)


@pytest.mark.parametrize(
    "frame",
    [
        b"{}",
        "",
        '{"id":1,"rpc":{}}\n',
        "[]",
        "nonsense",
        '{"id":1}',
        '{"id":1,"rpc":{},"error":{"code":1}}',
        '{"id":1,"push":{"channel":"a","pub":{"data":1}}}',
        '{"rpc":{}}',
    ],
)
async def test_what_breaks_the_protocol_fails_every_wait(frame: str | bytes) -> None:
    async def script(socket: ServerConnection) -> None:
        await socket.send(frame)
        await socket.wait_closed()

    async with talking_to(script) as client:
        with pytest.raises(WireError):
            await client.publication("a")


async def test_a_paused_client_reads_nothing_until_it_resumes() -> None:
    async def script(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send('{"id":1,"rpc":{}}')
        await socket.wait_closed()

    async with talking_to(script) as client:
        client.pause_reading()
        command_id = await client.post(rpc={})
        with pytest.raises(WireError, match="in time"):
            await client.reply(command_id, deadline_s=0.1)
        client.resume_reading()
        assert await client.reply(command_id) == {"id": 1, "rpc": {}}
