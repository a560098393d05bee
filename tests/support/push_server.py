"""A server that stands for a push service: real HTTP, and every way to fail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_HANG_S = 600.0


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What it answers.

    `hangs`: nothing at all. `loses`: it took it, and closes the connection without an answer.
    """

    status: int = 201
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False
    loses: bool = False
    endless: bool = False  # a body without an end

    def head(self) -> bytes:
        length = "" if self.endless else f"content-length: {len(self.body)}\r\n"
        more = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"HTTP/1.1 {self.status} x\r\n{length}{more}\r\n".encode()


class PushServer:
    """The server, on a free port of this machine. An async context manager.

    `answer` decides about a request, and may be replaced at any time.
    """

    def __init__(self, answer: Callable[[Asked], Reply] = lambda _: Reply(), tls: ssl.SSLContext | None = None) -> None:
        self.answer, self._tls = answer, tls
        self.asked: list[Asked] = []
        self.sent = 0  # bytes of an endless body
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve a request; return whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        method, path, _ = head[0].split(" ", 2)
        asked = Asked(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
        reply = self.answer(asked)
        self.asked.append(asked)
        if reply.hangs:
            await asyncio.sleep(_HANG_S)
        if reply.loses:
            return False
        writer.write(reply.head() + reply.body)
        while reply.endless:
            writer.write(bytes(1 << 16))
            self.sent += 1 << 16
            await writer.drain()
        await writer.drain()
        return True
