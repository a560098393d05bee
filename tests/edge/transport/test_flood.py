"""Behind our close frame nothing is read, and TCP ends in a second.

The code arrives, and others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator

import jwt
import pytest

from services.edge.transport.options import TransportOptions
from tests.edge.transport.support import CLOSE, LIMIT_S, TEXT, Raw, Serve, close_payload, frame, head
from tests.support.edge import SECRET, Cluster
from tests.support.lateness import Lateness
from tests.support.served_edge import ServedEdge, commands, connect_command

MIB = 1_048_576
EMPTY = frame(TEXT) * 10_000
SUBSCRIBES = b"".join(commands({"history": {"channel": "x"}}, first_id=number) for number in range(1, 2_000))


async def flood(client: Raw, data: bytes) -> int:
    """Send without end and without a look at what comes, until TCP ends.

    Returns how much went out.
    """
    sent = 0
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(LIMIT_S):
            while True:
                client.write(data)
                await client.writer.drain()
                sent += len(data)
    return sent


@contextlib.asynccontextmanager
async def flooding(client: Raw, data: bytes) -> AsyncIterator[None]:
    task = asyncio.create_task(flood(client, data))
    yield
    await task


async def last_frame(client: Raw) -> tuple[int, bytes]:
    while (found := await client.frame())[0] != CLOSE:
        pass
    return found


async def ended(edge: ServedEdge, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while edge.server.counters.websockets:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("data", "first", "code"),
    [
        pytest.param(EMPTY, b"", close_payload(3501, b"bad request"), id="empty-frames"),
        pytest.param(frame(TEXT, b"x") * 10_000, b"", close_payload(3501, b"bad request"), id="one-byte-frames"),
        pytest.param(SUBSCRIBES, commands(connect_command()), close_payload(3013, b"too many requests"), id="commands"),
        pytest.param(frame(9, b"ping") * 10_000, b"", close_payload(3013, b"too many requests"), id="pings"),
        pytest.param(frame(3) * 10_000, b"", None, id="unknown-frames"),
    ],
)
async def test_a_flooder_reads_why_it_was_closed_and_is_gone_in_time(
    data: bytes, first: bytes, code: bytes | None
) -> None:
    async with ServedEdge(Cluster(), flood_close_s=0.2) as edge:
        client = await edge.raw()
        client.write(first)
        async with flooding(client, data):
            opcode, payload = await last_frame(client)
            assert (opcode, payload) == (CLOSE, code) if code is not None else payload[:2] == close_payload(1002)
            counters = edge.server.counters
            received, messages = counters.bytes_received, counters.messages_received
            await ended(edge, 1.0 + 3.5)  # before: 5 s and more
            assert counters.bytes_received - received < 2 * MIB
            assert counters.messages_received == messages
        client.writer.close()


async def test_a_client_whose_connect_was_refused_floods_in_vain_and_its_end_is_noticed_at_once() -> None:
    async with ServedEdge(Cluster(), error_drop_delay_s=30.0) as edge:
        client = await edge.raw()
        token = jwt.encode({"sub": "alice", "exp": 1}, SECRET, algorithm="HS256")
        client.write(commands({"connect": {"token": token}}) + EMPTY)
        opcode, payload = await client.frame()
        assert opcode == TEXT
        assert b'"code":109' in payload
        client.write(EMPTY)
        client.writer.close()
        await ended(edge, 5.0)
        assert edge.server.counters.messages_received == 1


async def test_a_client_that_is_too_slow_floods_in_vain(serve: Serve) -> None:
    served = await serve(max_outbox_bytes=100_000, close_timeout_s=0.5)
    client = await served.raw(receive_buffer=4_096)
    connection = served.handlers[0].connection
    while not served.server.counters.closes:
        connection.send(frame(TEXT, b"x" * 1_000))
        await asyncio.sleep(0)
    async with flooding(client, EMPTY):
        await asyncio.wait_for(served.handlers[0].end.wait(), LIMIT_S)
    assert served.server.counters.bytes_received < 2 * MIB
    assert served.server.counters.messages_received == 0
    client.writer.close()


async def test_what_follows_a_refused_handshake_is_thrown_away_within_a_bound(serve: Serve) -> None:
    served = await serve(allow_no_origin=False)
    async with Raw(served.port) as client:
        client.write(head())
        sent = asyncio.create_task(flood(client, EMPTY))
        assert (await client.head()).startswith(b"HTTP/1.1 403 ")
        async with Lateness() as late:
            await sent
        assert late.took_s < 4.0
    assert not served.listener.heads


async def test_the_last_bytes_have_time_while_they_move(serve: Serve) -> None:
    served = await serve(close_timeout_s=0.5)
    client = await served.raw(receive_buffer=16_384)
    connection = served.handlers[0].connection
    payload = b"x" * 1_000_000
    connection.send_reply(b"\x82\x7f" + len(payload).to_bytes(8, "big") + payload)
    connection.close(3001, "shutdown")
    read = b""
    while data := await asyncio.wait_for(client.reader.read(16_384), LIMIT_S):
        read += data
        await asyncio.sleep(0.02)  # for longer than the timeout in all
    assert len(read) > len(payload)
    assert read.endswith(close_payload(3001, b"shutdown"))
    client.writer.close()


_FLOODER = """
import socket, sys, time
from tests.support.lateness import Lateness
port, data, until = int(sys.argv[1]), bytes.fromhex(sys.argv[2]) * 5_000, time.monotonic() + float(sys.argv[3])
head = bytes.fromhex(sys.argv[4])
while time.monotonic() < until:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as flooder:
            flooder.sendall(head)
            flooder.recv(4096)
            while time.monotonic() < until:
                flooder.sendall(data)
    except OSError:
        pass
"""


async def test_others_hardly_notice_flooders_that_come_back_again_and_again() -> None:
    """Coarse, as machines are busy.

    Before, a publication of the bystander took seconds.
    """
    cluster = Cluster()
    async with ServedEdge(cluster, options=TransportOptions(), commands_per_s=0) as edge:
        client = await edge.raw()
        client.write(commands(connect_command(), {"subscribe": {"channel": "a"}}))
        seen = b""
        while b'"subscribe"' not in seen:
            seen = (await client.frame())[1]

        async def took() -> float:
            began = time.perf_counter()
            client.write(commands({"publish": {"channel": "a", "data": {}}}, first_id=9))
            while b'"publish"' not in (await client.frame())[1]:
                pass
            await asyncio.sleep(0.005)
            return time.perf_counter() - began

        calm = statistics.median([await took() for _ in range(100)])
        arguments = [str(edge.port), frame(TEXT, b"x").hex(), "2.0", head().hex()]
        flooders = [  # one process each
            await asyncio.create_subprocess_exec(sys.executable, "-c", _FLOODER, *arguments) for _ in range(3)
        ]
        try:
            while edge.server.counters.accepted_websockets < 4:
                await asyncio.sleep(0.01)
            flooded = statistics.median([await took() for _ in range(40)])
        finally:
            for flooder in flooders:
                await asyncio.wait_for(flooder.wait(), 20)
        assert flooded < 10 * calm + 0.25, (calm, flooded)
        assert edge.server.counters.closes["3501", "server"] >= 3
        client.writer.close()
