"""Fan-out and chat on schedule: cost and latency of a delivery and a publish."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from bench.load.commands import Report
from bench.load.fleet import Fleet, LoadFailed
from bench.load.histogram import Histogram
from bench.measure.usage import Usage, usage
from bench.servers.target import Target

Figures = dict[str, float]
_WARM_S = 1.5
_ARRIVES_WITHIN_S = 15.0
_SETTLES_S = 0.5


async def connect(fleet: Fleet, target: Target, clients: int, channels: Sequence[str], *, payload: str = "") -> Report:
    """Open the clients of a scenario; `payload`: what they publish, see `Connect`."""
    report = await fleet.connect(clients, target.where, channels, payload=payload)
    await asyncio.sleep(_SETTLES_S)
    return report


async def steady(
    fleet: Fleet,
    target: Target,
    *,
    clients: int,
    channels: Sequence[str],
    per_s: float,
    seconds: float,
    warm_s: float = _WARM_S,
) -> Figures:
    """Measure publications on schedule; each client publishes to its own channel."""
    await connect(fleet, target, clients, channels)
    members = clients // len(channels)
    await publish(fleet, members, per_s, warm_s)
    figures = await window(fleet, target, members=members, per_s=per_s, seconds=seconds)
    await fleet.close()
    return figures


async def window(fleet: Fleet, target: Target, *, members: int, per_s: float, seconds: float) -> Figures:
    """Measure what some seconds of publications cost, until all have arrived."""
    loaded, before = await fleet.counters(reset=True), usage(target.pids())
    seen = await publish(fleet, members, per_s, seconds)
    return rates(seen, before, usage(target.pids()), members) | {"load_cpu_s": seen.cpu_s - loaded.cpu_s}


async def publish(fleet: Fleet, members: int, per_s: float, seconds: float) -> Report:
    """Send, and wait until all has arrived; the report counts what is missing.

    Raises:
        LoadFailed: nothing came, or connections broke.
    """
    sent = (await fleet.publish(per_s, seconds)).sent
    await fleet.settled(sent, members=members, within_s=_ARRIVES_WITHIN_S)
    seen = await fleet.counters(reset=True)
    if seen.lost or not seen.delivered:
        raise LoadFailed(f"{seen.lost} connections were lost; {seen.delivered} of {sent * members} deliveries came")
    return seen


def rates(seen: Report, before: Usage, after: Usage, members: int) -> Figures:
    """CPU per delivery and publish, and latencies."""
    cpu_s = after.cpu_since(before)
    deliveries, acks = Histogram(seen.delivery_us), Histogram(seen.ack_us)
    return {
        "cpu_us_per_delivery": cpu_s * 1e6 / max(1, seen.delivered),
        "cpu_us_per_publish": cpu_s * 1e6 / max(1, seen.acked),
        "server_cpu_s": cpu_s,
        "sent": seen.sent,
        "acked": seen.acked,
        "refused": seen.refused,
        "delivered": seen.delivered,
        "missing": max(0, (seen.sent - seen.refused) * members - seen.delivered),
        **percentiles("delivery", deliveries),
        **percentiles("ack", acks),
        **{f"cpu_s_{name}": after.cpu[name] - before.cpu[name] for name in after.cpu},
    }


def percentiles(name: str, histogram: Histogram) -> Mapping[str, float]:
    """In milliseconds."""
    return {
        f"{name}_p{label}_ms": histogram.percentile(fraction) / 1000
        for label, fraction in (("50", 0.5), ("99", 0.99), ("99_9", 0.999), ("100", 1.0))
    }
