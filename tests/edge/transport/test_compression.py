"""permessage-deflate on sockets.

What is compressed, what is shared, and what ends a connection. RFC 7692.
"""

from __future__ import annotations

import asyncio
import json
import os
import tracemalloc
import zlib

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from services.edge.transport.metrics import TransportCounters
from services.edge.transport.websocket.deflate import FrameCompressor
from services.edge.transport.websocket.frames import payload_start, text_frame
from tests.edge.transport.deflating import LEFT_OUT, OFFER, RSV1, deflated, inflated
from tests.edge.transport.support import BINARY, CONT, LIMIT_S, PING, PONG, TEXT, Raw, Serve, Served, frame

MIN = 256
JSON = json.dumps([{"symbol": "ABC", "price": number / 7} for number in range(60)]).encode()
COMPRESSED_TEXT, COMPRESSED_BINARY, PLAIN_TEXT = 0xC1, 0xC2, 0x81


async def compressing(serve: Serve, **options: object) -> tuple[Served, Raw]:
    served = await serve(compression=True, **options)
    return served, await served.raw(OFFER)


async def test_messages_of_all_sizes_come_and_go_with_a_real_client(serve: Serve) -> None:
    served = await serve(compression=True)
    async with connect(served.url) as client:
        assert client.protocol.extensions
        for message in ("hällo", "", b"\xff\x00", b"", "a" * 65_536, os.urandom(65_536), JSON.decode(), JSON):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["fr", "ag", "ménts" * 100])
        assert await client.recv() == "fragménts" + "ménts" * 99
    assert served.server.counters.compressed_websockets == 0
    assert served.server.counters.frames_compressed == 5


@pytest.mark.parametrize("bits", range(9, 16))
async def test_the_window_is_no_larger_than_the_client_wants(serve: Serve, bits: int) -> None:
    served = await serve(compression=True)
    far = os.urandom(600)  # repeated beyond the smallest window
    message = far + os.urandom(3_000) + far + b"tail" * 100
    client = await served.raw(f"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={bits}")
    client.write(frame(BINARY, message))
    first, payload = await client.any_frame()
    assert first == COMPRESSED_BINARY
    assert inflated(payload, bits=bits) == message
    client.writer.close()


async def test_a_real_client_with_the_smallest_windows(serve: Serve) -> None:
    served = await serve(compression=True)
    small = ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9)
    async with connect(served.url, extensions=[small], compression=None) as client:
        for _ in range(3):
            await client.send(JSON.decode() * 10)
            assert await client.recv() == JSON.decode() * 10


async def test_short_frames_and_those_that_would_grow_are_sent_as_they_are(serve: Serve) -> None:
    served, client = await compressing(serve, compression_min_bytes=MIN)
    short, long = b"a" * (MIN - 5), b"a" * (MIN - 4)  # a header of 4 bytes comes before each
    for message, first in (
        (short, PLAIN_TEXT),
        (long, COMPRESSED_TEXT),
        (JSON, COMPRESSED_TEXT),
        (os.urandom(500).hex().encode(), COMPRESSED_TEXT),
    ):
        client.write(frame(TEXT, message))
        got, payload = await client.any_frame()
        assert got == first
        assert (inflated(payload) if got == COMPRESSED_TEXT else payload) == message
    noise = os.urandom(1_000)
    client.write(frame(BINARY, noise))
    assert await client.frame() == (BINARY, noise)
    assert served.server.counters.frames_compressed == 4
    client.writer.close()


async def test_each_message_stands_alone(serve: Serve) -> None:
    _, client = await compressing(serve)
    for _ in range(3):
        client.write(frame(TEXT, JSON))
    got = [await client.any_frame() for _ in range(3)]
    assert got[0] == got[1] == got[2]
    assert inflated(got[2][1]) == JSON
    client.writer.close()


async def test_a_push_is_compressed_once_for_all_and_all_get_the_same_bytes(serve: Serve) -> None:
    served = await serve(compression=True, echo=False)
    clients = [await served.raw(OFFER) for _ in range(20)]
    small = await served.raw("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9")
    plain = await served.raw()
    counters = served.server.counters
    push = text_frame(JSON)
    for handler in served.handlers:
        handler.connection.send(push)
    got = [await client.any_frame() for client in clients]
    assert len(set(got)) == 1
    assert inflated(got[0][1]) == JSON
    assert inflated((await small.any_frame())[1], bits=9) == JSON
    assert await plain.frame() == (TEXT, JSON)
    assert counters.frames_compressed == 2  # one for each size of window
    assert counters.compressed_websockets == 21
    per_frame = len(push) - len(got[0][1]) - 4
    assert 20 * per_frame < counters.compression_saved_bytes <= 21 * per_frame
    for client in (*clients, small, plain):
        client.writer.close()


def test_what_was_held_for_clients_that_join_is_compressed_once_too() -> None:
    """Each of them gets all that was held, and then it is the next one's turn."""
    counters = TransportCounters(frozenset())
    compressor = FrameCompressor(15, 1, counters)
    held = [text_frame(b"%d" % number * 1_000) for number in range(30)]
    made = [[compressor.push(push) for push in held] for _ in range(20)]
    assert counters.frames_compressed == 30
    assert all(one == made[0] for one in made)
    assert [inflated(frame[payload_start(frame) :]) for frame in made[0]] == [b"%d" % n * 1_000 for n in range(30)]


def test_pushes_that_are_kept_compressed_take_a_bounded_memory() -> None:
    compressor = FrameCompressor(15, 1, TransportCounters(frozenset()))
    tracemalloc.start()
    try:
        for _ in range(100):
            compressor.push(text_frame(os.urandom(30_000).hex().encode()))
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


async def test_control_frames_are_never_compressed(serve: Serve) -> None:
    served, client = await compressing(serve, compression_min_bytes=1)
    client.write(frame(PING, b"p" * 125))
    assert await client.frame() == (PONG, b"p" * 125)
    served.handlers[0].connection.send_websocket_ping()
    assert await client.frame() == (PING, b"")
    served.handlers[0].connection.close(3000, "w" * 123)
    assert await client.closed() == (3000, b"w" * 123)
    client.writer.close()


async def test_a_ping_between_compressed_fragments_is_answered_first(serve: Serve) -> None:
    served, client = await compressing(serve)
    payload = deflated(JSON)
    client.write(frame(TEXT, payload[:10], fin=False, rsv=RSV1) + frame(PING, b"?") + frame(CONT, payload[10:]))
    assert await client.frame() == (PONG, b"?")
    assert inflated((await client.any_frame())[1]) == JSON
    assert served.handlers[0].messages == [(JSON, False)]
    client.writer.close()


async def test_a_client_may_leave_messages_uncompressed(serve: Serve) -> None:
    served, client = await compressing(serve)
    client.write(frame(TEXT, b"a") + frame(TEXT, deflated(b"b"), rsv=RSV1))
    client.write(frame(TEXT, b"c", fin=False) + frame(CONT, b"d") + frame(BINARY, deflated(b"e"), rsv=RSV1))
    assert [await client.frame() for _ in range(4)] == [(TEXT, b"a"), (TEXT, b"b"), (TEXT, b"cd"), (BINARY, b"e")]
    assert [message for message, _ in served.handlers[0].messages] == [b"a", b"b", b"cd", b"e"]
    client.writer.close()


BAD = [
    pytest.param(frame(TEXT, b"\xff\xff\xff", rsv=RSV1), 1007, id="no-deflate"),
    pytest.param(frame(TEXT, deflated(JSON[:900])[:-9], rsv=RSV1), 1007, id="cut"),
    pytest.param(frame(TEXT, b"", rsv=RSV1), 1007, id="nothing"),
    pytest.param(frame(TEXT, deflated(b"\xff\xfe"), rsv=RSV1), 1007, id="not-utf-8"),
    pytest.param(frame(TEXT, b"\x03\x00" * 50, rsv=RSV1), 1007, id="too-many-ends"),
    pytest.param(frame(TEXT, deflated(b"a"), rsv=RSV1, masked=False), 1002, id="unmasked"),
    pytest.param(frame(TEXT, b"a", rsv=RSV1 | 2), 1002, id="rsv2"),
    pytest.param(frame(TEXT, b"a", rsv=2), 1002, id="rsv2-alone"),
    pytest.param(frame(PING, b"a", rsv=RSV1), 1002, id="ping"),
    pytest.param(frame(CONT, b"a", rsv=RSV1), 1002, id="nothing-to-continue"),
    pytest.param(frame(TEXT, b"a", fin=False, rsv=RSV1) + frame(CONT, b"a", rsv=RSV1), 1002, id="continuation"),
    pytest.param(frame(TEXT, b"a", fin=False) + frame(CONT, b"a", rsv=RSV1), 1002, id="continuation-of-a-plain-one"),
    pytest.param(frame(TEXT, b"a", fin=False, rsv=RSV1) + frame(TEXT, b"a", rsv=RSV1), 1002, id="message-in-a-message"),
    pytest.param(frame(TEXT, b"a", fin=False) + frame(BINARY, b"a", rsv=RSV1), 1002, id="message-in-a-plain-message"),
    pytest.param(frame(TEXT, b"a" * 1_200, rsv=RSV1), 1009, id="long-compressed"),
    pytest.param(frame(TEXT, deflated(b"a" * 1_001), rsv=RSV1), 1009, id="long-inflated"),
    pytest.param(frame(TEXT, b"a" * 1_001), 1009, id="long-and-plain"),
]


@pytest.mark.parametrize(("sent", "code"), BAD)
async def test_what_breaks_a_rule_ends_the_connection(
    serve: Serve, sent: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    served, client = await compressing(serve, max_message_bytes=1_000)
    client.write(sent)
    assert (await client.closed())[0] == code
    await asyncio.wait_for(served.handlers[0].end.wait(), LIMIT_S)
    assert served.handlers[0].messages == []
    assert not caplog.records
    client.writer.close()


@pytest.mark.parametrize("compression", [True, False])
async def test_rsv1_without_an_agreement_breaks_a_rule(serve: Serve, compression: bool) -> None:
    served = await serve(compression=compression)
    client = await served.raw(*([] if compression else [OFFER]))
    client.write(frame(TEXT, deflated(b"a"), rsv=RSV1))
    assert (await client.closed())[0] == 1002
    client.writer.close()


async def test_a_message_at_the_limit_may_be_longer_compressed(serve: Serve) -> None:
    served, client = await compressing(serve, max_message_bytes=65_536, echo=False)
    noise = os.urandom(65_536)
    worst = max((deflated(noise, level=level, memory=memory) for level in (0, 1, 6) for memory in (1, 8)), key=len)
    assert len(worst) > 65_536
    client.write(frame(BINARY, worst, rsv=RSV1))
    for first in (60_000, 1, 0):
        client.write(frame(BINARY, worst[:first], fin=False, rsv=RSV1) + frame(CONT, worst[first:]))
    async with asyncio.timeout(LIMIT_S):
        while len(served.handlers[0].messages) < 4:
            await asyncio.sleep(0.005)
    assert served.handlers[0].messages == [(noise, True)] * 4
    client.write(frame(BINARY, b"", fin=False) + frame(CONT, noise + b"a"))  # not compressed
    assert (await client.closed())[0] == 1009
    client.writer.close()


async def test_too_many_fragments_end_the_connection_compressed_or_not(serve: Serve) -> None:
    _, client = await compressing(serve, max_message_bytes=1_000)
    data = deflated(b"a")
    client.write(frame(TEXT, data, fin=False, rsv=RSV1) + frame(CONT, b"", fin=False) * 130)
    assert (await client.closed())[0] == 1009
    client.writer.close()


async def test_blocks_marked_as_the_last_are_followed_by_others(serve: Serve) -> None:
    """RFC 7692, 7.2.3.4 and 7.2.3.5."""
    served, client = await compressing(serve, echo=False)
    writer = zlib.compressobj(wbits=-15)
    ended = writer.compress(JSON) + writer.flush()
    for payload in (ended + b"\x00", ended, ended + ended + b"\x00", ended + deflated(JSON)):
        client.write(frame(TEXT, payload, rsv=RSV1))
    client.write(frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=RSV1))  # 7.2.3.1
    client.write(frame(TEXT, bytes.fromhex("000500faff48656c6c6f00"), rsv=RSV1))  # 7.2.3.3
    client.write(frame(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=RSV1))  # 7.2.3.4
    client.write(frame(TEXT, bytes.fromhex("f24805000000ffffcac9c90700"), rsv=RSV1))  # 7.2.3.5
    client.write(frame(TEXT, b"\x00", rsv=RSV1))  # 7.2.3.6
    async with asyncio.timeout(LIMIT_S):
        while len(served.handlers[0].messages) < 9:
            await asyncio.sleep(0.005)
    messages = [message for message, _ in served.handlers[0].messages]
    assert messages[:4] == [JSON, JSON, JSON * 2, JSON * 2]
    assert messages[4:] == [b"Hello"] * 4 + [b""]
    client.writer.close()


async def test_what_waits_is_counted_as_it_is_sent(serve: Serve) -> None:
    """A client that reads nothing is closed for the compressed bytes.

    Not for those before compression.
    """
    pushes, kept = 0, [os.urandom(2_000).hex().encode() for _ in range(40)]  # half as long compressed
    sizes = {}
    for compression in (True, False):
        served = await serve(compression=compression, echo=False, max_outbox_bytes=100_000)
        client = await served.raw(OFFER, receive_buffer=4_096)
        connection = served.handlers[0].connection
        pushes = 0
        while not served.server.counters.closes and pushes < 20_000:
            connection.send(text_frame(kept[pushes % 40]))
            pushes += 1
            if not pushes % 10:
                await asyncio.sleep(0)
        assert served.server.counters.closes == {("3008", "server"): 1}
        sizes[compression] = pushes
        client.writer.close()
    assert sizes[True] > 1.5 * sizes[False]


async def test_bytes_in_metrics_are_those_on_the_wire(serve: Serve) -> None:
    served, client = await compressing(serve)
    counters = served.server.counters
    sent = frame(TEXT, deflated(JSON), rsv=RSV1)
    client.write(sent)
    first, payload = await client.any_frame()
    assert first == COMPRESSED_TEXT
    assert counters.bytes_received == len(sent)
    assert counters.bytes_sent == len(payload) + 4
    assert counters.compression_saved_bytes == len(text_frame(JSON)) - counters.bytes_sent
    metrics = {family.name: family.samples[0].value for family in served.server.collector.collect() if family.samples}
    assert metrics["thalamus_edge_compressed_connections"] == 1
    assert metrics["thalamus_edge_frames_compressed"] == 1
    assert metrics["thalamus_edge_compression_saved_bytes"] == counters.compression_saved_bytes
    client.writer.close()


def test_the_end_of_a_message_is_what_rfc_7692_says() -> None:
    assert LEFT_OUT == b"\x00\x00\xff\xff"
    assert deflated(b"Hello") == bytes.fromhex("f248cdc9c90700")
