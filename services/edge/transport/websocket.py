"""One WebSocket connection: bytes to messages for its handler, frames of its handler to bytes. No rules."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from websockets.frames import CLOSE, CONT, PING, PONG, TEXT, Close, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from services.edge.domain.ports import MessageHandler
from services.edge.transport.delivery import taken_and_under_way
from services.edge.transport.frames import PING_FRAME, close_frame, pong_frame
from services.edge.transport.options import TransportOptions
from services.edge.transport.outbox import Outbox
from services.edge.transport.plain_frames import FOR_CORE, read_plain
from services.shared.errors import CloseCode

if TYPE_CHECKING:
    from services.edge.transport.port import PublicPort

logger = logging.getLogger(__name__)

# The core would log payloads at debug level.
_core_logger = logging.getLogger("services.edge.transport.core")
_core_logger.setLevel(logging.WARNING)

_RESET = struct.pack("ii", 1, 0)  # close sends RST, and waits for nothing

_FEED_BYTES = 16_384  # given to the core at once: it parses all of it, even behind a violation
_CONTROL_FRAME_BYTES = 125
_INVALID_TEXT = 1007
_TOO_BIG = 1009
_INTERNAL_ERROR = 1011

# States; a connection only moves up.
_OPEN = 0
_DROPPING = 1  # nothing is read any more, and TCP ends soon
_CLOSING = 2  # our close frame is on its way; the client's is awaited
_FINISHING = 3  # all close frames are sent: nothing is read or queued any more
_LOST = 4


@dataclass(slots=True)
class _Partial:
    """A message of which some fragments are still to come."""

    binary: bool
    chunks: list[bytes]
    size: int = 0
    decoder: codecs.IncrementalDecoder | None = None  # of text, to check it as it comes


class WebSocketConnection(Outbox, asyncio.Protocol):
    """A `Connection` of the domain and the protocol of its transport, from the handshake's end on."""

    __slots__ = (
        "_clean",
        "_control_frames",
        "_control_since",
        "_core",
        "_handler",
        "_missing",
        "_partial",
        "_peer",
        "_pending",
        "_port",
        "_state",
        "_timer",
    )

    def __init__(self, port: PublicPort, transport: asyncio.Transport, peer: str) -> None:
        super().__init__(transport, port.flusher)
        self._port = port
        self._peer = peer
        self._core: ServerProtocol | None = None  # made for what `read_plain` leaves; from then on it reads everything
        self._pending: bytearray | None = None  # a frame of which some bytes are still to come
        self._missing = 0  # so many at least
        self._handler: MessageHandler | None = None
        self._state = _OPEN
        self._clean = False
        self._partial: _Partial | None = None
        self._timer: asyncio.TimerHandle | None = None
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
            self.put_reply(frame)

    def close(self, code: int, reason: str) -> None:
        """Send what is queued and a close frame; TCP ends when the client has answered, 5 s later at most."""
        if self._state > _DROPPING:
            return
        try:
            frame = close_frame(code, reason)
        except ValueError:
            logger.exception("close code replaced")
            code, frame = _INTERNAL_ERROR, close_frame(_INTERNAL_ERROR, reason)
        self._state = _CLOSING
        self._port.counters.closed_by_server(code)
        self._end_within(self._port.options.close_timeout_s)
        if not self._transport.is_closing():
            self._transport.resume_reading()  # for the answer
        self.put_last(frame)

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
            self.pause_reading()
            self._state = _DROPPING
            self._end_within(delay_s)

    def pause_reading(self) -> None:
        """Take no more bytes from the client."""
        if self._state == _OPEN and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes from the client again."""
        if self._state == _OPEN and not self._transport.is_closing():
            self._transport.resume_reading()

    def send_websocket_ping(self) -> None:
        """Queue a ping frame."""
        self.send(PING_FRAME)

    # From asyncio.

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._port.counters.bytes_received += len(data)
        if self._state not in (_OPEN, _CLOSING):
            return
        if self._core is None:
            self._read(data)
        else:
            self._feed(self._core, data)

    def eof_received(self) -> None:
        """The client sends nothing more: asyncio ends the connection once its buffer is written."""
        self._end_within(self._port.options.close_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        if self._state < _CLOSING:
            self._port.counters.lost()
        self._state = _LOST
        self.release()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._partial = None
        self._pending = None
        if self._core is not None:
            self._core.parser.close()  # ends a cycle of references: memory is free at once
        self._port.websocket_lost(self)
        self._tell_closed()

    # From `Outbox`.

    def outbox_full(self) -> None:
        """The client is too slow: what is queued is lost, and it has to reconnect."""
        self.drop_queue()
        self._state = _FINISHING
        self._port.counters.closed_by_server(CloseCode.SLOW)
        self._end_within(self._port.options.close_timeout_s)
        if not self._transport.is_closing():
            self._transport.write(close_frame(CloseCode.SLOW, CloseCode.SLOW.reason))
            self._transport.write_eof()

    def replies_taken(self) -> None:
        """The client may ask for more."""
        if self._handler is not None and self._state == _OPEN:
            self._handler.replies_taken()

    def outbox_empty(self) -> None:
        """The last frame is written."""
        if self._state == _FINISHING and not self._transport.is_closing():
            self._transport.write_eof()

    # Inbound frames.

    def _read(self, data: bytes) -> None:
        """Take what is plain, keep what is not whole yet, and leave all else to a core."""
        pending = self._pending
        if pending is not None:
            pending += data
            self._missing -= len(data)
            if self._missing > 0:
                return
            self._pending = None
        waiting = data if pending is None else pending
        messages, used, missing = read_plain(waiting, self._port.options.max_message_bytes)
        for opcode, payload in messages:
            self._take_plain(opcode, payload)
        if missing == FOR_CORE:
            self._core = _new_core(self._port.options)
            self._feed(self._core, bytes(waiting[used:]))
        elif missing:
            self._pending, self._missing = bytearray(waiting[used:]), missing

    def _take_plain(self, opcode: Opcode, payload: bytes) -> None:
        if self._state != _OPEN:
            return
        if opcode is PING:
            self._take_control(pong=False)
            self.send(pong_frame(payload))
        elif opcode is PONG:
            self._take_control(pong=True)
        else:
            self._take_message(opcode, payload)

    def _feed(self, core: ServerProtocol, data: bytes) -> None:
        for start in range(0, len(data), _FEED_BYTES):
            if self._state not in (_OPEN, _CLOSING):
                return
            core.receive_data(data[start : start + _FEED_BYTES])
            if core.events:
                for event in core.events_received():
                    self._take(core, event)  # type: ignore[arg-type]  # past the handshake, events are frames
            if core.writes:  # pongs, and a close frame
                self._take_writes(core)

    def _take_writes(self, core: ServerProtocol) -> None:
        writes = core.data_to_send()
        if self._state == _OPEN:
            for frame in writes:
                if frame:  # b"" asks for the end of TCP
                    self.send(frame)
            if core.eof_sent:
                self._core_closed(core.close_sent)
        elif self._state == _CLOSING and core.eof_sent:  # the client has answered, or broke the protocol
            self._finish()

    def _core_closed(self, sent: Close | None) -> None:
        """The core has queued the last frame: it answered a close frame or found the protocol broken."""
        if self._state != _OPEN:
            return  # the outbox was full
        if not self._clean and sent is not None:
            self._port.counters.closed_by_server(sent.code)
        self._finish()
        if self._clean:
            self._tell_closed()  # others see the leave now, not when TCP has ended

    def _take(self, core: ServerProtocol, frame: Frame) -> None:
        """Handle one frame that the core has found well-formed."""
        if self._state != _OPEN:
            return
        opcode = frame.opcode
        if opcode is PING or opcode is PONG:
            self._take_control(pong=opcode is PONG)
        elif opcode is CLOSE:
            received = core.close_rcvd
            self._clean = True
            self._port.counters.closed_by_client(received.code if received is not None else 1005)
        elif frame.fin and opcode is not CONT:
            self._take_message(opcode, bytes(frame.data))
        else:
            self._take_fragment(frame)

    def _take_message(self, opcode: Opcode, payload: bytes) -> None:
        if opcode is TEXT and not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                self._fail(_INVALID_TEXT, "invalid UTF-8")
                return
        self._deliver(payload, binary=opcode is not TEXT)

    def _take_fragment(self, frame: Frame) -> None:
        partial = self._partial
        if partial is None:
            partial = self._partial = _Partial(binary=frame.opcode is not TEXT, chunks=[])
            if not partial.binary:
                partial.decoder = codecs.getincrementaldecoder("utf-8")()
        options = self._port.options
        partial.chunks.append(bytes(frame.data))
        partial.size += len(frame.data)
        if partial.size > options.max_message_bytes:
            self._fail(_TOO_BIG, "message too big")
            return
        if len(partial.chunks) > options.max_fragments:
            self._fail(_TOO_BIG, "too many fragments")
            return
        if partial.decoder is not None:
            try:
                partial.decoder.decode(partial.chunks[-1], final=frame.fin)
            except UnicodeDecodeError:
                self._fail(_INVALID_TEXT, "invalid UTF-8")
                return
        if frame.fin:
            self._partial = None
            self._deliver(b"".join(partial.chunks), binary=partial.binary)

    def _take_control(self, *, pong: bool) -> None:
        now = self._port.loop.time()
        if now - self._control_since >= 1.0:
            self._control_since = now
            self._control_frames = 0
        self._control_frames += 1
        if self._control_frames > self._port.options.max_control_frames_per_s:
            self._fail(CloseCode.TOO_MANY_REQUESTS, CloseCode.TOO_MANY_REQUESTS.reason)
        elif pong and self._handler is not None:
            self._handler.websocket_pong()

    def _deliver(self, payload: bytes, *, binary: bool) -> None:
        self._port.counters.messages_received += 1
        if self._handler is None:
            return
        try:
            self._handler.message(payload, binary=binary)
        except Exception:
            logger.exception("handler failed")
            self.close(CloseCode.SERVER_ERROR, CloseCode.SERVER_ERROR.reason)

    # The end.

    def _fail(self, code: int, reason: str) -> None:
        """The client broke a rule: nothing more of it is read."""
        self._partial = None
        self.close(code, reason)
        self._finish()

    def _finish(self) -> None:
        """Half-close TCP once all is written, and wait for the client to do the same."""
        if self._state >= _FINISHING:
            return
        self._state = _FINISHING
        if self._timer is None:
            self._end_within(self._port.options.close_timeout_s)
        if self._frames:
            self.flush()
        else:
            self.outbox_empty()

    def _tell_closed(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.closed(clean=self._clean)
            except Exception:
                logger.exception("handler failed at the end of a connection")

    def _end_within(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._port.loop.call_later(delay_s, self._reset)

    def _reset(self) -> None:
        """End TCP at once: the kernel, too, forgets what a client that hardly reads has not taken."""
        with contextlib.suppress(OSError, AttributeError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


def _new_core(options: TransportOptions) -> ServerProtocol:
    # A control frame may come between the fragments of a message that is nearly as long as allowed.
    limits = (options.max_message_bytes + _CONTROL_FRAME_BYTES, options.max_message_bytes)
    return ServerProtocol(state=OPEN, max_size=limits, logger=_core_logger)
