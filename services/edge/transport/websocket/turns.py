"""Reads the frames of one client in turns, so that it does not hold up the others.

**Turns.** Of what one read brought, 32 frames or 64 KiB are handled. The rest stays in `_waiting`, reading is paused,
and the next turn comes after the other callbacks of the event loop. The handler may pause reading itself; messages of
the present turn still reach it. A read that is exactly one ASCII text frame, as most are, is delivered without a turn.

**Example.** A client sends 40,000 tiny frames. They take 1,250 turns; all other connections are served in between.
**Trade-off.** A client that sends many frames at once is served more slowly. See docs/decisions/0001.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from services.edge.transport.metrics import TransportCounters
from services.edge.transport.options import TransportOptions
from services.edge.transport.outbox import Flusher, Outbox
from services.edge.transport.websocket.fragments import Fragments, check_text
from services.edge.transport.websocket.frame_reader import FIN_TEXT, Violation, read_frames, read_text

OPEN = 0  # the first of a connection's states (`connection.py`); in all others nothing is read any more

_BYTES_PER_TURN = 65_536  # bytes of frames after which no further frame is handled in the turn


class Port(Protocol):
    """What a connection uses of the public port that it belongs to."""

    loop: asyncio.AbstractEventLoop
    options: TransportOptions
    counters: TransportCounters
    flusher: Flusher


class TurnReader(Outbox, asyncio.Protocol):
    """The reading side of a connection. Subclasses handle the frames."""

    __slots__ = (
        "_at",
        "_fragments",
        "_held_by_handler",
        "_max_message_bytes",
        "_missing",
        "_port",
        "_state",
        "_turn_is_due",
        "_waiting",
    )

    _port: Port
    _frames_per_turn = 32  # frames handled before other connections get a turn
    _max_compressed_bytes = 0  # longest payload of a compressed frame; 0: no compression

    def __init__(self, port: Port, transport: asyncio.Transport, max_message_bytes: int) -> None:
        super().__init__(transport, port.flusher)
        self._port = port
        self._max_message_bytes = max_message_bytes
        self._state = OPEN
        self._waiting: bytes | bytearray | None = None  # received; not handled from `_at` on
        self._at = 0
        self._missing = 0  # bytes that are missing for the next frame, at least; 0: it may be complete
        self._turn_is_due = False  # `_next_turn` is scheduled
        self._held_by_handler = False  # the handler has paused reading
        self._fragments: Fragments | None = None  # of a message that is not complete

    # Called by the handler: `Connection`.

    def pause_reading(self) -> None:
        """Read nothing from the client until `resume_reading`."""
        if self._state == OPEN:
            self._held_by_handler = True
            self._pause_transport()

    def resume_reading(self) -> None:
        """Read from the client again."""
        if self._state == OPEN and self._held_by_handler:
            self._held_by_handler = False
            if self._turn_is_due:
                return
            if self._waiting is not None and not self._missing:
                self._arrange_turn()
            else:
                self._resume_transport()

    # Called by asyncio.

    def data_received(self, data: bytes) -> None:
        """Handle frames of the client, or keep the bytes for a later turn."""
        self._port.counters.bytes_received += len(data)
        if self._state != OPEN:
            self._discard(len(data))
            return
        waiting = self._waiting
        if waiting is None:
            if self._held_by_handler:
                self._waiting, self._at, self._missing = data, 0, 0
                return
            if self._fragments is None:
                text = read_text(data, self._max_message_bytes)
                if text is not None and text.isascii():
                    self._deliver(text, binary=False)
                    return
            self._handle_turn(data, 0)
            return
        if type(waiting) is bytes:
            waiting, self._at = bytearray(waiting[self._at :]), 0
            self._waiting = waiting
        waiting += data
        self._missing = max(0, self._missing - len(data))
        if not (self._missing or self._turn_is_due or self._held_by_handler):
            self._waiting = None
            self._handle_turn(waiting, self._at)

    # Turns.

    def _handle_turn(self, data: bytes | bytearray, start: int) -> None:
        """Handle the frames of one turn, from `start` on, and keep the rest."""
        found, at, missing, wrong = read_frames(
            data, start, self._max_message_bytes, self._frames_per_turn, _BYTES_PER_TURN, self._max_compressed_bytes
        )
        try:
            for first, payload in found:
                if first == FIN_TEXT and self._fragments is None:
                    if not payload.isascii():
                        check_text(payload)
                    self._deliver(payload, binary=False)
                else:
                    self._handle_frame(first, payload)
                if self._state != OPEN:
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
        """Schedule the next turn, and read nothing until then."""
        self._turn_is_due = True
        self._pause_transport()
        self._port.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_is_due = False
        if self._state == OPEN and not self._held_by_handler:
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                self._handle_turn(waiting, self._at)
            if self._state == OPEN and not (self._turn_is_due or self._held_by_handler):
                self._resume_transport()

    def _pause_transport(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume_transport(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # Implemented by the subclass.

    def close(self, code: int, text: str) -> None:
        """End the connection with a close frame."""
        raise NotImplementedError

    def _deliver(self, payload: bytes, *, binary: bool) -> None:
        """Hand a whole message to the handler."""
        raise NotImplementedError

    def _handle_frame(self, first: int, payload: bytes) -> None:
        """Handle any frame but a whole text message; raises `Violation`."""
        raise NotImplementedError

    def _discard(self, size: int) -> None:
        """Count bytes that came after the end of reading."""
        raise NotImplementedError
