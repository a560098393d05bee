"""What a client does for permessage-deflate, by zlib alone.

It shares no code with the edge.
"""

from __future__ import annotations

import random
import zlib

from tests.edge.transport.support import CONT, frame

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
RSV1 = 4
LEFT_OUT = b"\x00\x00\xff\xff"


def deflated(message: bytes, *, level: int = 6, bits: int = 15, memory: int = 8) -> bytes:
    """The payload of a compressed message: RFC 7692, 7.2.1."""
    writer = zlib.compressobj(level, zlib.DEFLATED, -bits, memory)
    data = writer.compress(message) + writer.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(LEFT_OUT)
    return data[:-4]


def inflated(payload: bytes, *, bits: int = 15) -> bytes:
    """The message of a compressed payload that needs nothing from before it.

    Nor a larger window.

    It is taken in small pieces, because zlib sees no window that is too small while it may look into its output.
    """
    reader = zlib.decompressobj(-bits)
    message, rest = b"", payload + LEFT_OUT
    while rest:
        message += reader.decompress(rest, 128)
        rest = reader.unconsumed_tail
    return message + reader.flush()


def deflated_anyhow(message: bytes, chance: random.Random) -> bytes:
    """The payload as some client might make it.

    Any settings, flushes, empty blocks, blocks marked as the last.
    """
    level, bits, memory = chance.randint(0, 9), chance.randint(9, 15), chance.randint(1, 9)
    strategy = chance.choice((zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE))
    made = b""
    writer = zlib.compressobj(level, zlib.DEFLATED, -bits, memory, strategy)
    ends = 0
    for piece in pieces(message, chance.randint(1, 4), chance):
        made += writer.compress(piece)
        what = chance.randrange(6)
        if what == 0:
            made += writer.flush(zlib.Z_SYNC_FLUSH)
        elif what == 1:
            made += writer.flush(zlib.Z_FULL_FLUSH) + b"\x00" + LEFT_OUT  # an empty block more
        elif what == 2 and ends < 8:
            ends += 1
            made += writer.flush(zlib.Z_FINISH)
            writer = zlib.compressobj(level, zlib.DEFLATED, -bits, memory, strategy)
    how = chance.randrange(3)
    if how == 0:
        return made + writer.flush(zlib.Z_FINISH) + b"\x00"  # as in RFC 7692, 7.2.3.4
    if how == 1:
        return made + writer.flush(zlib.Z_FINISH)  # as some do
    return (made + writer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def pieces(data: bytes, count: int, chance: random.Random) -> list[bytes]:
    """The data in so many pieces, of which some may be empty."""
    cuts = sorted(chance.randint(0, len(data)) for _ in range(count - 1))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def message_frames(opcode: int, payload: bytes, count: int, chance: random.Random, *, compressed: bool) -> list[bytes]:
    """A message in so many frames, the first of which says whether it is compressed."""
    parts = pieces(payload, count, chance)
    return [
        frame(
            CONT if number else opcode,
            part,
            fin=number == len(parts) - 1,
            rsv=RSV1 if compressed and not number else 0,
        )
        for number, part in enumerate(parts)
    ]
