"""How a client of the checker tells what became of its handshake."""

from __future__ import annotations

import asyncio

import pytest

from verify.socket import NotOpened, open_socket


async def refused_with(response: bytes) -> NotOpened:
    """By a server that says this to whoever asks."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NotOpened) as caught:
            await open_socket(f"ws://127.0.0.1:{port}/", lambda push: None, lambda code: None)
    return caught.value


async def test_a_refusal_has_its_status_and_whether_it_said_when_to_come_again() -> None:
    found = await refused_with(b"HTTP/1.1 429 No\r\nContent-Length: 0\r\nRetry-After: 3\r\n\r\n")
    assert (found.status, found.retry_after) == (429, True)
    found = await refused_with(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    assert (found.status, found.retry_after) == (503, False)


async def test_without_an_answer_the_status_is_0() -> None:
    assert (await refused_with(b"")).status == 0
    assert (await refused_with(b"no HTTP\r\n\r\n")).status == 0
