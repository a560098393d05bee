"""Compressed messages decode to what was sent; broken ones end the connection.

However they are made, cut and sent.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import tracemalloc
import zlib
from typing import Any, cast

import pytest

from services.edge.transport.metrics import TransportCounters
from services.edge.transport.websocket.compressed_connection import CompressedConnection
from services.edge.transport.websocket.deflate import WINDOW_BITS, FrameCompressor, longest_compressed
from services.edge.transport.websocket.frames import binary_frame, text_frame
from tests.edge.transport.deflating import RSV1, deflated, deflated_anyhow, inflated, message_frames, pieces
from tests.edge.transport.support import BINARY, CLOSE, PING, PONG, TEXT, frame
from tests.edge.transport.test_frame_reader import Event, Made

LIMIT = 3_000
CODES_OF_MUTANTS = {1002, 1007, 1009}


class Compressed(Made):
    """A connection of ours on nothing, whose client has agreed to compression."""

    def __init__(self, *, most: int = LIMIT, compressor: FrameCompressor | None = None) -> None:
        super().__init__()
        self.connection = CompressedConnection(
            cast(Any, self.port),
            cast(Any, self.transport),
            "",
            max_message_bytes=most,
            compressor=compressor or FrameCompressor(15, 1, self.port.counters),
        )
        self.connection.open(cast(Any, self.handler))


def some_message(chance: random.Random, most: int = LIMIT) -> bytes:
    """Text of UTF-8: nothing, noise, repetitions or JSON."""
    kind = chance.randrange(5)
    size = chance.choice((0, 1, 20, 300, most // 3))
    if kind == 0:
        return chance.randbytes(size // 2).hex().encode()
    if kind == 1:
        return ("ä€😀"[chance.randrange(3)] * (size // 4)).encode()
    if kind == 2:
        return b"abcabcabd" * (size // 9)
    if kind == 3:
        return b"z" * most
    return json.dumps([{"n": chance.randrange(99), "text": "tick"} for _ in range(size // 30)]).encode()


def some_stream(chance: random.Random) -> tuple[bytes, list[Event], list[Event]]:
    """What a client sends, what the handler must hear, and the pongs, in order."""
    data, received, said = b"", list[Event](), list[Event]()
    for _ in range(chance.randint(1, 12)):
        message = some_message(chance)
        opcode = chance.choice((TEXT, BINARY))
        compressed = chance.random() < 0.8
        payload = deflated_anyhow(message, chance) if compressed else message
        if compressed and len(payload) > longest_compressed(LIMIT):
            payload = deflated(message)
        for part in message_frames(opcode, payload, chance.choice((1, 1, 2, 5)), chance, compressed=compressed):
            if chance.random() < 0.1:
                data += frame(PING, b"?")
                said.append((PONG, b"?"))
            data += part
        received.append((opcode, message))
    return data, received, said


@pytest.mark.parametrize("seed", range(25))
async def test_messages_are_those_that_were_sent_however_they_are_made_and_cut(seed: int) -> None:
    chance = random.Random(f"compressed {seed}")
    for _ in range(12):
        data, received, said = some_stream(chance)
        made = Compressed()
        for piece in pieces(data, chance.choice((1, 2, 20)), chance):
            await made.feed(piece)
        await made.settle()
        assert made.handler.received == received
        assert made.said() == said


@pytest.mark.parametrize("seed", range(25))
async def test_broken_ones_end_the_connection_by_a_legal_code_or_are_messages(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes before the break is received.

    No text is anything but UTF-8, and nothing is longer than allowed.
    """
    chance = random.Random(f"broken {seed}")
    codes: list[int] = []
    for _ in range(60):
        data = bytearray(some_stream(chance)[0])
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            what = chance.randrange(3)
            if what == 0:
                data[at] ^= 1 << chance.randrange(8)
            elif what == 1:
                del data[at : at + chance.randint(1, 5)]
            else:
                data[at:at] = chance.randbytes(chance.randint(1, 5))
            if not data:
                break
        made = Compressed()
        await made.feed(bytes(data))
        await made.settle()
        for opcode, *rest in made.handler.received:
            if opcode in (TEXT, BINARY):
                assert len(rest[0]) <= LIMIT
            if opcode == TEXT:
                rest[0].decode()
        codes += [one[1] for one in made.said() if one[0] == CLOSE and one[1:] != (b"",)]
    assert set(codes) <= CODES_OF_MUTANTS | {1000, 1001, 1003, 1008, 1010, 1011, 1012, 1013, 1014}
    assert len(codes) > 20
    assert not caplog.records


def bombs(most: int) -> list[tuple[str, bytes]]:
    """Messages that would become far longer than allowed."""
    zeros = zlib.compressobj(9, wbits=-15)
    whole = b"".join(zeros.compress(bytes(1 << 20)) for _ in range(60)) + zeros.flush(zlib.Z_SYNC_FLUSH)[:-4]
    room = longest_compressed(most)
    assert len(whole) <= room
    writer = zlib.compressobj(wbits=-15)
    ended = writer.compress(bytes(most)) + writer.flush()
    return [
        ("one frame", frame(TEXT, whole, rsv=RSV1)),
        ("fragments", b"".join(message_frames(BINARY, whole, 90, random.Random(1), compressed=True))),
        ("many ends", frame(TEXT, ended * (room // len(ended)), rsv=RSV1)),
        ("cut", frame(TEXT, whole[: len(whole) // 2], rsv=RSV1)),
    ]


async def test_a_bomb_closes_1009_and_takes_no_more_memory_than_a_long_message() -> None:
    most = 65_536
    longest = frame(BINARY, deflated(random.Random(1).randbytes(most)), rsv=RSV1)
    taken = await peak_bytes(longest, most, None)
    for name, bomb in bombs(most):
        peaks = [await peak_bytes(bomb, most, 1009) for _ in range(3)]
        assert min(peaks) < taken + 2 * most, name  # other threads of the process may take memory meanwhile
    assert taken < 8 * most


async def peak_bytes(data: bytes, most: int, code: int | None) -> int:
    """The most that Python and zlib held more, while the connection took the data."""
    made = Compressed(most=most)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await made.feed(data)
        await made.settle()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    closes = [one[1] for one in made.said() if one[0] == CLOSE]
    assert closes == ([] if code is None else [code])
    return peak - before


async def test_a_connection_keeps_no_state_of_zlib() -> None:
    """Connections keep no windows and no messages of compression."""
    shared = FrameCompressor(15, 1, TransportCounters())
    many = [Compressed(most=65_536, compressor=shared) for _ in range(50)]
    message = random.Random(2).randbytes(20_000).hex().encode()
    data, push = frame(TEXT, deflated(message), rsv=RSV1), text_frame(message)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for made in many:
            await made.feed(data)
            made.handler.received.clear()
            made.connection.send(push)
            await made.settle()
            made.transport.written = b""
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held / len(many) < 4_096


async def test_others_get_their_turn_between_messages_that_inflate_to_much() -> None:
    made = Compressed(most=65_536)
    data = frame(TEXT, deflated(b"a" * 65_536), rsv=RSV1) * 20
    turns = []
    made.connection.data_received(data)
    while not made.transport.reading:
        turns.append(len(made.handler.received))
        await asyncio.sleep(0)
    assert turns == [4, 8, 12, 16]
    assert len(made.handler.received) == 20


@pytest.mark.parametrize("bits", WINDOW_BITS)
def test_frames_of_any_length_are_read_by_an_independent_client(bits: int) -> None:
    chance = random.Random(f"frames {bits}")
    compressor = FrameCompressor(bits, 1, TransportCounters())
    for size in (0, 1, 100, 121, 122, 125, 126, 130, 65_531, 65_536, 200_000):
        for message in (b"a" * size, chance.randbytes(size)):
            for make, opcode in ((text_frame, TEXT), (binary_frame, BINARY)):
                plain = make(message)
                for made in (compressor.push(plain), compressor.reply(plain)):
                    assert len(made) <= len(plain)
                    first, payload = whole_frame(made)
                    assert first & ~0x40 == 0x80 | opcode
                    assert (inflated(payload, bits=bits) if first & 0x40 else payload) == message


def whole_frame(data: bytes) -> tuple[int, bytes]:
    size, at = data[1], 2
    if size == 126:
        size, at = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, at = int.from_bytes(data[2:10], "big"), 10
    assert len(data) == at + size
    return data[0], data[at:]


def test_no_setting_of_zlib_makes_more_than_the_bound_says() -> None:
    chance = random.Random("bound")
    for size in (0, 1, 10, 100, 1_000, 65_536):
        noise = chance.randbytes(size)
        for level in (0, 1, 6, 9):
            for memory in (1, 2, 8, 9):
                for bits in (9, 12, 15):
                    assert len(deflated(noise, level=level, bits=bits, memory=memory)) <= longest_compressed(size)
