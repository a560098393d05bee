"""A scenario on the real platform, small: its figures add up."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from bench.load.commands import Where
from bench.load.fleet import Fleet, LoadFailed
from bench.scenarios.limits import burst
from bench.scenarios.recovery import recovery_storm
from bench.scenarios.steady import steady
from bench.servers.peers import FLOOR, PEERS, centrifugo, running_peer
from bench.servers.platform import platform
from bench.servers.process import free_port, process
from bench.servers.target import TargetFailed


@pytest.mark.slow
async def test_chat_and_recovery_on_two_edges() -> None:
    channels = [f"live:small-{number}" for number in range(5)]
    async with platform(edges=2) as target:
        async with Fleet(2) as fleet:
            figures = await steady(fleet, target, clients=20, channels=channels, per_s=100, seconds=1, warm_s=0.2)
        assert (figures["sent"], figures["acked"], figures["delivered"]) == (100, 100, 400)
        assert figures["missing"] == 0
        assert 0 < figures["ack_p50_ms"] <= figures["ack_p99_ms"] <= figures["ack_p100_ms"]
        assert 0 < figures["cpu_s_edge-1"] < figures["server_cpu_s"]
        assert figures["load_cpu_s"] > 0
        async with Fleet(2) as fleet:
            figures = await recovery_storm(fleet, target, clients=100, missed=10)
        assert figures["recovered"] == 100
        assert figures["log_reads"] > 0


async def test_a_burst_sends_no_more_than_its_window_ahead() -> None:
    async with running_peer(FLOOR, nodes=1) as target, Fleet(2) as fleet:
        figures = await burst(fleet, target, clients=20, channel="live:burst", seconds=0.5)
    assert figures["missing"] == 0
    assert figures["delivered"] == figures["sent"] * 20 > 0


@pytest.mark.parametrize("name", sorted(PEERS))
@pytest.mark.slow
async def test_a_peer_brings_publications_to_both_of_its_nodes(name: str) -> None:
    if PEERS[name].command(0)[0] == "node" and shutil.which("npm") is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("npm is not installed, and REQUIRE_ALL=1")
        pytest.skip("npm is not installed")
    async with running_peer(PEERS[name]) as target, Fleet(2) as fleet:
        figures = await steady(
            fleet, target, clients=8, channels=["live:a", "live:b"], per_s=50, seconds=0.4, warm_s=0.2
        )
    assert (figures["sent"], figures["acked"], figures["delivered"]) == (20, 20, 80)
    assert figures["cpu_s_node-1"] > 0 < figures["cpu_s_node-2"]


async def test_payloads_are_as_long_as_asked_for() -> None:
    received = []
    for payload_bytes in (64, 8_192):
        async with running_peer(FLOOR, nodes=1) as target, Fleet(1) as fleet:
            await fleet.connect(2, target.where, ["live:bytes"], payload_bytes=payload_bytes)
            await fleet.lockstep(batch=10, batches=1, members=2)
            received.append((await fleet.counters()).bytes_received)
    assert 0 <= received[1] - received[0] - 20 * (8_192 - 64) < 20 * 16  # a longer frame has a longer head


async def test_servers_that_are_not_there_are_named() -> None:
    with pytest.raises(TargetFailed, match="no nowhere"):
        async with running_peer(centrifugo(Path("nowhere"))):
            pass
    with pytest.raises(TargetFailed, match="code 3: no such thing"):
        async with process(
            [sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"], port=free_port(), cwd=Path()
        ):
            pass
    nobody = Where(dialect="plain", secret="s", urls=[f"ws://127.0.0.1:{free_port()}/"])
    async with Fleet(1) as fleet:
        with pytest.raises(LoadFailed, match=r"3 of .* client 70: "):
            await fleet.connect(3, nobody, ["live:c"], beginning=70)
