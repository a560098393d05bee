"""Limits: how much is delivered, and the highest rate acknowledged in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from bench.load.commands import Report
from bench.load.fleet import Fleet
from bench.load.histogram import Histogram
from bench.measure.usage import usage
from bench.scenarios.steady import Figures, connect, percentiles, publish, rates
from bench.servers.target import Target

_WINDOW = 32  # publications on their way at a time
_WARM_S = 1.0
_ARRIVES_WITHIN_S = 15.0
_FIRST_PER_S = 2_000.0
_LOWEST_PER_S = 100.0
_GROWS_BY = 1.5
_BISECTIONS = 3
_P99_MS = 100.0
_MOMENT_S = 0.005
_REFUSED_AT_MOST = 0.001


async def burst(fleet: Fleet, target: Target, *, clients: int, channel: str, seconds: float) -> Figures:
    """One channel, a bounded number of publications on their way all the time."""
    await connect(fleet, target, clients, [channel])
    await fleet.burst(_WINDOW, _WARM_S)
    await _all_arrived(fleet, clients)
    loaded, before, started = await fleet.counters(reset=True), usage(target.pids()), time.monotonic()
    await fleet.burst(_WINDOW, seconds)
    await _all_arrived(fleet, clients)
    took_s = time.monotonic() - started
    after, seen = usage(target.pids()), await fleet.counters(reset=True)
    await fleet.close()
    return rates(seen, before, after, clients) | {
        "deliveries_per_s": seen.delivered / took_s,
        "load_cpu_s": seen.cpu_s - loaded.cpu_s,
    }


async def publish_burst(
    fleet: Fleet, target: Target, *, clients: int, channels: Sequence[str], each: int, payload_bytes: int
) -> Figures:
    """Every client publishes so many times at the same moment."""
    members = clients // len(channels)
    await fleet.connect(clients, target.where, channels, payload_bytes=payload_bytes)
    await publish(fleet, members, _LOWEST_PER_S, _WARM_S)
    await asyncio.sleep(_WARM_S)
    before = usage(target.pids())
    seen = await publish(fleet, members, clients * each / _MOMENT_S, _MOMENT_S)
    await fleet.close()
    return rates(seen, before, usage(target.pids()), members) | {
        "unanswered": seen.sent - seen.acked - seen.refused,
        "last_ack_s": Histogram(seen.ack_us).percentile(1.0) / 1_000_000,
    }


async def _all_arrived(fleet: Fleet, members: int) -> None:
    sent = (await fleet.counters()).sent
    await fleet.settled(sent, members=members, within_s=_ARRIVES_WITHIN_S)


async def highest_rate(
    fleet: Fleet, target: Target, *, clients: int, channels: Sequence[str], step_s: float
) -> Figures:
    """Find the highest rate at which replies and deliveries take 100 ms at most (p99).

    The rate is raised until they take longer; then it closes in on the limit.
    """
    members = clients // len(channels)
    await connect(fleet, target, clients, channels)
    best: Figures = {"acked_per_s": 0.0}
    good, bad, rate = 0.0, 0.0, _FIRST_PER_S
    bisections = 0
    while bisections <= _BISECTIONS and rate >= _LOWEST_PER_S:
        # Twice before a rate is too high: once may have been the machine.
        figures = await _step(fleet, target, members, rate, step_s) or await _step(fleet, target, members, rate, step_s)
        if figures is not None:
            best, good = figures, rate
        else:
            bad = rate
        bisections += bool(good and bad)
        rate = (good + bad) / 2 if good and bad else rate * _GROWS_BY if good else rate / 2
    await fleet.close()
    return best


async def _step(fleet: Fleet, target: Target, members: int, per_s: float, seconds: float) -> Figures | None:
    """The figures of a rate; None: it is too high."""
    loaded, before = await fleet.counters(reset=True), usage(target.pids())
    seen = await publish(fleet, members, per_s, seconds)
    if not _in_time(seen, members):
        return None
    return rates(seen, before, usage(target.pids()), members) | {
        "acked_per_s": per_s * seen.acked / seen.sent,
        "load_cpu_s": seen.cpu_s - loaded.cpu_s,
    }


def _in_time(seen: Report, members: int) -> bool:
    acks, deliveries = percentiles("p", Histogram(seen.ack_us)), percentiles("p", Histogram(seen.delivery_us))
    return (
        seen.refused <= seen.sent * _REFUSED_AT_MOST
        and seen.acked + seen.refused == seen.sent
        and seen.delivered == seen.acked * members
        and max(acks["p_p99_ms"], deliveries["p_p99_ms"]) <= _P99_MS
    )
