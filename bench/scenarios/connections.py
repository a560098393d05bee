"""What connections cost: to open, to hold, and to see come and go."""

from __future__ import annotations

import asyncio
import time

from bench.load.fleet import Fleet
from bench.load.histogram import Histogram
from bench.measure.usage import Usage, usage
from bench.scenarios.steady import Figures, percentiles
from bench.servers.target import Target

_CHANNELS = 250
_WARM_CLIENTS = 250
_AT_A_TIME = 200
_SETTLES_S = 3.0
_QUIET_S = 1.0
_QUIET_WITHIN_S = 120.0
_NODES = ("edge", "node")  # names of processes that hold sockets begin so


async def connect_storm(fleet: Fleet, target: Target, *, clients: int) -> Figures:
    """All come at once, with a token each, and subscribe to one of 250 channels."""
    channels = [f"live:storm-{number}" for number in range(_CHANNELS)]
    await _warm(fleet, target)
    before, loaded = usage(target.pids()), await fleet.counters(reset=True)
    report = await fleet.connect(clients, target.where, channels, at_a_time=_AT_A_TIME)
    after = usage(target.pids())
    await fleet.close()
    return {
        "cpu_us_per_connect": after.cpu_since(before) * 1e6 / clients,
        "connects_per_s": clients / report.took_s,
        "took_s": report.took_s,
        "load_cpu_s": report.cpu_s - loaded.cpu_s,
        **percentiles("connect", Histogram(report.connect_us)),
    }


async def idle(fleet: Fleet, target: Target, *, clients: int, seconds: float) -> Figures:
    """Measure idle clients: memory per connection, and CPU in percent of one core."""
    channels = [f"live:idle-{number}" for number in range(_CHANNELS)]
    await _warm(fleet, target)
    empty = usage(target.pids())
    await fleet.connect(clients, target.where, channels, at_a_time=_AT_A_TIME)
    await asyncio.sleep(_SETTLES_S)
    before = usage(target.pids())
    await asyncio.sleep(seconds)
    after = usage(target.pids())
    lost = (await fleet.counters()).lost
    await fleet.close()
    return {
        "rss_kib_per_connection": _grown(empty, before, nodes_only=True) / clients,
        "pss_kib_per_connection": (_pss(before) - _pss(empty)) / clients,
        "all_rss_kib_per_connection": _grown(empty, before, nodes_only=False) / clients,
        "cpu_percent": after.cpu_since(before) * 100 / (after.at_s - before.at_s),
        "lost_connections": lost,
    }


async def presence(fleet: Fleet, target: Target, *, clients: int) -> Figures:
    """All join one channel, and each is told of every join after its own."""
    await _warm(fleet, target)
    await fleet.counters(reset=True)
    before = usage(target.pids())
    report = await fleet.connect(clients, target.where, ["chat:presence"], at_a_time=_AT_A_TIME, join_leave=True)
    seen = await _quiet(fleet)
    after = usage(target.pids())
    await fleet.close()
    return {
        "cpu_us_per_join": after.cpu_since(before) * 1e6 / clients,
        "joins_seen_per_client": seen / clients,
        "bytes_per_client": (await fleet.counters()).bytes_received / clients,
        "took_s": report.took_s,
    }


async def _quiet(fleet: Fleet) -> int:
    """Wait until no more joins come; how many came."""
    deadline = time.monotonic() + _QUIET_WITHIN_S
    seen = -1
    while (now := (await fleet.counters()).joins) != seen and time.monotonic() < deadline:
        seen = now
        await asyncio.sleep(_QUIET_S)
    return now


async def _warm(fleet: Fleet, target: Target) -> None:
    """Have every node do all of it once, so that nothing loaded late is counted."""
    await fleet.connect(_WARM_CLIENTS, target.where, ["live:warm"])
    await fleet.close()
    await asyncio.sleep(_QUIET_S)


def _grown(before: Usage, after: Usage, *, nodes_only: bool) -> int:
    names = [name for name in after.rss if not nodes_only or name.startswith(_NODES)]
    return sum(after.rss[name] - before.rss[name] for name in names)


def _pss(seen: Usage) -> int:
    return sum(kib for name, kib in seen.pss.items() if name.startswith(_NODES))
