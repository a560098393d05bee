"""One write per tick, and slow clients that cost nobody but themselves.

Reliability, F16 and promise 10.
"""

from __future__ import annotations

import asyncio
import collections

import pytest

from services.edge.domain.ends import ClientEnd
from services.edge.transport.outbox import HIGH_WATER_BYTES
from services.edge.transport.websocket.frames import text_frame
from tests.edge.transport.support import CLOSE, LIMIT_S, TEXT, Raw, Recorder, Serve, Served, close_payload, frame

KIB = text_frame(b"x" * 1_020)  # 1,024 bytes with its start


async def stuff(handler: Recorder, served: Served, frames: int, data: bytes = KIB) -> int:
    """Send so many frames, a few per tick.

    Returns how many there were when the connection ended itself.
    """
    for sent in range(frames):
        handler.connection.send(data)
        if sent % 8 == 0:
            await asyncio.sleep(0)
        if ("3008", "server") in served.server.counters.closes:
            return sent
    return frames


async def stall(served: Served) -> Raw:
    """A client that reads nothing, and whose kernel holds little."""
    return await served.raw(receive_buffer=4_096)


async def test_all_of_one_tick_leaves_in_one_write(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    counters = served.server.counters
    for number in range(50):
        served.handlers[0].connection.send(text_frame(b"%d" % number))
    assert counters.writes == 0
    assert [await client.frame() for _ in range(50)] == [(TEXT, b"%d" % number) for number in range(50)]
    assert (counters.writes, counters.frames_sent) == (1, 50)
    client.writer.close()


async def test_one_flush_serves_all_connections_of_a_tick(serve: Serve) -> None:
    served = await serve()
    clients = [await served.raw() for _ in range(20)]
    for _ in range(3):
        for handler in served.handlers:
            handler.connection.send(text_frame(b"a"))
    for client in clients:
        assert [await client.frame() for _ in range(3)] == [(TEXT, b"a")] * 3
        client.writer.close()
    assert served.server.counters.writes == 20


async def test_much_at_once_is_not_slow(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    reading = asyncio.create_task(client.reader.readexactly(4 * 1_048_576))
    await asyncio.sleep(0)
    for _ in range(4):
        served.handlers[0].connection.send(text_frame(b"y" * (1_048_576 - 10)))
        await asyncio.sleep(0)
    assert len(await asyncio.wait_for(reading, LIMIT_S)) == 4 * 1_048_576
    client.writer.close()


async def test_frames_held_back_leave_in_order_once_the_client_reads(serve: Serve) -> None:
    served = await serve(max_outbox_bytes=16 * 1_048_576)
    client = await stall(served)
    frames = [b"%06d" % number * 150 for number in range(8_000)]
    for index, payload in enumerate(frames):
        served.handlers[0].connection.send(text_frame(payload))
        if index % 8 == 0:
            await asyncio.sleep(0)
    assert served.server.outbox_bytes > HIGH_WATER_BYTES
    for payload in frames:
        assert await client.frame() == (TEXT, payload)
    served.handlers[0].connection.send(text_frame(b"live again"))
    assert await client.frame() == (TEXT, b"live again")
    assert served.server.outbox_bytes == 0
    client.writer.close()


async def test_f16_a_client_that_does_not_read_is_closed_3008_and_others_miss_nothing(serve: Serve) -> None:
    served = await serve(max_outbox_bytes=1_048_576)
    slow, quick = await stall(served), await served.raw()
    slow_handler, quick_handler = served.handlers
    received: collections.Counter[bytes] = collections.Counter()

    async def read() -> None:
        while (one := await quick.frame()) != (TEXT, b"end"):
            received[one[1]] += 1

    reading = asyncio.create_task(read())
    sent = 0
    while ("3008", "server") not in served.server.counters.closes:
        assert sent < 20_000
        for handler in (slow_handler, quick_handler):
            handler.connection.send(KIB)
        sent += 1
        assert served.server.outbox_bytes < 1_048_576 + 2 * HIGH_WATER_BYTES + len(KIB)
        if sent % 8 == 0:
            await asyncio.sleep(0)
    quick_handler.connection.send(text_frame(b"end"))
    await asyncio.wait_for(reading, LIMIT_S)
    assert received == {b"x" * 1_020: sent}
    slow_handler.connection.send(KIB)  # without effect
    assert served.server.outbox_bytes < 4 * HIGH_WATER_BYTES
    for client in (slow, quick):
        client.writer.close()


async def test_f16_a_slow_client_that_reads_on_learns_why_it_was_closed(serve: Serve) -> None:
    served = await serve(max_outbox_bytes=200_000)
    client = await stall(served)
    await stuff(served.handlers[0], served, 20_000)
    whole = 0
    while (one := await client.frame()) == (TEXT, b"x" * 1_020):
        whole += 1
    assert one == (CLOSE, close_payload(3008, b"slow"))
    assert whole > 0
    assert await client.rest() == b""
    client.writer.close()
    await asyncio.wait_for(served.handlers[0].end.wait(), LIMIT_S)
    assert served.handlers[0].ended == [ClientEnd.LOST]


async def test_f16_a_slow_client_that_never_reads_is_dropped_in_time(serve: Serve) -> None:
    served = await serve(max_outbox_bytes=200_000, close_timeout_s=0.05)
    client = await stall(served)
    await stuff(served.handlers[0], served, 20_000)
    await asyncio.wait_for(served.handlers[0].end.wait(), LIMIT_S)
    assert served.server.outbox_bytes == 0
    client.writer.close()


async def test_a_close_waits_behind_what_is_held_back(serve: Serve) -> None:
    served = await serve()
    client = await stall(served)
    handler = served.handlers[0]
    sent = 0
    while served.server.outbox_bytes < 4 * HIGH_WATER_BYTES:
        handler.connection.send(KIB)
        sent += 1
        if sent % 8 == 0:
            await asyncio.sleep(0)
    handler.connection.close(3001, "shutdown")
    for _ in range(sent):
        assert await client.frame() == (TEXT, b"x" * 1_020)
    assert await client.frame() == (CLOSE, close_payload(3001, b"shutdown"))
    client.write(frame(CLOSE, close_payload(3001)))
    assert await client.rest() == b""
    client.writer.close()


async def test_over_the_bound_of_all_only_slow_connections_end(serve: Serve) -> None:
    served = await serve(max_outbox_total_bytes=300_000)
    slow, quick = await stall(served), await served.raw()
    sent = await stuff(served.handlers[0], served, 20_000)
    assert sent < 20_000
    assert served.server.outbox_bytes < 400_000
    served.handlers[1].connection.send(KIB)
    assert await quick.frame() == (TEXT, b"x" * 1_020)
    for client in (slow, quick):
        client.writer.close()


@pytest.mark.parametrize("pings", [200_000])
async def test_pongs_count_as_queued_bytes(serve: Serve, pings: int) -> None:
    served = await serve(max_outbox_bytes=100_000, max_control_frames_per_s=10**9)
    client = await stall(served)
    client.write(frame(9, b"p" * 125) * (pings // 20))
    async with asyncio.timeout(LIMIT_S):
        while not served.server.counters.closes:
            client.write(frame(9, b"p" * 125) * 1_000)
            await asyncio.sleep(0)
    assert served.server.counters.closes == {("3008", "server"): 1}
    client.writer.close()


async def test_replies_do_not_count_towards_the_bound_and_what_others_send_does(serve: Serve) -> None:
    served = await serve(max_outbox_bytes=200_000)
    client = await stall(served)
    connection, handler = served.handlers[0].connection, served.handlers[0]
    reply = text_frame(b"r" * 500_000)
    for _ in range(8):
        connection.send_reply(reply)
        await asyncio.sleep(0)
    assert connection.replies_wait
    assert await stuff(handler, served, 150) == 150
    assert await stuff(handler, served, 150) < 150
    assert served.server.counters.closes == {("3008", "server"): 1}
    client.writer.close()


async def test_replies_that_wait_are_told_of_once_when_taken_whatever_is_between_them(serve: Serve) -> None:
    served = await serve()
    client = await stall(served)
    connection, handler = served.handlers[0].connection, served.handlers[0]
    expected = []
    for number in range(120):
        payload = b"%03d" % number * 13_000
        expected.append(payload)
        connection.send_reply(text_frame(payload))
        connection.send(text_frame(b"push"))
        expected.append(b"push")
    assert connection.replies_wait
    assert [await client.frame() for _ in expected] == [(TEXT, payload) for payload in expected]
    async with asyncio.timeout(LIMIT_S):
        while connection.replies_wait:
            await asyncio.sleep(0.001)
    assert handler.taken == 1
    connection.send_reply(text_frame(b"r" * 100_000))
    assert await client.frame() == (TEXT, b"r" * 100_000)
    client.writer.close()


async def test_c44_a_slow_client_loses_ephemeral_events_before_any_message(serve: Serve) -> None:
    """They take a quarter of its outbox at most, so messages have the rest."""
    served = await serve(max_outbox_bytes=400_000)
    slow = await stall(served)
    connection, counters = served.handlers[0].connection, served.server.counters
    while served.server.outbox_bytes < HIGH_WATER_BYTES:
        connection.send_ephemeral(text_frame(b"e" * 1_020))
        await asyncio.sleep(0)
    assert counters.ephemeral_dropped == 0
    filled = served.server.outbox_bytes
    for number in range(1_000):
        connection.send_ephemeral(text_frame(b"E%03d" % number + b"e" * 1_016))
    queued = served.server.outbox_bytes - filled
    assert 90_000 < queued <= 100_000
    assert counters.ephemeral_dropped == 1_000 - queued // len(KIB)
    messages = [b"m%03d" % number + b"x" * 1_016 for number in range(300_000 // len(KIB))]
    for payload in messages:
        connection.send(text_frame(payload))
    connection.send_ephemeral(KIB)
    assert counters.closes == {}
    got: list[bytes] = []
    while len(got) < len(messages):
        if (one := await slow.frame())[1].startswith(b"m"):
            got.append(one[1])
    assert got == messages
    connection.send_ephemeral(text_frame(b"again"))
    assert await slow.frame() == (TEXT, b"again")
    slow.writer.close()


async def test_ephemeral_events_take_no_more_than_a_quarter_of_all_outboxes(serve: Serve) -> None:
    # The quarter is over two writes: where the client was not slow until then, one more may be on its way.
    served = await serve(max_outbox_bytes=2_000_000, max_outbox_total_bytes=1_200_000)
    slow = await stall(served)
    connection, counters = served.handlers[0].connection, served.server.counters
    while not counters.ephemeral_dropped:
        connection.send_ephemeral(KIB)
        await asyncio.sleep(0)
    assert 290_000 < served.server.outbox_bytes <= 300_000
    assert counters.closes == {}
    slow.writer.close()


async def test_an_ephemeral_event_behind_the_end_has_no_effect(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    connection = served.handlers[0].connection
    connection.close(3000, "over")
    connection.send_ephemeral(KIB)
    assert (await client.frame())[0] == CLOSE
    client.writer.close()
