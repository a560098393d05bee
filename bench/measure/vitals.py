"""What a process that leaks has more and more of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from prometheus_client.samples import Sample

from bench.measure.metrics import scrape_each, total
from bench.measure.proc import cpu_s, fds, pss_kib, rss_kib, threads
from bench.servers.target import Target

_TASKS = "thalamus_asyncio_tasks"
# What an edge holds for clients: nothing is left when all of them are gone.
_HELD = ("connections", "sessions", "subscriptions", "presence_members", "outbox_bytes")
_POLL_S = 0.5


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """One process at one moment, without its children.

    The child that rewrites Redis' log would count twice, because it shares memory.
    """

    cpu_s: float
    rss_kib: int
    pss_kib: int
    fds: int
    threads: int
    tasks: int | None = None  # of asyncio, where /metrics tells


async def vitals(target: Target) -> dict[str, Vitals]:
    """Of all processes, by name."""
    samples = await scrape_each(target.internal)
    return {name: _vitals(pid, samples.get(name, [])) for name, pid in target.pids().items()}


def _vitals(pid: int, samples: list[Sample]) -> Vitals:
    return Vitals(
        cpu_s=round(cpu_s(pid), 3),
        rss_kib=rss_kib(pid),
        pss_kib=pss_kib(pid),
        fds=fds(pid),
        threads=threads(pid),
        tasks=int(total(samples, _TASKS)) if any(sample.name == _TASKS for sample in samples) else None,
    )


def held(samples: Mapping[str, list[Sample]]) -> dict[str, int]:
    """What all edges together hold for clients, by the short names of the metrics."""
    edges = [sample for samples_of_one in samples.values() for sample in samples_of_one]
    return {name: int(total(edges, f"thalamus_edge_{name}")) for name in _HELD}


async def at_rest(target: Target, *, within_s: float) -> dict[str, int]:
    """Wait until edges hold nothing for clients; what they still held at last."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while any((left := held(await scrape_each(target.internal))).values()) and loop.time() < deadline:
        await asyncio.sleep(_POLL_S)
    return left
