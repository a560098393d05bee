"""A WebSocket client for the Centrifugal JSON protocol that can also misbehave.

No SDK: the checker records what the server said and when, and an SDK would recover by itself and hide what went wrong.
See docs/decisions/0031.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import urllib.parse
from collections.abc import Callable
from typing import Any, cast

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

CONNECT_S = 3.0  # longest time to open a connection, seconds
REPLY_S = 6.0  # longest wait for a reply, seconds
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.encode
OnReply = Callable[[dict[str, Any]], None]


class Closed(Exception):
    """The connection is over.

    `code` is WebSocket's: 1006 without a close frame, 0 if no connection was made.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"closed {code}")
        self.code = code


class NotOpened(Closed):
    """No WebSocket connection was made.

    `status` of the response, 0 if there was none. `retry_after`: it said when to come again.
    """

    def __init__(self, status: int = 0, retry_after: bool = False) -> None:
        super().__init__(0)
        self.args = (f"HTTP status {status}" if status else "no response",)
        self.status, self.retry_after = status, retry_after


class CommandError(Exception):
    """The server sent an error reply."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class Socket(asyncio.Protocol):
    """One connection; made by `open_socket`.

    `on_push` and `on_closed` are called on the event loop, in order.
    """

    def __init__(self, url: str, on_push: Callable[[dict[str, Any]], None], on_closed: Callable[[int], None]) -> None:
        self._ws = ClientProtocol(parse_uri(url), max_size=None)
        self._on_push, self._on_closed = on_push, on_closed
        self._transport: asyncio.Transport | None = None
        self._replies: dict[int, tuple[asyncio.Future[dict[str, Any]], OnReply | None]] = {}
        self._last_id = 0
        self._fragments: list[bytes] = []
        self._over = False
        self._sipping: asyncio.Task[None] | None = None
        self.on_other_reply: OnReply = lambda reply: None  # called with a reply that no `call` waits for
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # Methods of asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ws.send_request(self._ws.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Response):
                self._answered()
            elif isinstance(event, Frame):
                self._frame(event)
        self._flush()
        if self._ws.close_expected() and self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        self._ws.receive_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ws.state is not State.CLOSED:
            self._ws.receive_eof()
        self._end(self._ws.close_code or 1006)

    # Receiving.

    def _answered(self) -> None:
        if self.opened.done():
            return
        failure = self._ws.handshake_exc
        if isinstance(failure, InvalidStatus):
            response = failure.response
            self.opened.set_exception(NotOpened(response.status_code, "Retry-After" in response.headers))
        elif failure is not None:
            self.opened.set_exception(NotOpened())
        else:
            self.opened.set_result(None)

    def _frame(self, frame: Frame) -> None:
        if self._over or frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return
        message = b"".join(self._fragments)
        self._fragments.clear()
        for line in message.split(b"\n"):
            reply = _decode(line)
            if not reply:
                self.send_text(b"{}")  # the pong for a ping
            elif "push" in reply:
                self._on_push(reply["push"])
            else:
                self._reply(reply)

    def _reply(self, reply: dict[str, Any]) -> None:
        future, on_reply = self._replies.pop(reply.get("id", 0), (None, None))
        if future is None or future.done():
            self.on_other_reply(reply)
            return
        if on_reply is not None and "error" not in reply:
            on_reply(reply)
        future.set_result(reply)

    # Sending.

    async def call(self, timeout_s: float = REPLY_S, on_reply: OnReply | None = None, **request: Any) -> dict[str, Any]:
        """Send one command and return its result.

        `on_reply` is called with the reply, before any push behind it is dispatched.

        Raises:
            CommandError: an error reply.
            Closed: the connection ended first.
            TimeoutError: no reply in time.
        """
        if self._over:
            raise Closed(1006)
        self._last_id += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        command_id = self._last_id
        self._replies[command_id] = (future, on_reply)
        self.send_text(_encode({"id": command_id, **request}))
        try:
            async with asyncio.timeout(timeout_s):
                reply = await future
        finally:
            self._replies.pop(command_id, None)
        if "error" in reply:
            raise CommandError(reply["error"].get("code", 0), reply["error"].get("message", ""))
        result = reply.get(next(iter(request)), {})
        return result if isinstance(result, dict) else {}

    def send_text(self, text: bytes) -> None:
        """Send one text frame; nothing if the connection is closing."""
        if self._ws.state is State.OPEN:
            self._ws.send_text(text)
            self._flush()

    def _flush(self) -> None:
        for data in self._ws.data_to_send():
            if data and self._transport is not None and not self._transport.is_closing():
                self._transport.write(data)

    # Ending.

    def close(self) -> None:
        """Send a close frame and close, as a client that leaves."""
        if self._ws.state is State.OPEN:
            self._ws.send_close(1000)
            self._flush()
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """End the connection by a TCP reset."""
        if self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def vanish(self) -> None:
        """End TCP without a close frame."""
        if self._transport is not None:
            self._transport.close()

    def freeze(self) -> None:
        """Become half-open: neither read nor write any more.

        Callers that wait get `Closed`.
        """
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._end(1006)

    def read_slowly(self, bytes_per_s: int) -> None:
        """Read so slowly from now on that the server has to queue.

        The receive buffer of this end is made small, too.
        """
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            raw = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            raw.setblocking(False)
            self._sipping = asyncio.get_running_loop().create_task(self._sip(raw, bytes_per_s))

    async def _sip(self, raw: socket.socket, bytes_per_s: int) -> None:
        """Read slowly until the server resets the connection or has ended it."""
        ended = select.poll()
        ended.register(raw, select.POLLHUP | select.POLLERR)
        with raw:
            while not self._over:
                await asyncio.sleep(1.0)
                if ended.poll(0):  # whatever is still in the buffers
                    self.reset()
                    self._end(1006)
                    return
                try:
                    data = raw.recv(bytes_per_s)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    self.reset()
                    self._end(1006)
                    return
                self.data_received(data)

    def _end(self, code: int) -> None:
        if self._over:
            return
        self._over = True
        for future, _ in self._replies.values():
            if not future.done():
                future.set_exception(Closed(code))
        self._replies.clear()
        if not self.opened.done():
            self.opened.set_exception(NotOpened())
            self.opened.exception()
        else:
            self._on_closed(code)


async def open_socket(url: str, on_push: Callable[[dict[str, Any]], None], on_closed: Callable[[int], None]) -> Socket:
    """Connect and do the WebSocket handshake.

    Raises:
        NotOpened: it was refused, or took longer than 3 s.
    """
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    loop = asyncio.get_running_loop()
    made: Socket | None = None
    try:
        async with asyncio.timeout(CONNECT_S):
            _, made = await loop.create_connection(
                lambda: Socket(url, on_push, on_closed), parts.hostname or "", port, ssl=parts.scheme == "wss" or None
            )
            await made.opened
    except (OSError, TimeoutError, WebSocketException):
        if made is not None:
            made.reset()
        raise NotOpened from None
    return made
