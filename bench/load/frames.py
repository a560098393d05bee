"""The client's side of WebSocket, by hand: handshake, and frames with a zero mask.

With this mask the payload is readable as it is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
import time

_TEXT, _BINARY, _PONG, _CLOSE = 0x1, 0x2, 0xA, 0x8
_FIN, _MASKED = 0x80, 0x80
_ZERO_MASK = bytes(4)  # masked by the letter of RFC 6455, 5.3: servers unmask as ever, we need not
_LONGEST_SHORT = 125
TOKEN_TTL_S = 24 * 3600


def text_frame(payload: bytes) -> bytes:
    """A text message."""
    return _frame(_TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """A binary message."""
    return _frame(_BINARY, payload)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping frame."""
    return _frame(_PONG, payload)


def close_frame() -> bytes:
    """A normal end."""
    return _frame(_CLOSE, struct.pack("!H", 1000))


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size <= _LONGEST_SHORT:
        head = struct.pack("!BB", _FIN | opcode, _MASKED | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", _FIN | opcode, _MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", _FIN | opcode, _MASKED | 127, size)
    return head + _ZERO_MASK + payload


def upgrade_request(host: str, path: str) -> bytes:
    """The request that begins a WebSocket connection."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def sign_token(secret: str, user: str, ttl_s: int = TOKEN_TTL_S) -> str:
    """A JWT (HS256) for a user: every server here verifies the same kind."""
    now = int(time.time())
    body = json.dumps({"sub": user, "iat": now, "exp": now + ttl_s}, separators=(",", ":")).encode()
    signed = b".".join((_base64(b'{"alg":"HS256","typ":"JWT"}'), _base64(body)))
    return b".".join((signed, _base64(hmac.digest(secret.encode(), signed, hashlib.sha256)))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
