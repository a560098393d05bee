"""Writer of WebSocket frames, as a server sends them. RFC 6455, 5.2."""

from __future__ import annotations

PING_FRAME = b"\x89\x00"
MAX_REASON_BYTES = 123

_COMPRESSED = 0x40  # RSV1, RFC 7692, 6
_TEXT = 0x81
_BINARY = 0x82
_CLOSE = 0x88
_PONG = 0x8A


def text_frame(payload: bytes) -> bytes:
    """Return the frame of one text message; the payload must be UTF-8."""
    return _frame(_TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """Return the frame of one binary message."""
    return _frame(_BINARY, payload)


def compressed_frame(first: int, payload: bytes) -> bytes:
    """Return the frame of one compressed message.

    `first` is the first byte of the frame with the message uncompressed.
    """
    return _frame(first | _COMPRESSED, payload)


def payload_start(frame: bytes) -> int:
    """Return where the payload of a frame of ours begins."""
    size = frame[1]
    return 2 if size < 126 else 4 if size == 126 else 10


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame; a reason of more than 123 bytes is cut.

    Raises:
        ValueError: the code must not be sent (RFC 6455, 7.4).
    """
    if not (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) and not 3000 <= code <= 4999:
        raise ValueError(f"close code {code} can't be sent")
    text = reason.encode("utf-8", "replace")
    if len(text) > MAX_REASON_BYTES:
        text = text[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    return _frame(_CLOSE, code.to_bytes(2, "big") + text)


def close_reply(payload: bytes) -> bytes:
    """Return the reply to a close frame; it has the same payload."""
    return _frame(_CLOSE, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return the reply to a ping; it has the same payload."""
    return _frame(_PONG, payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
