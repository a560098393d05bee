"""Compresses and inflates single messages, by permessage-deflate. RFC 7692, 7.2.

**Purpose.** Compression must cost no memory for each connection, and little CPU for each delivery. So each message
stands alone (no context takeover): neither side refers to earlier messages, and no state of zlib outlives a call.

**Compress once.** Because nothing depends on the connection, a compressed frame is the same bytes for all. A push is
sent to all subscribers one after another, so a `FrameCompressor` remembers the last push and what became of it. Those
who join get all pushes that were held for them, and then it is the next one's turn: so it remembers those before, too.
Connections share compressors: there is one for each of three window sizes, as clients may ask for a small window.

**Inflate within a bound.** zlib is told how many bytes it may write, one more than the longest message has: a message
that would become larger ends the connection, whatever it would have become. Behind the message come the 4 bytes that
the sender left out, and an empty last block. Only if zlib reaches the end of that was the message whole.

**Trade-off.** Messages that resemble each other become smaller with context, at up to 300 KiB per connection, and each
delivery must be compressed by itself. See docs/decisions/0035-compression-without-context.md.
"""

from __future__ import annotations

import zlib

from services.edge.transport.metrics import TransportCounters
from services.edge.transport.websocket.frame_reader import FIN_BINARY, FIN_TEXT, INVALID_DATA, TOO_BIG, Violation
from services.edge.transport.websocket.frames import compressed_frame, payload_start

WINDOW_BITS = (15, 12, 9)  # sizes that are used, as powers of two; raw streams of zlib have at least 9

_LEVEL = 1  # level 6 takes up to 6 times as long, for frames that are 1 to 7 % of their length shorter
_MEM_LEVEL = 8  # zlib's default
_INFLATE_BITS = -15  # any window that a client may use; negative: without a header
_WINDOW_BYTES = 32_768
_LEFT_OUT = b"\x00\x00\xff\xff"  # end of the empty block behind each message, which its sender leaves out
_BEHIND = _LEFT_OUT + b"\x03\x00"  # … and an empty block that is marked as the last one
_KEPT_BYTES = 1_048_576  # of the pushes that a compressor remembers, before and after; one push may be longer
_MOST_ENDS = 16  # blocks of a message that are marked as the last one; each one costs a new state of zlib


def longest_compressed(max_bytes: int) -> int:
    """Return the most bytes that zlib makes of `max_bytes`: its `deflateBound`."""
    return max_bytes + ((max_bytes + 7) >> 3) + ((max_bytes + 63) >> 6) + 11


def inflate(payload: bytes, max_bytes: int) -> bytes:
    """Return the message whose compressed payload this is.

    A block that is marked as the last one need not be: RFC 7692, 7.2.3.4 allows more of them, and further blocks.

    Raises:
        Violation: 1009 if it is longer than `max_bytes`, 1007 if it can't be inflated or is not whole.
    """
    message, data = b"", payload + _BEHIND
    for _ in range(_MOST_ENDS):
        reader = zlib.decompressobj(_INFLATE_BITS, zdict=message[-_WINDOW_BYTES:])
        try:
            message += reader.decompress(data, max_bytes + 1 - len(message))
        except zlib.error:
            raise _invalid_data() from None
        if len(message) > max_bytes:
            raise Violation(TOO_BIG, "message too big")
        if not reader.eof:
            raise _invalid_data()
        data = reader.unused_data
        if not data or data == _BEHIND:  # some senders mark the last block and leave out the empty one
            return message
    raise _invalid_data()


def _invalid_data() -> Violation:
    return Violation(INVALID_DATA, "invalid compressed data")


class FrameCompressor:
    """Compresses frames with one window size, for all connections that agreed to it.

    Args:
        window_bits: One of `WINDOW_BITS`.
        min_bytes: Shorter frames stay as they are.
        counters: Counts what is compressed.
    """

    __slots__ = ("_counters", "_kept", "_kept_bytes", "_last_made", "_last_push", "_min_bytes", "_window_bits")

    def __init__(self, window_bits: int, min_bytes: int, counters: TransportCounters) -> None:
        self._window_bits = window_bits
        self._min_bytes = min_bytes
        self._counters = counters
        self._last_push = self._last_made = b""
        self._kept: dict[int, tuple[bytes, bytes]] = {}  # id of a push → the push and what became of it; oldest first
        self._kept_bytes = 0

    def push(self, frame: bytes) -> bytes:
        """Return the frame to send for a push; compressed once if pushed again and again."""
        if len(frame) < self._min_bytes:
            return frame
        if frame is not self._last_push:
            self._last_push, self._last_made = frame, self._kept_or_made(frame)
        made = self._last_made
        self._counters.compression_saved_bytes += len(frame) - len(made)
        return made

    def _kept_or_made(self, push: bytes) -> bytes:
        """Return what became of a push before the last one, or compress it."""
        if (kept := self._kept.get(id(push))) is not None:  # the same push: one that is kept is not freed
            return kept[1]
        made = self._compress(push)
        self._kept[id(push)] = push, made
        self._kept_bytes += len(push) + len(made)
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            oldest, was_made = self._kept.pop(next(iter(self._kept)))
            self._kept_bytes -= len(oldest) + len(was_made)
        return made

    def reply(self, frame: bytes) -> bytes:
        """Return the frame to send for a reply, which goes to one client."""
        if len(frame) < self._min_bytes:
            return frame
        made = self._compress(frame)
        self._counters.compression_saved_bytes += len(frame) - len(made)
        return made

    def _compress(self, frame: bytes) -> bytes:
        """Return the frame compressed.

        A control frame, or one that gets no smaller, is returned as it is.
        """
        first = frame[0]
        if first not in (FIN_TEXT, FIN_BINARY):
            return frame
        self._counters.frames_compressed += 1
        writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -self._window_bits, _MEM_LEVEL)
        data = writer.compress(memoryview(frame)[payload_start(frame) :]) + writer.flush(zlib.Z_SYNC_FLUSH)
        made = compressed_frame(first, data[: -len(_LEFT_OUT)])
        return made if len(made) < len(frame) else frame
