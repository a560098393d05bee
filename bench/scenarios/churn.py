"""Clients that connect, subscribe and go at once; and what is left after them."""

from __future__ import annotations

import asyncio

import msgspec

from bench.load.fleet import Fleet
from bench.load.histogram import Histogram
from bench.measure.leaks import Finding, few, handles, memory, nothing_held
from bench.measure.vitals import Vitals, at_rest, vitals
from bench.scenarios.soak import CHANNELS
from bench.servers.target import Target

_WARM = 2_000
_SETTLES_S = 2.0
_EMPTY_WITHIN_S = 30.0
_UNIT = 100_000
_RSS_KIB_PER_UNIT = 512.0  # 5 bytes for each connect: an object that stays for each has 16 at least
_RSS_KIB_PER_UNIT_REDIS = 1_024.0  # its allocator keeps a little of what clients and answers had


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """So many clients, and all processes when nobody is there any more."""

    visitors: int
    failed: int
    failure: str
    took_s: float
    cpu_us: float  # of all processes, for each client
    connect_p50_ms: float
    connect_p99_ms: float
    held: dict[str, int]
    vitals: dict[str, Vitals]


class Run(msgspec.Struct, kw_only=True):
    """Chunks that the same processes had."""

    before: dict[str, Vitals]  # everything used once
    chunks: list[Chunk] = []

    def findings(self) -> list[Finding]:
        """The verdict."""
        visitors = sum(each.visitors for each in self.chunks)
        so_far, seen = 0, [(0.0, self.before)]
        for each in self.chunks:
            so_far += each.visitors
            seen.append((so_far, each.vitals))
        return [
            few("visitors that could not come, or go", sum(each.failed for each in self.chunks), visitors),
            *nothing_held(_most(self.chunks)),
            *memory(
                seen,
                at_most={"redis": _RSS_KIB_PER_UNIT_REDIS},
                otherwise=_RSS_KIB_PER_UNIT,
                per=f"{_UNIT:,} connects",
                scale=_UNIT,
            ),
            *handles(self.before, self.chunks[-1].vitals),
        ]


def _most(chunks: list[Chunk]) -> dict[str, int]:
    return {name: max(each.held[name] for each in chunks) for name in chunks[0].held}


async def begin(target: Target, fleet: Fleet, *, kind: str = "") -> Run:
    """Use everything once."""
    await fleet.churn(_WARM, target.where, CHANNELS, at_a_time=100, kind=kind)
    await at_rest(target, within_s=_EMPTY_WITHIN_S)
    await asyncio.sleep(_SETTLES_S)
    return Run(before=await vitals(target))


async def chunk(target: Target, fleet: Fleet, *, first: int, count: int, at_a_time: int, kind: str = "") -> Chunk:
    """Have clients from number `first` on come and go. `kind`: see `Churn`."""
    before = await vitals(target)
    seen = await fleet.churn(count, target.where, CHANNELS, at_a_time=at_a_time, beginning=first, kind=kind)
    held = await at_rest(target, within_s=_EMPTY_WITHIN_S)
    after = await vitals(target)
    await asyncio.sleep(_SETTLES_S)
    connected = Histogram(seen.connect_us)
    cpu_s = sum(after[name].cpu_s - before[name].cpu_s for name in after)
    return Chunk(
        visitors=count,
        failed=seen.failed + seen.lost,
        failure=seen.trouble,
        took_s=round(seen.took_s, 1),
        cpu_us=round(cpu_s * 1e6 / count, 1),
        connect_p50_ms=connected.percentile(0.5) / 1000,
        connect_p99_ms=connected.percentile(0.99) / 1000,
        held=held,
        vitals=await vitals(target),
    )
