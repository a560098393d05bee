"""Frames as nearly all clients send them, read without a parser that could be interrupted anywhere. RFC 6455, 5.2."""

from __future__ import annotations

from collections.abc import Mapping

from websockets.frames import BINARY, PING, PONG, TEXT, Opcode
from websockets.frames import apply_mask as unmask  # type: ignore[attr-defined]  # the one in C, if there is one

FOR_CORE = -1
_PLAIN: Mapping[int, Opcode] = {0x80 | opcode: opcode for opcode in (TEXT, BINARY, PING, PONG)}
_LENGTH_OF_2_BYTES = 126
_LENGTH_OF_8_BYTES = 127


def read_plain(data: bytes | bytearray, max_bytes: int) -> tuple[list[tuple[Opcode, bytes]], int, int]:
    """Whole messages, pings and pongs at the beginning of the data, which begins with a frame.

    What breaks a rule, belongs to a message of several frames or closes is left to the core, with all behind it; so is
    whatever is longer than `max_bytes` or says its length in 8 bytes.

    Returns:
        Opcodes and payloads; how many bytes these frames took; and how many are missing at least before there is
        another one: 0 where nothing is left, `FOR_CORE` where the rest is for the core.
    """
    found: list[tuple[Opcode, bytes]] = []
    start, size = 0, len(data)
    while size - start >= 2:
        opcode = _PLAIN.get(data[start])
        length = data[start + 1] - 0x80
        if opcode is None or length < 0 or length == _LENGTH_OF_8_BYTES:  # below 0: not masked
            return found, start, FOR_CORE
        body = start + 6
        if length == _LENGTH_OF_2_BYTES:
            if opcode is PING or opcode is PONG:
                return found, start, FOR_CORE
            if size - start < 4:
                break
            length = data[start + 2] << 8 | data[start + 3]
            body = start + 8
        if length > max_bytes:
            return found, start, FOR_CORE
        if body + length > size:
            return found, start, body + length - size
        found.append((opcode, unmask(data[body : body + length], data[body - 4 : body])))
        start = body + length
    return found, start, 0 if start == size else 1
