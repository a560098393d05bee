"""Visitors that don't speak the protocol: HTTP, broken requests, bad handshakes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

from bench.load.commands import Where
from bench.load.frames import upgrade_request

_WITHIN_S = 30.0
_REQUESTS = 3  # of a connection that is kept
_LOGIN = b"POST /auth/login HTTP/1.1\r\nHost: %b\r\nContent-Length: 50\r\n\r\n"
_INFO = b"POST /api/info HTTP/1.1\r\nHost: %b\r\nContent-Length: 2\r\n\r\n{}"  # 401: nobody has to know a key for it
_PIPELINED = 50


async def _keep_alive(url: SplitResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(_REQUESTS):
        writer.write(_INFO % url.netloc.encode())
        await _answered(reader, 401)


async def _mid_body(url: SplitResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_LOGIN % url.netloc.encode() + b"a")
    await writer.drain()
    await asyncio.sleep(0.001)


async def _pipelined(url: SplitResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_INFO % url.netloc.encode() * _PIPELINED)
    await _answered(reader, 401)  # and the others have nobody who reads them


async def _refused(url: SplitResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = upgrade_request(url.netloc, url.path)
    writer.write(request.replace(b"\r\n", b"\r\nOrigin: http://evil.example\r\n", 1))
    await _answered(reader, 403)
    await reader.read()


async def _answered(reader: asyncio.StreamReader, status: int) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if int(head.split(b" ", 2)[1]) != status:
        raise OSError(f"answered {head.splitlines()[0].decode()}")
    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


VISITS: dict[str, Callable[[SplitResult, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]] = {
    "keep-alive": _keep_alive,
    "mid-body": _mid_body,
    "pipelined": _pipelined,
    "refused": _refused,
}
_ENDS_BY_RESET = ("mid-body", "pipelined")


async def visit(kind: str, where: Where, number: int, source: str) -> None:
    """Connect, do as the kind does, and go; half of those that break off send a reset.

    Raises:
        OSError: the server did not answer as it must.
        TimeoutError: 30 s were not enough.
    """
    url = urlsplit(where.urls[number % len(where.urls)])
    async with asyncio.timeout(_WITHIN_S):
        reader, writer = await asyncio.open_connection(url.hostname, url.port, local_addr=(source, 0))
        try:
            await VISITS[kind](url, reader, writer)
        except asyncio.IncompleteReadError as error:
            raise OSError("the server broke off") from error
        finally:
            if kind in _ENDS_BY_RESET and number % 2:
                writer.transport.abort()
            else:
                writer.close()
