"""A server that stands for a push service: real HTTP, and every way to fail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.http_server import Asked, HttpServer

_HANG_S = 600.0


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


class PushServer(HttpServer):
    """The server. `answer` decides about a request, and may be replaced at any time."""

    def __init__(self, answer: Callable[[Asked], Reply] = lambda _: Reply(), tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.answer = answer
        self.asked: list[Asked] = []
        self.sent = 0  # bytes of an endless body

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    async def answered(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
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
        return True
