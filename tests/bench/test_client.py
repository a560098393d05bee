"""What a client of the load generator counts in the bytes of each server.

However they are cut.
"""

from __future__ import annotations

import asyncio
import struct
from typing import cast

import pytest

from bench.load.client import Client, Opening, Tally
from bench.load.clock import FIRST
from bench.load.dialects import CENTRIFUGAL, DIALECTS, PAYLOAD, PAYLOAD_BYTES, PLAIN, SOCKETIO, Dialect, Joining
from bench.load.frames import pong_frame, text_frame

NOW = FIRST + 5_000_000


class Written(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


def frame(payload: bytes) -> bytes:
    """As servers send it."""
    size = len(payload)
    return (struct.pack("!BB", 0x81, size) if size < 126 else struct.pack("!BBH", 0x81, 126, size)) + payload


def delivery(dialect: Dialect, sent: int) -> bytes:
    payload = (PAYLOAD % sent).encode()
    wrapped = {
        CENTRIFUGAL: b'{"push":{"channel":"live:c","pub":{"data":%b,"info":{"user":"u","client":"c"},"offset":7}}}',
        SOCKETIO: b'42["m",%b,"1763-0"]',
        PLAIN: b'{"channel":"live:c","data":%b}',
    }
    return frame(wrapped[dialect] % payload)


def ack(dialect: Dialect, sent: int) -> bytes:
    replies = {
        CENTRIFUGAL: b'{"id":%d,"publish":{"offset":7,"epoch":"e"}}',
        SOCKETIO: b"43%d[]",
        PLAIN: b'{"ack":%d}',
    }
    return frame(replies[dialect] % sent)


class Seat:
    """A client, what it wrote and what it counted."""

    def __init__(self, dialect: Dialect) -> None:
        self.transport = Written()
        self.tally = Tally(lambda: NOW)
        self.client = Client(self.transport, dialect, dialect.publish("live:c", PAYLOAD), self.tally)

    def hear(self, stream: bytes, step: int) -> None:
        for start in range(0, len(stream), step):
            self.client.data_received(stream[start : start + step])


@pytest.fixture(params=sorted(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


@pytest.mark.parametrize("step", [1, 7, 100, 1 << 20])
def test_every_delivery_and_answer_counts_once_wherever_chunks_end(dialect: Dialect, step: int) -> None:
    seat = Seat(dialect)
    for number in range(3):
        seat.client.publish(FIRST + number)
    stream = b"".join(
        part for number in range(3) for part in (delivery(dialect, NOW - 100 * number), ack(dialect, FIRST + number))
    )
    seat.hear(stream, step)
    acks, deliveries = seat.tally.histograms()
    assert (seat.tally.delivered, seat.tally.acked, seat.tally.bytes_received) == (3, 3, len(stream))
    assert dict(deliveries.counts) == {0: 1, 100: 1, 200: 1}
    assert acks.total() == 3


def test_a_publication_has_its_intended_time_as_id_and_in_128_bytes_of_data(dialect: Dialect) -> None:
    seat = Seat(dialect)
    seat.client.publish(FIRST + 42)
    payload = (PAYLOAD % (FIRST + 42)).encode()
    head, _, rest = seat.transport.data.partition(payload)
    (size,) = struct.unpack_from("!H", seat.transport.data, 2)
    assert len(payload) == PAYLOAD_BYTES
    assert str(FIRST + 42).encode() in head
    assert size == len(head) - 8 + len(payload) + len(rest)


def test_a_frame_whose_length_is_a_percent_sign_is_a_template_like_any_other() -> None:
    for length in range(1, 200):
        channel = "c" * length
        assert len(CENTRIFUGAL.publish(channel, PAYLOAD) % (FIRST, FIRST)) == len(text_frame(b"")) + 2 + len(
            f'{{"id":{FIRST},"publish":{{"channel":"{channel}","data":{PAYLOAD % FIRST}}}}}'
        )


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("dialect", "ping", "pong"),
    [
        (CENTRIFUGAL, frame(b"{}"), text_frame(b"{}")),
        (SOCKETIO, frame(b"2"), text_frame(b"3")),
        (PLAIN, b"\x89\x04abcd", pong_frame(b"abcd")),
    ],
    ids=["centrifugal", "socketio", "plain"],
)
def test_a_ping_between_deliveries_is_answered(dialect: Dialect, ping: bytes, pong: bytes, step: int) -> None:
    seat = Seat(dialect)
    seat.hear(delivery(dialect, NOW) + ping + delivery(dialect, NOW), step)
    assert seat.transport.data == pong
    seat.hear(ping, step)
    assert seat.transport.data == pong * 2
    assert seat.tally.delivered == 2


def test_a_ping_may_hold_what_messages_end_with() -> None:
    seat = Seat(PLAIN)
    seat.hear(b"\x89\x04ab}d", 1 << 20)
    assert seat.transport.data == pong_frame(b"ab}d")


def test_two_pings_in_a_chunk_are_both_answered() -> None:
    seat = Seat(PLAIN)
    seat.hear(b"\x89\x01a" + delivery(PLAIN, NOW) + b"\x89\x01b", 1 << 20)
    assert seat.transport.data == pong_frame(b"a") + pong_frame(b"b")


def test_any_server_may_send_ping_frames_of_any_bytes(dialect: Dialect) -> None:
    seat = Seat(dialect)
    seat.hear(delivery(dialect, NOW) + b'\x89\x04a"@v' + delivery(dialect, NOW), 1 << 20)
    assert seat.transport.data == pong_frame(b'a"@v')
    assert seat.tally.delivered == 2


def test_a_length_that_reads_as_a_quote_and_an_at_is_no_delivery() -> None:
    seat = Seat(CENTRIFUGAL)
    seat.hear(frame(b'{"id":2,"subscribe":{}}'.ljust(0x2240 - 1) + b"}"), 1 << 20)
    assert seat.tally.delivered == 0


def test_an_empty_result_is_no_ping() -> None:
    seat = Seat(CENTRIFUGAL)
    seat.client.publish(FIRST)
    written = seat.transport.data
    seat.hear(frame(b'{"id":%d,"publish":{}}' % FIRST), 1 << 20)
    assert seat.transport.data == written
    assert seat.tally.acked == 1


def test_refusals_are_counted_beside_deliveries() -> None:
    seat = Seat(CENTRIFUGAL)
    seat.client.publish(FIRST)
    refusal = frame(b'{"id":%d,"error":{"code":111,"message":"too many requests"}}' % FIRST)
    seat.hear(delivery(CENTRIFUGAL, NOW) + refusal, 1 << 20)
    assert (seat.tally.refused, seat.tally.acked, seat.tally.delivered) == (1, 0, 1)


def test_joins_are_counted_and_their_text_is_no_delivery() -> None:
    seat = Seat(CENTRIFUGAL)
    join = frame(b'{"push":{"channel":"c","join":{"info":{"user":"u","client":"x"}}}}')
    seat.hear(join * 3, 1 << 20)
    assert (seat.tally.joins, seat.tally.delivered) == (3, 0)


async def test_what_comes_with_the_last_answer_of_the_opening_is_counted(dialect: Dialect) -> None:
    replies = {
        CENTRIFUGAL: [b"HTTP/1.1 101 x\r\n\r\n", frame(b'{"id":2,"subscribe":{"epoch":"e","offset":4}}')],
        SOCKETIO: [frame(b'0{"sid":"a"}'), frame(b'40{"sid":"b"}'), frame(b'430["ok"]')],
        PLAIN: [b"HTTP/1.1 101 x\r\n\r\n", frame(b'{"subscribed":"live:c"}')],
    }[dialect]
    transport, tally = Written(), Tally(lambda: NOW)
    steps = dialect.steps(Joining(token="t", channel="live:c"))
    opening = Opening(b"GET", steps, dialect, dialect.publish("live:c", PAYLOAD), tally)
    opening.connection_made(transport)
    for reply in replies[:-1]:
        opening.data_received(reply)
        assert not opening.opened.done()
    opening.data_received(replies[-1] + delivery(dialect, NOW))
    client, said = await opening.opened
    assert cast(Client, transport.protocol) is client
    assert len(said) == len(replies)
    assert tally.delivered == 1


async def test_a_server_that_hangs_up_while_opening_is_quoted() -> None:
    opening = Opening(b"GET", PLAIN.steps(Joining(token="t", channel="c")), PLAIN, b"", Tally(lambda: NOW))
    opening.connection_made(Written())
    opening.data_received(b"HTTP/1.1 503 Service Unavailable\r\n")
    opening.connection_lost(None)
    with pytest.raises(ConnectionError, match="503"):
        await opening.opened


def test_a_connection_is_lost_only_if_nobody_wanted_its_end() -> None:
    wanted, unwanted = Seat(PLAIN), Seat(PLAIN)
    wanted.client.close()
    wanted.client.connection_lost(None)
    unwanted.client.connection_lost(None)
    assert (wanted.tally.lost, unwanted.tally.lost) == (0, 1)
