"""One WebSocket connection: reads the client's frames, writes ours, and closes.

**Purpose.** The last frame for a client must arrive, and TCP must end in time. What messages mean is up to the handler;
this class knows frames and TCP only. `turns.py` reads the frames, `outbox.py` writes ours.

**Closing.** The state only goes forward: open, dropping, closing, finishing, lost. Once it is not open, what the client
sends is discarded, and `ending.Ending` ends TCP in time.

* `close`: the queue and a close frame are written (closing), then our side of TCP is closed (finishing). A close frame
  of the client is answered in the same way; the handler is informed at once, before TCP has ended.
* Full outbox: the queue is discarded, and a close frame is written at once (finishing).
* `drop_after`: TCP is reset after a delay, without a close frame (dropping).

The client protocol, which is the handler, has the codes and texts of close frames: it is asked for them where this
class decides the end. Only violations of RFC 6455 have codes of their own.

See docs/decisions/0001 and 0011.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from services.edge.domain.connections import MessageHandler
from services.edge.domain.ends import ClientEnd, End, EndReason
from services.edge.transport.delivery import taken_and_under_way
from services.edge.transport.ending import Ending
from services.edge.transport.outbox import SMALL_REPLY_BYTES
from services.edge.transport.websocket import turns
from services.edge.transport.websocket.fragments import NO_CODE, Fragments, close_code
from services.edge.transport.websocket.frame_reader import (
    BINARY,
    COMPRESSED,
    CONTINUATION,
    FIN,
    FIN_BINARY,
    FIN_CLOSE,
    FIN_PING,
    FIN_PONG,
    OPCODE,
    PROTOCOL_ERROR,
    Violation,
)
from services.edge.transport.websocket.frames import PING_FRAME, close_frame, close_reply, pong_frame
from services.edge.transport.websocket.turns import OPEN, TurnReader

logger = logging.getLogger(__name__)

_INTERNAL_ERROR = 1011
# By the code of the client's close frame; with every other one it counts as lost. Most SDKs send none.
_CLIENT_ENDS = {1000: ClientEnd.CLOSED, NO_CODE: ClientEnd.CLOSED, 1001: ClientEnd.GOING_AWAY}

# States, in their order; the first is `OPEN`.
_DROPPING = 1  # nothing is read any more, and TCP is reset soon
_CLOSING = 2  # the last frame is queued; nothing is read or queued any more
_FINISHING = 3  # the last frame is written, and our side of TCP is closed
_LOST = 4


class Port(turns.Port, Protocol):
    """What a connection uses of the public port that it belongs to."""

    def websocket_lost(self, connection: WebSocketConnection) -> None:
        """Stop counting a connection that has ended."""


class WebSocketConnection(TurnReader):
    """Protocol of one connection after its handshake; a `Connection` for the domain."""

    __slots__ = ("_client_end", "_control_frames", "_control_since", "_ending", "_handler", "_peer")

    compresses = False  # frames; see `compressed_connection.py`
    _port: Port

    def __init__(self, port: Port, transport: asyncio.Transport, peer: str, *, max_message_bytes: int) -> None:
        super().__init__(port, transport, max_message_bytes)
        self._peer = peer
        self._handler: MessageHandler | None = None
        self._client_end = ClientEnd.LOST
        self._ending: Ending | None = None
        self._control_since = 0.0
        self._control_frames = 0

    def open(self, handler: MessageHandler) -> None:
        """Set the handler of messages, and tell it that the handshake is answered."""
        self._handler = handler
        self._call_handler(handler.opened)

    def end(self, reason: EndReason) -> None:
        """Close the connection for a reason that the server has."""
        self.close(*self._close_code(reason))

    # Called by the handler: `Connection`.

    @property
    def peer(self) -> str:
        """Address of the client."""
        return self._peer

    def send(self, frame: bytes) -> None:
        """Queue a frame that the client did not ask for: a push."""
        if self._state == OPEN:
            self.put(frame)

    def send_ephemeral(self, frame: bytes) -> None:
        """Queue a push, or drop it if the client reads slowly."""
        if self._state == OPEN and self.has_room_for(frame):
            self.send(frame)

    def send_reply(self, frame: bytes) -> None:
        """Queue a reply; `outbox` says which replies count towards the bound."""
        if self._state == OPEN:
            if self._paused or len(frame) > SMALL_REPLY_BYTES:
                self.put_reply(frame)
            else:
                self.put(frame)

    def close(self, code: int, text: str) -> None:
        """Send what is queued and a close frame, then close our side of TCP."""
        if self._state > _DROPPING:
            return
        try:
            frame = close_frame(code, text)
        except ValueError:
            logger.exception("close code replaced")
            code, frame = _INTERNAL_ERROR, close_frame(_INTERNAL_ERROR, text)
        self._port.counters.closed_by_server(code)
        self._end_with(frame)

    def delivery(self) -> tuple[int, int]:
        """Return the bytes that the client's system has confirmed, and those on their way."""
        counted = taken_and_under_way(self._transport)
        if counted is None:
            held = self._transport.get_write_buffer_size()
            return self._written - held, held + self._queued
        return counted[0], counted[1] + self._queued

    def drop_after(self, delay_s: float) -> None:
        """Read nothing more, and reset TCP after `delay_s` seconds."""
        if self._state == OPEN:
            self._state = _DROPPING
            self._begin_end().within(delay_s)

    def send_websocket_ping(self) -> None:
        """Queue a WebSocket ping."""
        self.send(PING_FRAME)

    # Called by asyncio.

    def eof_received(self) -> None:
        """The client has closed its side; asyncio closes ours once all is written."""
        if self._ending is None:
            self._begin_end().within(self._port.options.close_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything, and inform the handler."""
        if self._state < _CLOSING:
            self._port.counters.lost()
        self._state = _LOST
        self.release()
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        self._waiting = self._fragments = None
        self._port.websocket_lost(self)
        self._notify_closed()

    def outbox_full(self) -> None:
        """Close, because the client reads too slowly. What is queued is discarded."""
        self.drop_queue()
        self._state = _FINISHING
        code, text = self._close_code(EndReason.SLOW)
        self._port.counters.closed_by_server(code)
        self._begin_end().within(self._port.options.close_timeout_s)
        if not self._transport.is_closing():
            self._transport.write(close_frame(code, text))
            self._transport.write_eof()

    def replies_taken(self) -> None:
        """Tell the handler that the client's next command need not wait any more."""
        if self._handler is not None and self._state == OPEN:
            self._call_handler(self._handler.replies_taken)

    def outbox_empty(self) -> None:
        """Close our side of TCP: the last frame is written."""
        if self._state == _CLOSING:
            self._state = _FINISHING
            if not self._transport.is_closing():
                self._transport.write_eof()

    def _discard(self, size: int) -> None:
        if self._ending is not None:
            self._ending.discard(size)

    def _handle_frame(self, first: int, payload: bytes) -> None:
        if first == FIN_PING:
            self._handle_control(pong=False)
            self.send(pong_frame(payload))
        elif first == FIN_PONG:
            self._handle_control(pong=True)
        elif first == FIN_CLOSE:
            self._handle_close(payload)
        elif self._fragments is None and first == FIN_BINARY:
            self._deliver(payload, binary=True)
        else:
            self._handle_fragment(first, payload)

    def _handle_fragment(self, first: int, payload: bytes) -> None:
        opcode = first & OPCODE
        if (opcode == CONTINUATION) == (self._fragments is None):
            raise Violation(
                PROTOCOL_ERROR, "nothing to continue" if opcode == CONTINUATION else "message not continued"
            )
        if self._fragments is None:
            options = self._port.options
            self._fragments = Fragments(
                binary=opcode == BINARY,
                compressed=bool(first & COMPRESSED),
                max_bytes=self._max_message_bytes,
                max_fragments=options.max_fragments,
            )
        fragments = self._fragments
        message = fragments.add(payload, last=first >= FIN)
        if message is not None:
            self._fragments = None
            self._deliver(message, binary=fragments.binary)

    def _handle_control(self, *, pong: bool) -> None:
        """Refuse too many pings and pongs by `Violation`; tell the handler of each."""
        now = self._port.loop.time()
        if now - self._control_since >= 1.0:
            self._control_since = now
            self._control_frames = 0
        self._control_frames += 1
        if self._control_frames > self._port.options.max_control_frames_per_s:
            raise Violation(*self._close_code(EndReason.TOO_MANY_REQUESTS))
        if self._handler is not None:
            try:
                self._handler.control(pong=pong)
            except Exception:
                self._handler_failed()

    def _handle_close(self, payload: bytes) -> None:
        """Answer a close frame of the client, which may come in the middle of a message."""
        code = close_code(payload)
        self._client_end = _CLIENT_ENDS.get(code, ClientEnd.LOST)
        self._port.counters.closed_by_client(code)
        self._end_with(close_reply(payload))
        self._notify_closed()  # now, so that others see the leave before TCP has ended

    def _deliver(self, payload: bytes, *, binary: bool) -> None:
        self._port.counters.messages_received += 1
        if self._handler is None:
            return
        try:
            self._handler.message(payload, binary=binary)
        except Exception:
            self._handler_failed()

    def _call_handler(self, callback: Callable[[], None]) -> None:
        """Call the handler; if that fails, only this connection ends."""
        try:
            callback()
        except Exception:
            self._handler_failed()

    def _handler_failed(self) -> None:
        logger.exception("handler failed")  # noqa: LOG004  # called in `except`
        self.end(EndReason.SERVER_ERROR)

    def _close_code(self, reason: EndReason) -> tuple[int, str]:
        """Return code and text of the client protocol.

        Those of RFC 6455 if there is no handler, or if it fails.
        """
        if self._handler is not None:
            try:
                return self._handler.close_code(End(reason))
            except Exception:
                logger.exception("no close code")
        return _INTERNAL_ERROR, ""

    def _begin_end(self) -> Ending:
        """Discard what the client sends from now on; return what ends TCP in time."""
        self._waiting = self._fragments = None
        if self._ending is None:
            self._ending = Ending(self._port.loop, self._transport, self.delivery)
        return self._ending

    def _end_with(self, frame: bytes) -> None:
        """Queue the last frame; once it is written, our side of TCP is closed."""
        self._state = _CLOSING
        ending = self._begin_end()
        self.put_last(frame)
        ending.once_delivered(self._port.options.close_timeout_s)

    def _notify_closed(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.closed(self._client_end)
            except Exception:
                logger.exception("handler failed at the end of a connection")
