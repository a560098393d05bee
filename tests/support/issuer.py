"""A login server of others: serves whatever bytes a test wants as its key set."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from services.shared.process.cancellation import end_task


def answer(body: bytes, *headers: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"Content-Type: {content_type}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


class Issuer:
    """A login server: every response is `says`, slowly if the test wants it.

    It comes in portions of `portion` bytes, each after `pause_s`.
    """

    def __init__(self, says: bytes, port: int = 0) -> None:
        self.says = says
        self.portion, self.pause_s = 1 << 20, 0.0
        self.requests: list[bytes] = []
        self.url = ""
        self._serving: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server
        self._port = port

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=context)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self._port}/keys"

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._serving):
            await end_task(task)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            says = self.says
            for start in range(0, len(says), self.portion):
                writer.write(says[start : start + self.portion])
                await writer.drain()
                await asyncio.sleep(self.pause_s)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
