"""A server with a recording handler, and a client that writes its bytes by hand."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from services.edge.domain.connections import Authenticator, Choice, Connection, HandshakeInfo
from services.edge.domain.ends import ClientEnd, End, EndReason
from services.edge.transport.http.handover import HttpHandover
from services.edge.transport.listener import Listener
from services.edge.transport.options import TransportOptions
from services.edge.transport.server import EdgeServer
from services.edge.transport.websocket.connection import WebSocketConnection
from services.edge.transport.websocket.frames import binary_frame, text_frame

LIMIT_S = 30.0
PATH = "/connection/websocket"
KEY = base64.b64encode(bytes(range(16))).decode()

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

HANDSHAKE = (
    "Host: edge.example.com",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)


def head(*headers: str, line: str = f"GET {PATH} HTTP/1.1", without: str = "") -> bytes:
    """A handshake with these headers added, and the one named `without` left out."""
    kept = [header for header in HANDSHAKE if not without or not header.lower().startswith(f"{without.lower()}:")]
    return ("\r\n".join([line, *kept, *headers]) + "\r\n\r\n").encode("latin-1")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A frame as a client sends it."""
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if size < 126:
        start = bytes((first, mask_bit | size))
    elif size < 65_536:
        start = bytes((first, mask_bit | 126)) + size.to_bytes(2, "big")
    else:
        start = bytes((first, mask_bit | 127)) + size.to_bytes(8, "big")
    if not masked:
        return start + payload
    mask = os.urandom(4)
    return start + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """What a close frame carries."""
    return code.to_bytes(2, "big") + reason


CODES = {
    EndReason.SHUTDOWN: (3001, "shutdown"),
    EndReason.SERVER_ERROR: (3004, "internal server error"),
    EndReason.SLOW: (3008, "slow"),
    EndReason.TOO_MANY_REQUESTS: (3013, "too many requests"),
}


class Recorder:
    """A `MessageHandler` that keeps what it was told and echoes messages if asked to."""

    def __init__(self, connection: Connection, info: HandshakeInfo, *, echo: bool) -> None:
        self.connection = connection
        self.info = info
        self.echo = echo
        self.messages: list[tuple[bytes, bool]] = []
        self.opens = 0
        self.pings = self.pongs = 0
        self.taken = 0  # calls of `replies_taken`
        self.ended: list[ClientEnd] = []  # one for each call of `closed`
        self.end = asyncio.Event()
        self.has_received = asyncio.Event()

    def opened(self) -> None:
        assert not self.messages
        self.opens += 1

    def message(self, payload: bytes, *, binary: bool) -> None:
        self.messages.append((payload, binary))
        self.has_received.set()
        if self.echo:
            self.connection.send(binary_frame(payload) if binary else text_frame(payload))

    def control(self, *, pong: bool) -> None:
        self.pongs += pong
        self.pings += not pong
        self.has_received.set()

    def close_code(self, end: End) -> tuple[int, str]:
        return CODES[end.reason]

    def replies_taken(self) -> None:
        self.taken += 1
        self.has_received.set()

    def closed(self, how: ClientEnd) -> None:
        self.ended.append(how)
        self.end.set()


def listener_of(server: EdgeServer) -> Listener:
    """The state of all connections, of which the server shows only numbers."""
    return server._entrance  # noqa: SLF001  # the one place where tests reach for it


def transport_of(connection: WebSocketConnection) -> asyncio.Transport:
    """The TCP connection below, for what shows nowhere else.

    Options, and whether it is being read.
    """
    return connection._transport  # noqa: SLF001


def set_send_buffer(server: EdgeServer, size: int) -> None:
    """Set the size of the send buffer of connections to come.

    They inherit it from the listening socket.
    """
    listening = server._listener  # noqa: SLF001
    assert listening is not None
    listening.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


NewHandler = Callable[[Connection, HandshakeInfo], Any]
Choose = Callable[[HandshakeInfo], tuple[str | None, int]]


def json_if_offered(info: HandshakeInfo) -> tuple[str | None, int]:
    """Subprotocol to select, and largest message."""
    return ("centrifuge-json" if "centrifuge-json" in info.offers else None), 0


class OneProtocol:
    """`ClientProtocols` with one kind of handler, on one path."""

    close_codes = frozenset(code for code, _ in CODES.values())

    def __init__(self, new_handler: NewHandler, choose: Choose = json_if_offered) -> None:
        self._new_handler = new_handler
        self._choose = choose

    def serves(self, path: str) -> bool:
        return path == PATH

    def choose(self, info: HandshakeInfo) -> Choice | None:
        subprotocol, max_message_bytes = self._choose(info)
        if subprotocol == "nobody":
            return None
        return Choice(lambda connection: self._new_handler(connection, info), subprotocol, max_message_bytes)


@dataclass
class Served:
    """A running server and the handlers of its connections, oldest first."""

    server: EdgeServer
    handlers: list[Recorder]
    http: HttpHandover | None

    @classmethod
    async def start(
        cls,
        *,
        app: Any = None,
        echo: bool = True,
        handler: Any = None,
        choose: Choose = json_if_offered,
        authenticator: Authenticator | None = None,
        **options: Any,
    ) -> Served:
        transport = TransportOptions(**options)
        handlers: list[Recorder] = []

        def new_handler(connection: Connection, info: HandshakeInfo) -> Recorder:
            handlers.append((handler or Recorder)(connection, info, echo=echo))
            return handlers[-1]

        protocols = OneProtocol(new_handler, choose)
        http = None if app is None else HttpHandover(app, transport, protocols.serves)
        server = EdgeServer(transport, protocols, http, authenticator)
        await server.start("127.0.0.1", 0)
        return cls(server, handlers, http)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{PATH}"

    @property
    def refused(self) -> dict[str, int]:
        return self.server.counters.refused

    @property
    def listener(self) -> Listener:
        """The state of all connections, of which the server shows only numbers."""
        return listener_of(self.server)

    @property
    def counted_addresses(self) -> dict[str, int]:
        """Address → connections that count against its limit."""
        return dict(self.listener.admission._by_address)  # noqa: SLF001  # an address left behind shows nowhere else

    async def close(self) -> None:
        await asyncio.wait_for(self.server.close(), LIMIT_S)

    async def http_over(self) -> None:
        """Until no HTTP connection is left."""
        async with asyncio.timeout(LIMIT_S):
            while self.server.counters.https:
                await asyncio.sleep(0.005)

    async def answer(self, data: bytes) -> tuple[int, bytes]:
        """Status and everything that came, once the server has closed.

        Status 0: closed without an answer.
        """
        async with Raw(self.port) as client:
            client.write(data)
            received = await client.rest()
        return (int(received.split(b" ", 2)[1]) if received else 0), received

    async def raw(self, *headers: str, receive_buffer: int = 0) -> Raw:
        """A client past its handshake, which has these headers besides."""
        client = await Raw(self.port, receive_buffer=receive_buffer).__aenter__()
        client.write(head(*headers))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        return client


Serve = Callable[..., Awaitable[Served]]


class Raw:
    """A TCP connection; every read is bounded in time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self._port = port
        self._receive_buffer = receive_buffer

    async def __aenter__(self) -> Raw:
        sock = socket.socket()
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=self._receive_buffer or 65_536)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LIMIT_S)

    async def rest(self) -> bytes:
        """Everything until the server ends the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), LIMIT_S)
        except ConnectionResetError:
            return b""

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame: whole, unmasked, not compressed."""
        first, payload = await self.any_frame()
        assert first & 0xF0 == 0x80
        return first & 0x0F, payload

    async def any_frame(self) -> tuple[int, bytes]:
        """First byte and payload of the next frame, which must be unmasked."""
        async with asyncio.timeout(LIMIT_S):
            first, size = await self.reader.readexactly(2)
            assert size < 0x80
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            return first, await self.reader.readexactly(size)

    async def closed(self) -> tuple[int, bytes]:
        """Code and reason of the close frame, the next and last thing to come."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        assert await self.rest() == b""
        return int.from_bytes(payload[:2], "big"), payload[2:]
