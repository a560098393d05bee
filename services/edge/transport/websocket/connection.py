"""One WebSocket connection: bytes to messages for its handler, frames of its handler to bytes. No rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.edge.domain.ports import MessageHandler
from services.edge.transport.delivery import taken_and_under_way
from services.edge.transport.ending import Ending
from services.edge.transport.outbox import SMALL_REPLY_BYTES, Outbox
from services.edge.transport.websocket.fragments import Fragments, close_code, invalid_text
from services.edge.transport.websocket.frame_reader import (
    BINARY,
    CONTINUATION,
    FIN,
    FIN_BINARY,
    FIN_CLOSE,
    FIN_PING,
    FIN_PONG,
    FIN_TEXT,
    PROTOCOL_ERROR,
    Violation,
    read_frames,
    read_text,
)
from services.edge.transport.websocket.frames import PING_FRAME, close_answer, close_frame, pong_frame
from services.shared.errors import CloseCode

if TYPE_CHECKING:
    from services.edge.transport.listener import Listener

logger = logging.getLogger(__name__)

_FRAMES_PER_TURN = 32  # of what one read brought; then other connections get their turn
_BYTES_PER_TURN = 65_536  # the same, by the bytes of these frames
_INTERNAL_ERROR = 1011

# States; a connection only moves up.
_OPEN = 0
_DROPPING = 1  # nothing is read any more, and TCP ends soon
_CLOSING = 2  # our close frame is queued; nothing is read or queued any more
_FINISHING = 3  # it is written, and our side of TCP is closed
_LOST = 4


class WebSocketConnection(Outbox, asyncio.Protocol):
    """A `Connection` of the domain and the protocol of its transport, from the handshake's end on."""

    __slots__ = (
        "_at",
        "_clean",
        "_control_frames",
        "_control_since",
        "_ending",
        "_fragments",
        "_handler",
        "_held_by_handler",
        "_missing",
        "_peer",
        "_port",
        "_state",
        "_turn_is_due",
        "_waiting",
    )

    def __init__(self, port: Listener, transport: asyncio.Transport, peer: str) -> None:
        super().__init__(transport, port.flusher)
        self._port = port
        self._peer = peer
        self._waiting: bytes | bytearray | None = None  # what was read and not yet handled,
        self._at = 0  # from here on
        self._missing = 0  # so many bytes at least, before there is another frame; 0: there may be one already
        self._turn_is_due = False  # to handle it
        self._held_by_handler = False  # it wants no more messages
        self._handler: MessageHandler | None = None
        self._state = _OPEN
        self._clean = False
        self._fragments: Fragments | None = None
        self._ending: Ending | None = None
        self._control_since = 0.0
        self._control_frames = 0

    def start(self, handler: MessageHandler) -> None:
        """Messages go to this handler; to be called before the first of them can arrive."""
        self._handler = handler

    # What the handler may do: `Connection`.

    @property
    def peer(self) -> str:
        """Address of the client."""
        return self._peer

    def send(self, frame: bytes) -> None:
        """Queue a ready-made frame."""
        if self._state == _OPEN:
            self.put(frame)

    def send_reply(self, frame: bytes) -> None:
        """Queue a ready-made frame that the client asked for: not counted towards 3008."""
        if self._state == _OPEN:
            if self._paused or len(frame) > SMALL_REPLY_BYTES:
                self.put_reply(frame)
            else:
                self.put(frame)

    def close(self, code: int, reason: str) -> None:
        """Send what is queued and a close frame, then close our side of TCP; nothing more is read."""
        if self._state > _DROPPING:
            return
        try:
            frame = close_frame(code, reason)
        except ValueError:
            logger.exception("close code replaced")
            code, frame = _INTERNAL_ERROR, close_frame(_INTERNAL_ERROR, reason)
        self._port.counters.closed_by_server(code)
        self._end_with(frame)

    def delivery(self) -> tuple[int, int]:
        """Bytes that the client's system has taken so far, and bytes that are still on their way to it."""
        told = taken_and_under_way(self._transport)
        if told is None:
            held = self._transport.get_write_buffer_size()
            return self._written - held, held + self._queued
        return told[0], told[1] + self._queued

    def drop_after(self, delay_s: float) -> None:
        """Read nothing more and drop the TCP connection after that long."""
        if self._state == _OPEN:
            self._state = _DROPPING
            self._begin_end().within(delay_s)

    def pause_reading(self) -> None:
        """Take no more bytes from the client."""
        if self._state == _OPEN:
            self._held_by_handler = True
            self._pause_transport()

    def resume_reading(self) -> None:
        """Take bytes from the client again."""
        if self._state == _OPEN and self._held_by_handler:
            self._held_by_handler = False
            self._read_on()

    def send_websocket_ping(self) -> None:
        """Queue a ping frame."""
        self.send(PING_FRAME)

    # From asyncio.

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._port.counters.bytes_received += len(data)
        if self._state != _OPEN:
            if self._ending is not None:
                self._ending.discard(len(data))
            return
        waiting = self._waiting
        if waiting is None:
            if self._held_by_handler:
                self._waiting, self._at, self._missing = data, 0, 0
                return
            if self._fragments is None:
                text = read_text(data, self._port.options.max_message_bytes)
                if text is not None and text.isascii():
                    self._deliver(text, binary=False)
                    return
            self._take_turn(data, 0)
            return
        if type(waiting) is bytes:
            waiting, self._at = bytearray(waiting[self._at :]), 0
            self._waiting = waiting
        waiting += data
        self._missing = max(0, self._missing - len(data))
        if not (self._missing or self._turn_is_due or self._held_by_handler):
            self._waiting = None
            self._take_turn(waiting, self._at)

    def eof_received(self) -> None:
        """The client sends nothing more: asyncio ends the connection once its buffer is written."""
        if self._ending is None:
            self._begin_end().within(self._port.options.close_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        if self._state < _CLOSING:
            self._port.counters.lost()
        self._state = _LOST
        self.release()
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        self._fragments = None
        self._waiting = None
        self._port.websocket_lost(self)
        self._tell_closed()

    # From `Outbox`.

    def outbox_full(self) -> None:
        """The client is too slow: what is queued is lost, and it has to reconnect."""
        self.drop_queue()
        self._state = _FINISHING
        self._port.counters.closed_by_server(CloseCode.SLOW)
        self._begin_end().within(self._port.options.close_timeout_s)
        if not self._transport.is_closing():
            self._transport.write(close_frame(CloseCode.SLOW, CloseCode.SLOW.reason))
            self._transport.write_eof()

    def replies_taken(self) -> None:
        """The client may ask for more."""
        if self._handler is not None and self._state == _OPEN:
            self._guarded(self._handler.replies_taken)

    def outbox_empty(self) -> None:
        """The last frame is written."""
        if self._state == _CLOSING:
            self._state = _FINISHING
            if not self._transport.is_closing():
                self._transport.write_eof()

    # What is read.

    def _take_turn(self, data: bytes | bytearray, start: int) -> None:
        """Handle a few of the frames that begin there, and keep the rest."""
        found, at, missing, wrong = read_frames(
            data, start, self._port.options.max_message_bytes, _FRAMES_PER_TURN, _BYTES_PER_TURN
        )
        try:
            for first, payload in found:
                if first == FIN_TEXT and self._fragments is None:
                    if not payload.isascii():
                        _check_text(payload)
                    self._deliver(payload, binary=False)
                else:
                    self._take(first, payload)
                if self._state != _OPEN:
                    return
            if wrong is not None:
                raise wrong
        except Violation as violation:
            self.close(violation.code, violation.reason)
            return
        if missing:
            self._waiting, self._at, self._missing = bytearray(data[at:]), 0, missing
        elif at < len(data):
            self._waiting, self._at, self._missing = data, at, 0
            if not self._held_by_handler:
                self._arrange_turn()

    def _arrange_turn(self) -> None:
        """More frames are there already: others come first, and nothing more is read meanwhile."""
        self._turn_is_due = True
        self._pause_transport()
        self._port.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_is_due = False
        if self._state == _OPEN and not self._held_by_handler:
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                self._take_turn(waiting, self._at)
            if self._state == _OPEN and not (self._turn_is_due or self._held_by_handler):
                self._resume_transport()

    def _read_on(self) -> None:
        if self._turn_is_due:
            return
        if self._waiting is not None and not self._missing:
            self._arrange_turn()
        else:
            self._resume_transport()

    def _pause_transport(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume_transport(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _take(self, first: int, payload: bytes) -> None:
        """Handle any frame; raises `Violation`."""
        if first == FIN_PING:
            self._take_control(pong=False)
            self.send(pong_frame(payload))
        elif first == FIN_PONG:
            self._take_control(pong=True)
        elif first == FIN_CLOSE:
            self._take_close(payload)
        elif self._fragments is None and first == FIN_TEXT:
            _check_text(payload)
            self._deliver(payload, binary=False)
        elif self._fragments is None and first == FIN_BINARY:
            self._deliver(payload, binary=True)
        else:
            self._take_fragment(first, payload)

    def _take_fragment(self, first: int, payload: bytes) -> None:
        opcode = first & ~FIN
        if (opcode == CONTINUATION) == (self._fragments is None):
            raise Violation(
                PROTOCOL_ERROR, "nothing to continue" if opcode == CONTINUATION else "message not continued"
            )
        if self._fragments is None:
            options = self._port.options
            self._fragments = Fragments(
                binary=opcode == BINARY, max_bytes=options.max_message_bytes, max_fragments=options.max_fragments
            )
        fragments = self._fragments
        message = fragments.add(payload, last=first >= FIN)
        if message is not None:
            self._fragments = None
            self._deliver(message, binary=fragments.binary)

    def _take_control(self, *, pong: bool) -> None:
        now = self._port.loop.time()
        if now - self._control_since >= 1.0:
            self._control_since = now
            self._control_frames = 0
        self._control_frames += 1
        if self._control_frames > self._port.options.max_control_frames_per_s:
            raise Violation(CloseCode.TOO_MANY_REQUESTS, CloseCode.TOO_MANY_REQUESTS.reason)
        if pong and self._handler is not None:
            self._guarded(self._handler.websocket_pong)

    def _take_close(self, payload: bytes) -> None:
        """The client closes, maybe in the middle of a message; it is answered in kind."""
        code = close_code(payload)
        self._clean = True
        self._port.counters.closed_by_client(code)
        self._end_with(close_answer(payload))
        self._tell_closed()  # others see the leave now, not when TCP has ended

    def _deliver(self, payload: bytes, *, binary: bool) -> None:
        self._port.counters.messages_received += 1
        if self._handler is None:
            return
        try:
            self._handler.message(payload, binary=binary)
        except Exception:
            self._handler_failed()

    def _guarded(self, tell: Callable[[], None]) -> None:
        """A handler that fails ends its own connection, and not what all connections share."""
        try:
            tell()
        except Exception:
            self._handler_failed()

    def _handler_failed(self) -> None:
        logger.exception("handler failed")
        self.close(CloseCode.SERVER_ERROR, CloseCode.SERVER_ERROR.reason)

    # The end.

    def _begin_end(self) -> Ending:
        """From now on what the client sends is thrown away."""
        self._waiting = self._fragments = None
        if self._ending is None:
            self._ending = Ending(self._port.loop, self._transport, self.delivery)
        return self._ending

    def _end_with(self, frame: bytes) -> None:
        """The last frame; once it is written, our side of TCP is closed."""
        self._state = _CLOSING
        ending = self._begin_end()
        self.put_last(frame)
        ending.once_delivered(self._port.options.close_timeout_s)

    def _tell_closed(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.closed(clean=self._clean)
            except Exception:
                logger.exception("handler failed at the end of a connection")


def _check_text(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise invalid_text() from None
