"""Frames as bytes on a socket.

Reliability, B19 to B21, and every way a connection ends.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from services.edge.domain.ends import ClientEnd
from services.edge.transport.websocket.frames import text_frame
from tests.edge.transport.support import (
    BINARY,
    CLOSE,
    CONT,
    LIMIT_S,
    PING,
    PONG,
    TEXT,
    Recorder,
    Serve,
    Served,
    close_payload,
    frame,
)

EURO = "€".encode()


async def test_messages_come_and_go_whole_and_of_their_kind(serve: Serve) -> None:
    served = await serve()
    async with connect(served.url) as client:
        for message in ("hällo", "", b"\xff\x00", b"", "a" * 65_536, b"b" * 65_536):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["fr", "ag", "ménts"])
        assert await client.recv() == "fragménts"
    assert served.handlers[0].messages[:2] == [("hällo".encode(), False), (b"", False)]


async def test_a_message_is_the_same_however_its_bytes_arrive(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    for byte in frame(TEXT, EURO) + frame(BINARY, b"ab"):
        client.write(bytes((byte,)))
        await client.writer.drain()
    assert await client.frame() == (TEXT, EURO)
    assert await client.frame() == (BINARY, b"ab")
    client.writer.close()


async def test_many_messages_in_one_segment_are_handled_in_order(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    client.write(b"".join(frame(TEXT, b"%d" % number) for number in range(5_000)))
    assert [await client.frame() for _ in range(5_000)] == [(TEXT, b"%d" % number) for number in range(5_000)]
    client.writer.close()


async def test_control_frames_may_come_between_fragments_of_a_message_at_the_limit(serve: Serve) -> None:
    served = await serve(max_message_bytes=1_000)
    client = await served.raw()
    client.write(frame(TEXT, b"a" * 999, fin=False) + frame(PING, b"p" * 125) + frame(CONT, b"a"))
    assert {await client.frame(), await client.frame()} == {(PONG, b"p" * 125), (TEXT, b"a" * 1_000)}
    client.writer.close()


B19 = [
    pytest.param(frame(TEXT, b"a", masked=False), id="B19-unmasked"),
    pytest.param(frame(TEXT, b"a", rsv=4), id="B19-rsv1"),
    pytest.param(frame(TEXT, b"a", rsv=2), id="B19-rsv2"),
    pytest.param(frame(PING, b"a", rsv=1), id="B19-rsv3"),
    pytest.param(frame(3, b"a"), id="B19-opcode-3"),
    pytest.param(frame(11, b"a"), id="B19-opcode-11"),
    pytest.param(frame(CONT, b"a"), id="B19-nothing-to-continue"),
    pytest.param(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), id="B19-message-within-a-message"),
    pytest.param(frame(PING, b"a", fin=False), id="B19-fragmented-ping"),
    pytest.param(frame(PING, b"a" * 126), id="B19-long-ping"),
    pytest.param(frame(CLOSE, b"a"), id="B19-close-of-one-byte"),
    pytest.param(frame(CLOSE, close_payload(999)), id="B19-close-999"),
    pytest.param(frame(CLOSE, close_payload(1005)), id="B19-close-1005"),
    pytest.param(frame(CLOSE, close_payload(5000)), id="B19-close-5000"),
]
B20 = [
    pytest.param(frame(TEXT, b"\xff"), id="B20-text"),
    pytest.param(frame(TEXT, EURO[:2]), id="B20-cut-text"),
    pytest.param(frame(TEXT, b"\xed\xa0\x80"), id="B20-surrogate"),
    pytest.param(frame(TEXT, EURO[:2], fin=False) + frame(CONT, b"a", fin=False), id="B20-second-fragment"),
    pytest.param(frame(TEXT, b"\xff", fin=False), id="B20-first-fragment"),
    pytest.param(frame(TEXT, EURO[:2], fin=False) + frame(CONT, b""), id="B20-last-fragment"),
    pytest.param(frame(CLOSE, close_payload(1000, b"\xff")), id="B20-reason"),
]
B21 = [
    pytest.param(frame(BINARY, b"a" * 1_001)[:8], id="B21-length-field"),
    pytest.param(bytes((0x82, 0xFF)) + b"\x7f" + b"\xff" * 7, id="B21-huge-length-field"),
    pytest.param(frame(TEXT, b"a" * 600, fin=False) + frame(CONT, b"a" * 600), id="B21-fragments"),
    pytest.param(frame(TEXT, b"a" * 1_000, fin=False) + frame(CONT, b"a"), id="B21-one-byte-in-fragments"),
    pytest.param(
        frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 7 + frame(CONT, b""), id="B21-nine-fragments"
    ),
]


@pytest.mark.parametrize(
    ("code", "data"),
    [
        pytest.param(code, *row.values, id=row.id)
        for code, rows in ((1002, B19), (1007, B20), (1009, B21))
        for row in rows
    ],
)
async def test_a_broken_rule_closes_with_its_code_and_nothing_more_is_read(
    serve: Serve, code: int, data: bytes
) -> None:
    served = await serve(max_message_bytes=1_000, max_fragments=8)
    client = await served.raw()
    client.write(frame(TEXT, b"before") + data + frame(TEXT, b"after"))
    assert await client.frame() == (TEXT, b"before")
    found, reason = await client.closed()
    assert found == code
    assert reason.decode()
    client.writer.close()
    await asyncio.wait_for(served.handlers[0].end.wait(), LIMIT_S)
    assert served.handlers[0].messages == [(b"before", False)]
    assert served.handlers[0].ended == [ClientEnd.LOST]
    assert served.server.counters.closes == {(str(code), "server"): 1}


async def test_as_many_fragments_as_allowed_are_a_message(serve: Serve) -> None:
    served = await serve(max_fragments=8)
    client = await served.raw()
    client.write(frame(TEXT, EURO[:1], fin=False) + frame(CONT, b"", fin=False) * 6 + frame(CONT, EURO[1:]))
    assert await client.frame() == (TEXT, EURO)
    client.writer.close()


async def test_what_a_client_sends_after_its_violation_is_not_kept(serve: Serve) -> None:
    served = await serve(max_message_bytes=1_000)
    client = await served.raw()
    client.write(frame(BINARY, b"a" * 1_001) + b"x" * 4_000_000)
    opcode, payload = await client.frame()
    assert (opcode, payload[:2]) == (CLOSE, close_payload(1009))
    (connection,) = served.listener.websockets
    assert connection._waiting is None  # noqa: SLF001  # memory that a peer can fill shows nowhere else
    client.writer.close()


async def test_pings_are_answered_and_pongs_passed_on(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    client.write(frame(PING, b"hello") + frame(PING) + frame(PONG, b"unasked"))
    assert await client.frame() == (PONG, b"hello")
    assert await client.frame() == (PONG, b"")
    handler = served.handlers[0]
    handler.connection.send_websocket_ping()
    assert await client.frame() == (PING, b"")
    handler.has_received.clear()
    client.write(frame(PONG))
    await asyncio.wait_for(handler.has_received.wait(), LIMIT_S)
    assert (handler.pings, handler.pongs) == (2, 2)
    client.writer.close()


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_a_flood_of_control_frames_closes_3013(serve: Serve, opcode: int) -> None:
    served = await serve(max_control_frames_per_s=10)
    client = await served.raw()
    client.write(frame(opcode) * 500)
    received = [await client.frame()]
    while received[-1][0] != CLOSE:
        received.append(await client.frame())
    assert received[-1] == (CLOSE, close_payload(3013, b"too many requests"))
    client.writer.close()


async def test_a_handler_that_fails_costs_its_own_connection_only(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Recorder):
        def message(self, payload: bytes, *, binary: bool) -> None:
            if payload == b"fail":
                raise RuntimeError("planned")
            super().message(payload, binary=binary)

    served = await serve(handler=Failing)
    client, other = await served.raw(), await served.raw()
    client.write(frame(TEXT, b"fail") + frame(TEXT, b"never handled"))
    assert await client.frame() == (CLOSE, close_payload(3004, b"internal server error"))
    assert "planned" in caplog.text
    other.write(frame(TEXT, b"fine"))
    assert await other.frame() == (TEXT, b"fine")
    assert served.handlers[0].messages == []
    for each in (client, other):
        each.writer.close()


async def test_a_handler_that_fails_at_a_pong_ends_with_a_code(serve: Serve) -> None:
    class Failing(Recorder):
        def control(self, *, pong: bool) -> None:
            raise RuntimeError("planned")

    served = await serve(handler=Failing)
    client = await served.raw()
    client.write(frame(PONG))
    assert await client.closed() == (3004, b"internal server error")
    client.writer.close()


async def test_a_handler_that_fails_when_its_replies_are_taken_ends_with_a_code(serve: Serve) -> None:
    class Failing(Recorder):
        def replies_taken(self) -> None:
            raise RuntimeError("planned")

    served = await serve(handler=Failing)
    client, other = await served.raw(receive_buffer=4_096), await served.raw()
    connection, sent = served.handlers[0].connection, 0
    while not connection.replies_wait:
        connection.send_reply(text_frame(b"x" * 60_000))
        sent += 1
        await asyncio.sleep(0)
    for _ in range(sent):
        assert (await client.frame())[0] == TEXT
    assert await client.closed() == (3004, b"internal server error")
    other.write(frame(TEXT, b"fine"))
    assert await other.frame() == (TEXT, b"fine")
    for each in (client, other):
        each.writer.close()


# The ends of a connection.


async def end_of(served: Served) -> Recorder:
    handler = served.handlers[0]
    await asyncio.wait_for(handler.end.wait(), LIMIT_S)
    return handler


@pytest.mark.parametrize(
    "payload", [b"", close_payload(1000), close_payload(1001, b"going"), close_payload(4999, "é".encode())]
)
async def test_the_client_closes_and_is_answered_alike(serve: Serve, payload: bytes) -> None:
    served = await serve()
    client = await served.raw()
    client.write(frame(TEXT, b"last") + frame(CLOSE, payload) + frame(TEXT, b"too late"))
    assert await client.frame() == (TEXT, b"last")
    assert await client.frame() == (CLOSE, payload)
    assert await client.rest() == b""
    client.writer.close()
    handler = await end_of(served)
    assert handler.messages == [(b"last", False)]
    assert len(handler.ended) == 1


async def test_a_client_may_close_in_the_middle_of_a_message(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    client.write(frame(TEXT, b"a", fin=False) + frame(CLOSE, close_payload(1000)) + frame(CONT, b"too late"))
    assert await client.frame() == (CLOSE, close_payload(1000))
    assert await client.rest() == b""
    client.writer.close()
    handler = await end_of(served)
    assert handler.messages == []
    assert handler.ended == [ClientEnd.CLOSED]


async def test_the_server_closes_after_what_is_queued_and_waits_for_the_answer(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    connection = served.handlers[0].connection
    connection.send(text_frame(b"queued"))
    connection.close(3001, "shutdown")
    connection.send(text_frame(b"after the end"))
    connection.close(3500, "again")
    assert await client.frame() == (TEXT, b"queued")
    assert await client.frame() == (CLOSE, close_payload(3001, b"shutdown"))
    client.write(frame(TEXT, b"crossed") + frame(CLOSE, close_payload(3001)))
    assert await client.rest() == b""
    client.writer.close()
    handler = await end_of(served)
    assert handler.messages == []
    assert handler.ended == [ClientEnd.LOST]  # the server began it
    connection.send(text_frame(b"late"))
    connection.close(3001, "late")
    connection.pause_reading()
    connection.resume_reading()
    connection.drop_after(0.0)


async def test_a_close_frame_that_is_never_answered_ends_in_time(serve: Serve) -> None:
    served = await serve(close_timeout_s=0.05)
    client = await served.raw()
    served.handlers[0].connection.close(3001, "shutdown")
    assert await client.closed() == (3001, b"shutdown")
    assert (await end_of(served)).ended == [ClientEnd.LOST]
    client.writer.close()


async def test_a_client_that_keeps_tcp_open_after_the_handshake_is_dropped_in_time(serve: Serve) -> None:
    served = await serve(close_timeout_s=0.05)
    client = await served.raw()
    client.write(frame(CLOSE))
    assert await client.frame() == (CLOSE, b"")
    async with asyncio.timeout(LIMIT_S):
        while served.server.counters.websockets:
            await asyncio.sleep(0)
    client.writer.close()


async def test_the_handler_learns_of_a_clean_end_before_tcp_has_ended(serve: Serve) -> None:
    served = await serve(close_timeout_s=60.0)
    client = await served.raw()
    client.write(frame(TEXT, b"last") + frame(CLOSE))
    assert (await end_of(served)).ended == [ClientEnd.CLOSED]
    assert served.server.counters.websockets == 1
    client.writer.transport.abort()
    while served.server.counters.websockets:
        await asyncio.sleep(0)
    assert served.handlers[0].ended == [ClientEnd.CLOSED]


@pytest.mark.parametrize("code", [None, 1000, 1001, 1002, 1008, 1011, 1014, 3000, 3999, 4000, 4999])
async def test_the_code_of_a_clients_close_frame_says_how_it_ended(serve: Serve, code: int | None) -> None:
    served = await serve()
    client = await served.raw()
    client.write(frame(CLOSE, b"" if code is None else code.to_bytes(2) + b"bye"))
    on_purpose = {None: ClientEnd.CLOSED, 1000: ClientEnd.CLOSED, 1001: ClientEnd.GOING_AWAY}
    assert (await end_of(served)).ended == [on_purpose.get(code, ClientEnd.LOST)]
    client.writer.close()


async def test_a_close_is_answered_also_while_reading_is_paused(serve: Serve) -> None:
    served = await serve()
    async with connect(served.url) as client:
        connection = served.handlers[0].connection
        connection.pause_reading()
        await client.send("unread")
        connection.close(3001, "shutdown")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3001
    assert (await end_of(served)).messages == []


@pytest.mark.parametrize("reset", [False, True], ids=["eof", "rst"])
async def test_a_client_that_vanishes_is_not_clean(serve: Serve, reset: bool) -> None:
    served = await serve()
    client = await served.raw()
    client.write(frame(TEXT, b"half a mess", fin=False))
    await client.writer.drain()
    if reset:
        client.writer.transport.abort()
    else:
        client.writer.close()
    assert (await end_of(served)).ended == [ClientEnd.LOST]
    assert served.server.counters.closes == {("1006", "nobody"): 1}


async def test_a_paused_connection_reads_again_when_told(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    handler = served.handlers[0]
    handler.connection.pause_reading()
    client.write(frame(TEXT, b"a"))
    other = await served.raw()
    other.write(frame(TEXT, b"b"))
    assert await other.frame() == (TEXT, b"b")
    assert handler.messages == []
    handler.connection.resume_reading()
    assert await client.frame() == (TEXT, b"a")
    for each in (client, other):
        each.writer.close()


async def test_a_dropped_connection_gets_what_is_queued_and_no_close_frame(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    handler = served.handlers[0]
    handler.connection.send(text_frame(b"error reply"))
    started = time.monotonic()
    handler.connection.drop_after(0.1)
    client.write(frame(TEXT, b"not read"))
    assert await client.frame() == (TEXT, b"error reply")
    assert await client.rest() == b""
    assert time.monotonic() - started >= 0.09
    assert (await end_of(served)).messages == []
    client.writer.close()


async def test_a_connection_about_to_be_dropped_can_still_be_closed(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    connection = served.handlers[0].connection
    connection.drop_after(60.0)
    connection.close(3001, "shutdown")
    assert await client.frame() == (CLOSE, close_payload(3001, b"shutdown"))
    client.write(frame(CLOSE, close_payload(3001)))
    assert await client.rest() == b""
    client.writer.close()


async def test_a_code_that_may_not_be_sent_becomes_1011(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    served = await serve()
    client = await served.raw()
    served.handlers[0].connection.close(1006, "wrong")
    assert await client.frame() == (CLOSE, close_payload(1011, b"wrong"))
    assert "1006" in caplog.text
    client.writer.close()
