"""Clients that come and go leave nothing behind, and those that can't are counted."""

from __future__ import annotations

import asyncio
import time

import pytest

from bench.load.churn import churn
from bench.load.client import Client, Tally
from bench.load.commands import Churn, Where
from bench.load.dialects import PAYLOAD, PLAIN
from bench.load.fleet import Fleet
from bench.load.frames import close_frame
from bench.load.visits import VISITS
from bench.measure.vitals import at_rest, vitals
from bench.scenarios.soak import CLIENTS, Window, soak
from bench.servers.platform import platform
from bench.servers.process import free_port

CHANNELS = ["live:a", "live:b"]


class Peer(asyncio.Protocol):
    """A server's end, that tells what it saw last."""

    def __init__(self) -> None:
        self.read = b""
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.read += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


async def pair() -> tuple[Client, Peer, Tally]:
    peer, tally = Peer(), Tally(lambda: 0)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: peer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    client = Client(transport, PLAIN, PLAIN.publish("live:c", PAYLOAD), tally)
    transport.set_protocol(client)
    await asyncio.sleep(0)
    server.close()
    return client, peer, tally


async def test_whoever_leaves_waits_until_the_server_has_closed() -> None:
    client, peer, tally = await pair()
    left = client.leave()
    while peer.read != close_frame():
        await asyncio.sleep(0)
    assert not left.done()
    peer.transport.close()
    await left
    assert await peer.ended is None
    assert tally.lost == 0


async def test_a_reset_is_seen_as_one() -> None:
    client, peer, tally = await pair()
    client.reset()
    assert isinstance(await peer.ended, ConnectionResetError)
    assert (peer.read, tally.lost) == (b"", 0)


async def test_a_client_that_the_server_cut_off_is_lost_and_leaves_at_once() -> None:
    client, peer, tally = await pair()
    peer.transport.abort()
    while not tally.lost:
        await asyncio.sleep(0)
    client.reset()
    await client.leave()


async def test_visitors_that_nobody_lets_in_are_counted_with_the_first_reason() -> None:
    where = Where(dialect="plain", secret="s", urls=[f"ws://127.0.0.1:{free_port()}/"])
    command = Churn(where=where, channels=CHANNELS, first=7, count=5, at_a_time=2)
    seen = await churn(command, Tally(lambda: 0))
    assert (seen.gone, len(seen.failures)) == (0, 5)
    assert seen.failures[0].startswith("client 7: ")


async def test_visitors_come_on_schedule_and_are_gone_afterwards() -> None:
    async with platform(edges=2) as target, Fleet(2) as fleet:
        await fleet.connect(20, target.where, CHANNELS)
        assert (await at_rest(target, within_s=0))["sessions"] == 20
        await fleet.close()
        await at_rest(target, within_s=10)
        before = await vitals(target)
        started = time.monotonic()
        seen = await fleet.churn(40, target.where, CHANNELS, at_a_time=20, per_s=40, stays_s=0.1)
        assert time.monotonic() - started > 0.9
        assert (seen.gone, seen.failed, seen.lost) == (40, 0, 0)
        assert sum(seen.connect_us.values()) == 40
        assert not any((await at_rest(target, within_s=10)).values())
        after = await vitals(target)
        assert {name: each.fds for name, each in after.items()} == {name: each.fds for name, each in before.items()}


async def test_visitors_of_every_kind_leave_nothing_behind() -> None:
    async with platform(edges=1) as target, Fleet(1) as fleet:
        for kind in VISITS:
            await fleet.churn(100, target.where, CHANNELS, at_a_time=20, kind=kind)  # everything is used once
        await at_rest(target, within_s=10)
        before = await vitals(target)
        for kind in VISITS:
            seen = await fleet.churn(500, target.where, CHANNELS, at_a_time=20, kind=kind)
            assert (kind, seen.gone, seen.trouble) == (kind, 500, "")
        assert not any((await at_rest(target, within_s=10)).values())
        after = await vitals(target)
    for name, then in before.items():
        assert after[name].fds <= then.fds + 4, name
        assert after[name].rss_kib <= then.rss_kib + 4_096, name


@pytest.mark.slow
async def test_a_soak_counts_what_it_sent_and_looks_at_every_process() -> None:
    windows: list[Window] = []
    async with platform(edges=2) as target, Fleet(1) as residents, Fleet(1) as visitors:
        soaked = await soak(
            target, residents, visitors, windows=2, window_s=1.0, per_s=200, churn_per_s=10, say=windows.append
        )
    assert (soaked.sent(), soaked.delivered()) == (400, 1_600)
    assert (soaked.visitors, soaked.failed, soaked.lost) == (20, 0, 0)
    assert windows == soaked.windows
    assert len(soaked.minutes) == 1
    edges = ("edge-1", "edge-2")
    assert sum(windows[0].vitals[name].fds - soaked.before[name].fds for name in edges) >= CLIENTS
    wrong = [finding for finding in soaked.findings() if not finding.good and not finding.what.startswith("RSS")]
    assert wrong == []
