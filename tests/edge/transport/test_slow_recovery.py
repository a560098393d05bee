"""Who reads slowly what it asked for is no slow client.

It gets all of it, however long that takes.
"""

from __future__ import annotations

import asyncio
import time

from services.edge.domain.model import Publication
from tests.edge.transport.support import Raw, listener_of, transport_of
from tests.support.edge import OPEN, Cluster, replace_namespace
from tests.support.served_edge import ServedEdge, SlowReader, commands, connect_command

KIB = 1_024
# `history` of 500 entries: nothing of what the tests put in is cut off.
NAMESPACE = replace_namespace(OPEN, history_size=500)


def filled(cluster: Cluster, channel: str, size: int, pieces: int) -> None:
    """A log with publications of so many bytes together."""
    data = b'"' + b"x" * (size // pieces - 2) + b'"'
    for _ in range(pieces):
        cluster.bus.append(channel, Publication(data), "", "", 500)


def recover(channel: str, epoch: str) -> dict[str, object]:
    return {"subscribe": {"channel": channel, "recover": True, "recoverable": True, "offset": 0, "epoch": epoch}}


async def narrow(edge: ServedEdge) -> Raw:
    """A client on a path that holds little."""
    return await edge.raw(receive_buffer=16 * KIB)


async def test_four_rooms_recovered_in_one_frame_reach_a_client_on_a_narrow_path() -> None:
    cluster = Cluster(default=NAMESPACE)
    rooms = [f"room{number}" for number in range(4)]
    for room in rooms:
        filled(cluster, room, 600 * KIB, 30)
    async with ServedEdge(cluster, send_buffer=64 * KIB) as edge:
        client = await narrow(edge)
        client.write(commands(connect_command(), *(recover(room, cluster.bus.logs[room].epoch) for room in rooms)))
        reader = SlowReader(client, 2_500 * KIB)
        got: dict[str, list[int]] = {}
        for room, line in zip(rooms, await reader.until(4, "subscribe", 30), strict=True):
            assert line["subscribe"]["recovered"]
            got[room] = [one["offset"] for one in line["subscribe"]["publications"]]
        for line in await reader.until(4 * 30 - sum(map(len, got.values())), "push", 30):
            got[line["push"]["channel"]].append(line["push"]["pub"]["offset"])
        assert got == {room: list(range(1, 31)) for room in rooms}
        assert edge.server.counters.closes == {}
        client.writer.close()


async def test_three_pages_of_history_of_a_mebibyte_in_one_frame() -> None:
    cluster = Cluster(default=NAMESPACE)
    filled(cluster, "room", 1_000 * KIB, 40)
    page = {"history": {"channel": "room", "limit": 300}}
    async with ServedEdge(cluster, send_buffer=64 * KIB) as edge:
        client = await narrow(edge)
        client.write(commands(connect_command(), {"subscribe": {"channel": "room"}}, page, page, page))
        reader = SlowReader(client, 3_000 * KIB)
        found = await reader.until(3, "history", 30)
        assert [len(line["history"]["publications"]) for line in found] == [40] * 3
        assert [line["id"] for line in found] == [3, 4, 5]
        client.writer.close()


async def test_at_most_one_reply_beyond_the_bound_waits_and_the_socket_is_not_read_meanwhile() -> None:
    cluster = Cluster(default=NAMESPACE)
    filled(cluster, "room", 600 * KIB, 30)
    page = {"history": {"channel": "room", "limit": 300}}
    async with ServedEdge(cluster, send_buffer=64 * KIB) as edge:
        client = await narrow(edge)
        client.write(commands(connect_command(), {"subscribe": {"channel": "room"}}, *([page] * 20)))
        reader = SlowReader(client, 4_000 * KIB)
        most = 0
        for wanted in range(1, 6):
            await reader.until(wanted, "history", 30)
            most = max(most, edge.server.outbox_bytes)
            (connection,) = listener_of(edge.server).websockets
            assert not transport_of(connection).is_reading()
        assert most < 800 * KIB
        client.writer.close()


async def test_a_client_whose_pings_are_behind_a_long_reply_is_not_missed_while_it_reads() -> None:
    """300 KiB at 60 KiB/s with a pong due after a second.

    As 600 KB at 20 KB/s, with one due after eight.
    """
    cluster = Cluster(default=NAMESPACE)
    filled(cluster, "room", 300 * KIB, 30)
    async with ServedEdge(
        cluster, send_buffer=32 * KIB, ping_interval_s=1.0, pong_timeout_s=1.0, error_drop_delay_s=1.0
    ) as edge:
        client = await narrow(edge)
        began = time.monotonic()
        page = {"history": {"channel": "room", "limit": 300}}
        client.write(commands(connect_command(), {"subscribe": {"channel": "room"}}, page))
        reader = SlowReader(client, 60 * KIB)
        (line,) = await reader.until(1, "history", 40)
        assert len(line["history"]["publications"]) == 30
        assert time.monotonic() - began > 3.0  # else the test has shown nothing
        client.write(commands({"presence_stats": {"channel": "room"}}, first_id=4))
        assert await reader.until(1, "presence_stats", 20)
        client.writer.close()


async def test_a_client_that_asks_and_reads_nothing_is_missed() -> None:
    cluster = Cluster(default=NAMESPACE)
    filled(cluster, "room", 600 * KIB, 30)
    page = {"history": {"channel": "room", "limit": 300}}
    async with ServedEdge(cluster, send_buffer=32 * KIB, ping_interval_s=0.5, pong_timeout_s=0.5) as edge:
        client = await narrow(edge)
        client.write(commands(connect_command(), {"subscribe": {"channel": "room"}}, *([page] * 20)))
        reader = SlowReader(client, 1_000)
        await reader.until(1, "connect", 10)
        deadline = time.monotonic() + 20
        while not edge.server.counters.closes and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert edge.server.counters.closes == {("3012", "server"): 1}
        client.writer.close()


async def test_of_many_rooms_that_are_caught_up_with_no_more_than_a_page_waits() -> None:
    cluster = Cluster(default=NAMESPACE)
    rooms = [f"room{number}" for number in range(30)]
    for room in rooms:
        filled(cluster, room, 400 * KIB, 100)
    async with ServedEdge(cluster, send_buffer=32 * KIB) as edge:
        client = await narrow(edge)
        client.write(commands(connect_command(), *(recover(room, cluster.bus.logs[room].epoch) for room in rooms)))
        most = got = 0
        async with asyncio.timeout(40):
            while got < len(rooms) * 400 * KIB:
                got += len(await client.reader.read(32 * KIB))
                most = max(most, edge.server.outbox_bytes)
        assert most < 400 * KIB
        client.writer.close()
