"""A client of 100 KB/s gets thousands of missed publications in pages.

Others publish meanwhile. FULL=1 has more.
"""

from __future__ import annotations

import asyncio
import json

from services.edge.domain.model import Publication
from tests.support.edge import OPEN, Cluster, replace_namespace
from tests.support.full import sized
from tests.support.served_edge import ServedEdge, SlowReader, commands, connect_command

KIB = 1_024
MISSED = sized(3_000, 50_000)
LIVE = 40
NAMESPACE = replace_namespace(OPEN, history_size=1_000_000)


async def test_a_client_of_100_kb_a_second_gets_all_it_missed_then_what_is_live() -> None:
    cluster = Cluster(default=NAMESPACE)
    for number in range(MISSED):
        cluster.bus.append("room", Publication(b'{"n":%d,"text":"%s"}' % (number, b"x" * 40)), "", "", 1_000_000)
    epoch = cluster.bus.log("room").epoch
    most_waiting = 0

    async def go_on_publishing() -> None:
        nonlocal most_waiting
        for _ in range(LIVE):
            await asyncio.sleep(0.05)
            most_waiting = max(most_waiting, edge.server.outbox_bytes)
            cluster.bus.append("room", Publication(b'{"live":true}'), "", "", 1_000_000)

    async with ServedEdge(cluster, send_buffer=32 * KIB) as edge:
        client = await edge.raw(receive_buffer=16 * KIB)
        wish = {"channel": "room", "recover": True, "recoverable": True, "epoch": epoch}
        client.write(commands(connect_command(), {"subscribe": wish}))
        publishing = asyncio.create_task(go_on_publishing())
        reader = SlowReader(client, 100 * KIB)
        (line,) = await reader.until(1, "subscribe", 30)
        result = line["subscribe"]
        assert (result["recovered"], result.get("offset", 0)) == (True, 0)
        first = [one["offset"] for one in result["publications"]]
        pushes = await reader.until(MISSED + LIVE - len(first), "push", 60 + MISSED / 200)
        await publishing
        assert first + [line["push"]["pub"]["offset"] for line in pushes] == list(range(1, MISSED + LIVE + 1))
        assert most_waiting < 400 * KIB
        assert edge.server.counters.closes == {}
        client.write(commands({"presence_stats": {"channel": "room"}}, first_id=7))
        assert json.dumps(await reader.until(1, "presence_stats", 20))
        client.writer.close()
