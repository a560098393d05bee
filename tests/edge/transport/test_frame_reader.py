"""A connection and an independent reader of RFC 6455 read the same.

However the bytes are cut.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest
from websockets.frames import Frame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from services.edge.domain.ends import ClientEnd, End
from services.edge.transport.metrics import TransportCounters
from services.edge.transport.options import TransportOptions
from services.edge.transport.outbox import Flusher
from services.edge.transport.websocket.connection import WebSocketConnection
from services.edge.transport.websocket.frame_reader import FIN_TEXT, PROTOCOL_ERROR, read_frames, read_text
from tests.edge.transport.support import BINARY, CLOSE, CODES, CONT, PING, PONG, TEXT, close_payload, frame

LIMIT = 1_000
Event = tuple[Any, ...]
LONG = frame(TEXT, b"w" * 70_000)


class FakeTransport:
    """Takes everything that is written."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None: ...

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class FakePort:
    """What a connection asks of its port."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.options = TransportOptions(max_fragments=1_000, max_control_frames_per_s=1_000, close_timeout_s=60)
        self.counters = TransportCounters()
        self.flusher = Flusher(self.loop, self.counters, max_outbox_bytes=1 << 20, max_total_bytes=1 << 24)


class Recording:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.received: list[Event] = []

    def message(self, payload: bytes, *, binary: bool) -> None:
        self.received.append((BINARY if binary else TEXT, payload))

    def opened(self) -> None: ...

    def control(self, *, pong: bool) -> None:
        if pong:
            self.received.append((PONG,))

    def close_code(self, end: End) -> tuple[int, str]:
        return CODES[end.reason]

    def replies_taken(self) -> None: ...

    def closed(self, how: ClientEnd) -> None: ...


class Made:
    """A connection of ours on nothing."""

    def __init__(self, *, most: int = LIMIT) -> None:
        self.port, self.transport, self.handler = FakePort(), FakeTransport(), Recording()
        self.connection = WebSocketConnection(
            cast(Any, self.port), cast(Any, self.transport), "", max_message_bytes=most
        )
        self.connection.open(cast(Any, self.handler))

    async def feed(self, data: bytes) -> None:
        """As asyncio would: nothing while reading is paused."""
        while not self.transport.reading:
            await asyncio.sleep(0)
        self.connection.data_received(data)

    async def settle(self) -> None:
        while not self.transport.reading:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ending = self.connection._ending  # noqa: SLF001  # a timer of 60 s, which must not outlive the loop
        if ending is not None:
            ending.cancel()

    def said(self) -> list[Event]:
        """Pongs and the code of the close frame that was written."""
        return [one for one in frames_of(self.transport.written) if one[0] in (PONG, CLOSE)]


def frames_of(data: bytes) -> list[Event]:
    found: list[Event] = []
    while data:
        size, at = data[1], 2
        assert size < 126
        payload = data[at : at + size]
        opcode = data[0] & 15
        found.append((opcode, int.from_bytes(payload[:2], "big") if opcode == CLOSE and payload else payload))
        data = data[at + size :]
    return found


def by_reference(data: bytes) -> tuple[list[Event], list[Event]]:
    """Return what `websockets` makes of it: received and said.

    With messages put together and text checked.
    """
    core = ServerProtocol(state=OPEN, max_size=(LIMIT + 125, LIMIT))
    received: list[Event] = []
    pongs: list[Event] = []
    parts: list[bytes] = []
    opcode, size = 0, 0
    core.receive_data(data)
    events = [event for event in core.events_received() if isinstance(event, Frame)]
    for event in events:
        if event.opcode in (TEXT, BINARY, CONT):
            if event.opcode != CONT:
                opcode, size, parts = event.opcode, 0, []
            parts.append(bytes(event.data))
            size += len(event.data)
            if size > LIMIT:
                return received, [*pongs, (CLOSE, 1009)]
            if opcode == TEXT and not is_prefix_of_text(b"".join(parts), whole=event.fin):
                return received, [*pongs, (CLOSE, 1007)]
            if event.fin:
                received.append((int(opcode), b"".join(parts)))
        elif event.opcode == PONG:
            received.append((PONG,))
        elif event.opcode == PING:
            pongs.append((PONG, bytes(event.data)))
        else:
            code = core.close_rcvd.code if core.close_rcvd is not None else 1005
            return received, [*pongs, (CLOSE, code) if event.data else (CLOSE, b"")]
    if core.close_sent is not None:
        return received, [*pongs, (CLOSE, core.close_sent.code)]
    return received, pongs


def is_prefix_of_text(data: bytes, *, whole: bool) -> bool:
    for missing in (
        (b"",) if whole else (b"", b"\x80", b"\xbf", b"\x80\x80", b"\xbf\xbf", b"\x80\x80\x80", b"\xbf\xbf\xbf")
    ):
        try:
            (data + missing).decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def some_frame(rng: random.Random) -> bytes:
    """Nearly always a good one; else what a client could do wrong."""
    text = rng.choice([b"", b"a", b"{}", b"x" * 125, b"y" * 126, b"z" * LIMIT, "hällo€".encode()])
    return rng.choice(
        [
            *[frame(TEXT, text)] * 8,
            frame(BINARY, text),
            frame(BINARY, b"\xff\xfe"),
            frame(PONG),
            frame(PING, text[:125]),
            frame(TEXT, b"fr", fin=False) + frame(PING, b"between") + frame(CONT, "ä".encode()),
            frame(TEXT, "€".encode()[:1], fin=False) + frame(CONT, b"", fin=False) + frame(CONT, "€".encode()[1:]),
            frame(BINARY, b"a" * 600, fin=False) + frame(PONG) + frame(CONT, b"b" * 400),
            *(
                rng.choice(
                    [
                        frame(TEXT, b"\xff"),
                        frame(TEXT, b"\xed\xa0\x80"),
                        frame(TEXT, "€".encode()[:2], fin=False) + frame(CONT, b"a"),
                        frame(TEXT, b"fr", fin=False) + frame(TEXT, b"no"),
                        frame(TEXT, b"a" * 600, fin=False) + frame(CONT, b"a" * 600),
                        frame(CONT, b"a"),
                        frame(TEXT, b"a", masked=False),
                        frame(TEXT, b"a", rsv=rng.choice([1, 2, 4])),
                        frame(rng.choice([3, 7, 11, 15]), b"a"),
                        frame(PING, b"a", fin=False),
                        frame(PING, b"a" * 126),
                        frame(TEXT, b"w" * (LIMIT + 1)),
                        LONG,
                        frame(CLOSE, close_payload(rng.choice([1000, 1001, 1011, 3000, 4999]), b"bye")),
                        frame(CLOSE, close_payload(rng.choice([0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000]))),
                        frame(CLOSE, close_payload(1000, b"\xff")),
                        frame(CLOSE, b"x"),
                        frame(CLOSE),
                    ]
                )
                for _ in range(rng.random() < 0.3)
            ),
        ]
    )


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    """Into pieces as a network might."""
    chunks = []
    while data:
        size = rng.choice([1, 2, 5, 20, 300, 3_000, 100_000] if len(data) < 3_000 else [3_000, 100_000])
        chunks.append(data[:size])
        data = data[size:]
    return chunks


@pytest.mark.parametrize("seed", range(10))
async def test_a_connection_hears_and_says_what_an_independent_reader_does(seed: int) -> None:
    rng = random.Random(seed)
    for case in range(40):
        data = b"".join(some_frame(rng) for _ in range(rng.randint(1, 40)))
        made = Made()
        for chunk in cut(rng, data):
            await made.feed(chunk)
        await made.settle()
        assert (made.handler.received, made.said()) == by_reference(data), f"seed {seed}, case {case}"


@pytest.mark.parametrize("size", [0, 5, 125, 126, 65_535])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONT, PING])
async def test_a_length_that_is_not_in_its_shortest_form_closes_1002(size: int, opcode: int) -> None:
    for form, bits in ((b"\xfe" + size.to_bytes(2, "big"), 16), (b"\xff" + size.to_bytes(8, "big"), 64)):
        if size > 125 and bits == 16:
            continue
        found, at, _, wrong = read_frames(bytes((0x80 | opcode,)) + form + b"\0\0\0\0" + bytes(size), 0, 1 << 20, 9, 9)
        assert (found, at) == ([], 0)
        assert wrong is not None
        assert wrong.code == PROTOCOL_ERROR


def test_lengths_at_their_bounds_are_read() -> None:
    for size in (125, 126, 65_535, 65_536):
        found, at, missing, wrong = read_frames(frame(TEXT, b"a" * size) + b"\x81", 0, 1 << 20, 9, 1 << 20)
        assert (found, missing, wrong) == ([(FIN_TEXT, b"a" * size)], 1, None)
        assert at == len(frame(TEXT, b"a" * size))


@pytest.mark.parametrize("seed", range(4))
def test_the_short_way_reads_a_lonely_text_message_as_the_long_way_does(seed: int) -> None:
    rng, taken = random.Random(seed), 0
    for _ in range(3_000):
        size = rng.choice([0, 1, 2, 119, 125, 126, 127, 128, rng.randrange(300), LIMIT, LIMIT + 1, 65_535, 65_536])
        opcode, masked = rng.choice([TEXT, TEXT, TEXT, BINARY, PING]), rng.random() < 0.9
        data = bytearray(frame(opcode, rng.randbytes(size), fin=rng.random() < 0.9, masked=masked))
        if rng.random() < 0.3:
            data[rng.randrange(min(len(data), 4))] = rng.choice(
                [0, 0x7D, 0x7E, 0xFE, 0xFF, FIN_TEXT, rng.randrange(256)]
            )
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data) + 1)] + bytes(rng.randrange(3))
        text = read_text(data, LIMIT)
        whole = read_frames(data, 0, LIMIT, 2, 1 << 20)
        if text is not None:
            taken += 1
            assert whole == ([(FIN_TEXT, text)], len(data), 0, None)
        elif whole[0] and whole[0][0][0] == FIN_TEXT and whole[1] == len(data):
            assert len(whole[0]) > 1 or len(data) < 8
    assert taken > 500
    assert read_text(bytes((FIN_TEXT, 0xFF)) + bytes(131), LIMIT) is None  # 8 bytes of length are to follow


def test_a_length_with_its_highest_bit_set_is_wrong_and_a_huge_one_too_big() -> None:
    for first, code in ((0x80, 1002), (0x7F, 1009)):
        *_, wrong = read_frames(bytes((0x82, 0xFF, first)) + b"\xff" * 7, 0, 1 << 20, 9, 9)
        assert wrong is not None
        assert wrong.code == code


# How much one read may cause at once.


async def test_what_one_read_brings_is_handled_a_few_frames_at_a_time_and_nothing_is_read_meanwhile() -> None:
    made = Made()
    made.connection.data_received(b"".join(frame(TEXT, b"%d" % number) for number in range(1_000)))
    turns = 0
    while len(made.handler.received) < 1_000:
        assert len(made.handler.received) == 32 * (turns + 1)
        assert not made.transport.reading
        turns += 1
        await asyncio.sleep(0)
    assert made.handler.received == [(TEXT, b"%d" % number) for number in range(1_000)]
    await asyncio.sleep(0)
    assert made.transport.reading


async def test_long_messages_take_a_turn_each() -> None:
    made = Made(most=65_536)
    made.connection.data_received(b"".join(frame(BINARY, bytes(60_000)) for _ in range(4)))
    assert len(made.handler.received) == 2
    await asyncio.sleep(0)
    assert len(made.handler.received) == 4


async def test_nothing_is_handled_while_the_handler_wants_nothing_and_all_of_it_later() -> None:
    made = Made()
    received = made.handler.received
    last = frame(TEXT, b"x")
    made.connection.data_received(b"".join(frame(TEXT, b"%d" % number) for number in range(100)) + last[:3])
    made.connection.pause_reading()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(received) == 32
    made.connection.resume_reading()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(received) == 100
    assert made.transport.reading
    made.connection.pause_reading()
    assert not made.transport.reading
    made.connection.resume_reading()
    assert made.transport.reading
    made.connection.data_received(last[3:])
    assert received[-1] == (TEXT, b"x")


async def test_the_rest_of_a_read_is_forgotten_once_a_close_frame_is_on_its_way() -> None:
    made = Made()
    made.connection.data_received(frame(TEXT, b"a") * 40 + frame(TEXT, b"\xff") + frame(TEXT, b"b") * 40)
    await made.settle()
    assert made.handler.received == [(TEXT, b"a")] * 40
    assert made.said() == [(CLOSE, 1007)]
    assert made.connection._waiting is None  # noqa: SLF001  # memory that a peer can fill shows nowhere else


@pytest.mark.parametrize(
    "wrong", [frame(TEXT, b"\xff"), frame(TEXT, b"w" * (LIMIT + 1)), frame(3)], ids=["utf-8", "too long", "opcode"]
)
async def test_pongs_for_what_came_before_a_violation_are_sent(wrong: bytes) -> None:
    made = Made()
    made.connection.data_received(frame(PING, b"1") + frame(TEXT, b"fr", fin=False) + frame(PING, b"2") + wrong)
    await made.settle()
    assert [one[0] for one in made.said()] == [PONG, PONG, CLOSE]
