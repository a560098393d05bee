"""Everyone is cut off, misses messages, and comes back at once."""

from __future__ import annotations

import asyncio
import time

from bench.load.fleet import Fleet, LoadFailed
from bench.measure.metrics import scrape, total
from bench.measure.usage import usage
from bench.scenarios.steady import Figures
from bench.servers.target import Target

_CHANNELS = 50
_AT_A_TIME = 500
_FORGOTTEN_S = 2.0  # an edge keeps a channel that nobody listens to for a second
_WITHIN_S = 120.0
_LOOK_EVERY_S = 0.05


async def recovery_storm(fleet: Fleet, target: Target, *, clients: int, missed: int) -> Figures:
    """Measure the time in which all clients of 50 channels recover what they missed."""
    channels = [f"live:back-{number}" for number in range(_CHANNELS)]
    report = await fleet.connect(clients, target.where, channels, at_a_time=_AT_A_TIME)
    positions = report.positions
    await fleet.close(abruptly=True)

    async with Fleet(1) as publishers:  # one in each channel; in lockstep nothing is refused
        await publishers.connect(_CHANNELS, target.where, channels)
        await publishers.lockstep(batch=_CHANNELS, batches=missed, members=1)
        await publishers.close()
    await asyncio.sleep(_FORGOTTEN_S)

    await fleet.counters(reset=True)
    before, counted, started = usage(target.pids()), await scrape(target.internal), time.monotonic()
    await fleet.connect(clients, target.where, channels, at_a_time=_AT_A_TIME, positions=positions)
    await _all_delivered(fleet, clients * missed)
    took_s = time.monotonic() - started
    after, counts = usage(target.pids()), await scrape(target.internal)
    await fleet.close()

    def grown(name: str, **labels: str) -> float:
        return total(counts, name, **labels) - total(counted, name, **labels)

    reads = grown("thalamus_edge_log_reads_total")
    return {
        "took_s": took_s,
        "cpu_us_per_recovery": after.cpu_since(before) * 1e6 / clients,
        "log_reads": reads,
        "reads_per_channel_and_edge": reads / _CHANNELS / len(target.where.urls),
        "redis_calls": grown("thalamus_edge_redis_batch_items_sum"),
        "store_reads": grown("thalamus_persistence_store_seconds_count", op="read"),
        "recovered": grown("thalamus_edge_recoveries_total", outcome="recovered"),
    }


async def _all_delivered(fleet: Fleet, wanted: int) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while (seen := (await fleet.counters()).delivered) < wanted:
        if time.monotonic() > deadline:
            raise LoadFailed(f"{seen} of {wanted} missed publications came within {_WITHIN_S:g} s")
        await asyncio.sleep(_LOOK_EVERY_S)
