"""The internal port of every service: /metrics, /healthz, /readyz."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping

from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest

from services.shared.config import ConfigError

_HEAD_TIMEOUT_S = 5.0
_MAX_HEAD_BYTES = 8_192


class InternalHttp:
    """A small HTTP/1.1 server: one request per connection."""

    def __init__(self, ready: Callable[[], Mapping[str, bool]]) -> None:
        self._ready = ready
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any free one."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=_MAX_HEAD_BYTES)
        except OSError as error:
            raise ConfigError(f"internal port {port} on {host} can't be used: {error.strerror}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
                status, kind, body = self._answer(method, target.split(b"?", 1)[0])
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                if method != b"HEAD":
                    writer.write(body)
                await writer.drain()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked that way gets no answer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, method: bytes, path: bytes) -> tuple[str, str, bytes]:
        if method not in (b"GET", b"HEAD"):
            return "405 Method Not Allowed", "text/plain", b"method not allowed\n"
        if path == b"/metrics":
            return "200 OK", "text/plain; version=0.0.4; charset=utf-8", generate_latest(REGISTRY)
        if path == b"/healthz":
            return "200 OK", "text/plain", b"ok\n"
        if path == b"/readyz":
            checks = dict(self._ready())
            whole = all(checks.values())
            status = "200 OK" if whole else "503 Service Unavailable"
            return status, "application/json", json.dumps({"ready": whole, "checks": checks}).encode() + b"\n"
        return "404 Not Found", "text/plain", b"not found\n"


async def start_internal_http(host: str, port: int, *, ready: Callable[[], Mapping[str, bool]]) -> InternalHttp:
    """Serve the internal port.

    Raises:
        ConfigError: the port can't be had.
    """
    server = InternalHttp(ready)
    await server.start(host, port)
    return server
