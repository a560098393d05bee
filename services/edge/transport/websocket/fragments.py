"""Messages in several frames, their text, and codes of close frames.

RFC 6455, 5.4 and 5.5.1.
"""

from __future__ import annotations

import codecs

from services.edge.transport.websocket.deflate import inflate, longest_compressed
from services.edge.transport.websocket.frame_reader import INVALID_DATA, PROTOCOL_ERROR, TOO_BIG, Violation

NO_CODE = 1005  # stands for a close frame without a code; never sent
_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


class Fragments:
    """An incomplete message: the fragments so far.

    Text is checked as it arrives. A compressed message is inflated and checked once it is whole.
    """

    __slots__ = ("_chunks", "_compressed", "_decoder", "_max_bytes", "_max_fragments", "_max_size", "_size", "binary")

    def __init__(self, *, binary: bool, compressed: bool, max_bytes: int, max_fragments: int) -> None:
        self.binary = binary
        self._compressed = compressed
        self._max_bytes = max_bytes
        self._max_size = longest_compressed(max_bytes) if compressed else max_bytes
        self._max_fragments = max_fragments
        self._chunks: list[bytes] = []
        self._size = 0
        self._decoder = None if binary or compressed else codecs.getincrementaldecoder("utf-8")()

    def add(self, payload: bytes, *, last: bool) -> bytes | None:
        """Add a fragment; return the whole message if it is the last one, else None.

        Raises:
            Violation: 1009 if the message is too long or has too many fragments, 1007 if its text is not valid UTF-8 or
                if it can't be inflated.
        """
        self._chunks.append(payload)
        self._size += len(payload)
        if self._size > self._max_size:
            raise Violation(TOO_BIG, "message too big")
        if len(self._chunks) > self._max_fragments:
            raise Violation(TOO_BIG, "too many fragments")
        if self._decoder is not None:
            try:
                self._decoder.decode(payload, final=last)
            except UnicodeDecodeError:
                raise _invalid_text() from None
        if not last:
            return None
        message = b"".join(self._chunks)
        if self._compressed:
            message = inflate(message, self._max_bytes)
            if not self.binary:
                check_text(message)
        return message


def check_text(payload: bytes) -> None:
    """Raise `Violation` if the text is not valid UTF-8."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise _invalid_text() from None


def _invalid_text() -> Violation:
    return Violation(INVALID_DATA, "invalid UTF-8")


def close_code(payload: bytes) -> int:
    """Return the code in the payload of a client's close frame; 1005 if it has none.

    Raises:
        Violation: the code must not be sent, or the reason is not valid UTF-8.
    """
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not (code in _CODES or 3000 <= code <= 4999):
        raise Violation(PROTOCOL_ERROR, "close code not allowed")
    check_text(payload[2:])
    return code
