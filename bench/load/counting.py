"""A client that counts the messages and bytes that come, without decoding them.

Several kinds of clients in one run (encodings, deltas, compression) cost the machine the same with it.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from bench.load.frames import upgrade_request

_WITHIN_S = 60.0


class CountingClient(asyncio.Protocol):
    """One WebSocket connection."""

    def __init__(self) -> None:
        self.messages = self.bytes = 0
        self.head = b""  # the answer to the handshake
        self.transport: asyncio.Transport
        self._buffer = b""
        self._wanted = 0
        self._received: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.head:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            self.head, self._buffer = head, rest
            self.messages = 1
        at, buffer = 0, self._buffer
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(buffer[at + 2 : start], "big")
            if start + size > len(buffer):
                break
            self.messages += 1
            self.bytes += start + size - at
            at = start + size
        self._buffer = buffer[at:]
        if self._received is not None and self.messages >= self._wanted and not self._received.done():
            self._received.set_result(None)

    async def until(self, messages: int) -> None:
        """Wait for so many messages in all; the response to the handshake counts as one."""
        if self.messages < messages:
            self._wanted, self._received = messages, asyncio.get_running_loop().create_future()
            await asyncio.wait_for(self._received, _WITHIN_S)
            self._received = None


async def opened(url: str, *, header: bytes = b"") -> CountingClient:
    """Connect to a WebSocket; `header`: a line more of the request, with its end."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(CountingClient, parts.hostname or "", parts.port or 0)
    client.transport.write(upgrade_request(parts.netloc, path)[:-2] + header + b"\r\n")
    await client.until(1)
    if b" 101 " not in client.head:
        raise ConnectionError(f"refused: {client.head!r}")
    return client
