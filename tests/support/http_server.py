"""Servers of tests: real sockets on this machine, which end with the test."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_MAX_HEAD_BYTES = 1 << 24


class Server:
    """A server on a port of this machine, or a free one. An async context manager.

    A subclass serves a connection in `connection`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, port: int = 0) -> None:
        self.port, self.connections = port, 0
        self._tls = tls
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=_MAX_HEAD_BYTES, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until it ends; one that breaks is no error."""
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.connection(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass  # also the end of the server, which nobody waits for
        finally:
            self._tasks.discard(task)
            writer.close()


@dataclass(frozen=True)
class Asked:
    """A request that came; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class HttpServer(Server):
    """A server of HTTP/1.1 that keeps connections; a subclass answers in `answered`."""

    async def answered(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether the connection goes on."""
        raise NotImplementedError

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await self.answered(await _read(reader), writer):
            await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    method, path, _ = head[0].split(" ", 2)
    return Asked(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
