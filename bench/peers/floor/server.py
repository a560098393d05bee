"""As little as a server in Python can do; what the smoke test compares with.

It writes ready-made frames to each member.

It believes every client: one node, no tokens, no Redis, no log.
"""

from __future__ import annotations

import asyncio
import os
import struct
from typing import cast

import msgspec
import uvloop

_ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
_LONG, _MASK_BYTES = 126, 4


class Message(msgspec.Struct):
    """What a client says: it subscribes, or publishes."""

    sub: str = ""
    pub: str = ""
    id: int = 0
    data: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(Message).decode
_members: dict[str, list[asyncio.Transport]] = {}


class Member(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._open = False
        self._buffer = b""
        self._channel = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            _, end, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._open = bool(end)
            self._transport.write(_ANSWER)
        while len(self._buffer) > _MASK_BYTES:
            size, start = self._buffer[1] & 0x7F, 2 + _MASK_BYTES
            if size == _LONG:
                (size,), start = struct.unpack_from("!H", self._buffer, 2), 4 + _MASK_BYTES
            if len(self._buffer) < start + size:
                return
            opcode, payload = self._buffer[0] & 0x0F, self._buffer[start : start + size]
            self._buffer = self._buffer[start + size :]
            if opcode == 1:
                self._handle(_decode(payload))

    def _handle(self, message: Message) -> None:
        if message.sub:
            self._channel = message.sub
            _members.setdefault(message.sub, []).append(self._transport)
            self._transport.write(_frame(b'{"subscribed":""}'))
            return
        frame = _frame(b'{"channel":"%b","data":%b}' % (message.pub.encode(), bytes(message.data)))
        for member in _members[message.pub]:
            member.write(frame)
        self._transport.write(_frame(b'{"ack":%d}' % message.id))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._channel:
            _members[self._channel].remove(self._transport)


def _frame(payload: bytes) -> bytes:
    size = len(payload)
    return (struct.pack("!BB", 0x81, size) if size < _LONG else struct.pack("!BBH", 0x81, _LONG, size)) + payload


async def main() -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(Member, "127.0.0.1", int(os.environ["PORT"]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
