"""Many who come back at once get what they missed one after the other.

Everybody else comes in between.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from services.edge.domain.model import Publication
from services.edge.domain.session.turns import Turns
from services.shared.process.cancellation import end_task
from tests.support.edge import OPEN, Client, Cluster, TestConnection, connected, replace_namespace, settle

CHANNEL = "room"
MISSED = 1_000
COME_BACK = 20


class Rounds:
    """How much is sent in each round of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = [0]
        send = TestConnection.send

        def counted(connection: TestConnection, frame: bytes) -> None:
            self.sent[-1] += frame.count(b'"offset"')
            send(connection, frame)

        monkeypatch.setattr(TestConnection, "send", counted)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.sent.append(0)
            await asyncio.sleep(0)


@pytest.mark.parametrize(("limit", "most"), [(100, 100), (MISSED, MISSED + 2)], ids=["in pages", "in the reply"])
async def test_in_a_round_of_the_loop_one_of_them_is_served(
    limit: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(default=replace_namespace(OPEN, history_size=MISSED))
    node = cluster.edge(recovery_limit=limit, ring_size=1)
    for _ in range(MISSED):
        cluster.bus.append(CHANNEL, Publication(b"1"), "", "", MISSED)
    epoch = cluster.bus.log(CHANNEL).epoch
    clients = [await connected(cluster, node, f"u{number}") for number in range(COME_BACK)]
    rounds = Rounds(monkeypatch)
    wish = {"channel": CHANNEL, "recover": True, "recoverable": True, "epoch": epoch}
    text = json.dumps({"id": 9, "subscribe": wish}).encode()
    for client in clients:
        client.protocol.message(text, binary=False)
    async with asyncio.timeout(20):
        while not all(map(has_all, clients)):
            await settle()
    await end_task(rounds.task)
    assert max(rounds.sent) <= most


def has_all(client: Client) -> bool:
    found = [frame.count(b'"data"') for frame in client.connection.frames]
    return sum(found) == MISSED


async def test_who_goes_away_while_it_waits_keeps_nobody_waiting() -> None:
    turns = Turns()
    waiting = [asyncio.create_task(turns.mine()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    waiting[2].cancel()
    await settle()
    assert all(one.done() for one in waiting)
    await asyncio.wait_for(turns.mine(), 30)
