"""Reader of the WebSocket frames that clients send. RFC 6455, 5.2."""

from __future__ import annotations

from websockets.frames import apply_mask as unmask  # type: ignore[attr-defined]  # in C, where that is installed

# The first byte of a frame is its opcode, plus FIN if the frame ends its message.
FIN = 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN_TEXT, FIN_BINARY = FIN | TEXT, FIN | BINARY
FIN_CLOSE, FIN_PING, FIN_PONG = FIN | CLOSE, FIN | PING, FIN | PONG

OPCODE = 0x0F  # bits of the first byte
COMPRESSED = 0x40  # RSV1 in the first frame of a message: RFC 7692, 6

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009

_CONTROL = 0x8
_KNOWN = frozenset(
    (CONTINUATION, TEXT, BINARY, FIN | CONTINUATION, FIN_TEXT, FIN_BINARY, FIN_CLOSE, FIN_PING, FIN_PONG)
)
_KNOWN_COMPRESSED = frozenset(COMPRESSED | first for first in (TEXT, BINARY, FIN_TEXT, FIN_BINARY))
_LONGEST_CONTROL = 125
_2_BYTES, _8_BYTES = 126, 127  # values of the 7-bit length: the real length follows in so many bytes


class Violation(Exception):
    """Raised when the client breaks a rule; the connection is closed with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def read_text(data: bytes | bytearray, max_bytes: int) -> bytes | None:
    """Return the payload if `data` is exactly one whole text message, else None.

    This is the usual case. For all other data, and for a payload of less than 2 bytes, use `read_frames`.
    """
    size = len(data)
    if size < 8 or data[0] != FIN_TEXT:
        return None
    body, length = 6, data[1] - 0x80
    if length == _2_BYTES:
        body, length = 8, data[2] << 8 | data[3]
        if length < _2_BYTES:
            return None
    elif length > _LONGEST_CONTROL:
        return None
    if body + length != size or length > max_bytes:
        return None
    return unmask(data[body:], data[body - 4 : body])


def read_frames(
    data: bytes | bytearray,
    start: int,
    max_bytes: int,
    most_frames: int,
    most_bytes: int,
    max_compressed_bytes: int = 0,
) -> tuple[list[tuple[int, bytes]], int, int, Violation | None]:
    """Read complete frames from `start` on, which is the beginning of a frame.

    Reads at most `most_frames` frames, and begins no further frame after `most_bytes` bytes. A payload has at most
    `max_bytes`, one that may be of a compressed message `max_compressed_bytes`; 0: no compression was agreed on.

    Returns:
        A tuple of four. 1: first byte and payload of each frame. 2: where the next frame begins. 3: how many bytes of
        the next frame are missing at least; 0 if nothing of it is there, or if it was not looked at. 4: the violation
        in the next frame, or None.
    """
    found: list[tuple[int, bytes]] = []
    at, size, last = start, len(data), start + most_bytes
    while size - at >= 2:
        if at >= last or len(found) == most_frames:
            return found, at, 0, None
        first = data[at]
        length = data[at + 1] - 0x80
        known = first in _KNOWN or (max_compressed_bytes and first in _KNOWN_COMPRESSED)
        if not known or length < 0:
            reason = "a frame that is not masked" if known else "unknown opcode, reserved bits or a control frame cut"
            return found, at, 0, Violation(PROTOCOL_ERROR, reason)
        body = at + 6
        if length > _LONGEST_CONTROL:
            if first & _CONTROL:
                return found, at, 0, Violation(PROTOCOL_ERROR, "control frame too long")
            extra = 2 if length == _2_BYTES else 8
            body += extra
            if size < at + 2 + extra:
                break
            if extra == 2:
                shortest, length = _2_BYTES, data[at + 2] << 8 | data[at + 3]
            else:
                shortest, length = 65_536, int.from_bytes(data[at + 2 : at + 10], "big")
            if length < shortest or length >> 63:
                return found, at, 0, Violation(PROTOCOL_ERROR, "length not in its shortest form")
        if length > max_bytes and (length > max_compressed_bytes or (first & OPCODE and not first & COMPRESSED)):
            return found, at, 0, Violation(TOO_BIG, "message too big")
        end = body + length
        if end > size:
            return found, at, end - size, None
        found.append((first, unmask(data[body:end], data[body - 4 : body])))
        at = end
    return found, at, 1 if at < size else 0, None
