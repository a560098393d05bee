"""How cost grows: one thing is changed at a time, on the whole platform."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import msgspec

from bench.load.fleet import Fleet
from bench.measure.statistics import Spread, fitted, spread
from bench.measure.usage import Usage, usage
from bench.scenarios.steady import Figures, publish
from bench.servers.target import Target

Platform = Callable[[int], AbstractAsyncContextManager[Target]]  # of so many edges

_LOAD_PROCESSES = 2
_WARM_S, _QUIET_S = 0.7, 2.0
_WARM_CLIENTS = 500
_EDGE, _REDIS = "edge", "redis"
_MEMORY_STEP, _MEMORY_STEPS = 1_000, 4
_MEMORY_CHANNELS = 250
_SETTLES_S = 1.5
_PING_S = 25.0  # every connection is pinged once
_KEPT_PER_S, _KEPT_S = 2_000.0, 1.5
_KEPT_CHANNELS, _HISTORY_SIZE = 20, 1_000  # as shipped


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: a round of a curve, at one x."""

    curve: str
    x: float
    figures: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Clients of some channels that publish."""

    channels: int
    members: int
    per_s: float
    payload_bytes: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`shapes`: x → what is measured there; `edges`: x is the number of edges."""

    name: str
    text: str
    x: str
    shapes: dict[float, Shape]
    per_delivery: bool = False
    edges: bool = False


def _chat(members: int) -> Shape:
    return Shape(channels=1_000 // members, members=members, per_s=400)


CURVES = (
    Curve(
        name="subscribers",
        text="subscribers of one channel, 50 publications/s",
        x="subscribers",
        shapes={float(each): Shape(channels=1, members=each, per_s=50) for each in (10, 100, 1_000, 4_000)},
        per_delivery=True,
    ),
    Curve(
        name="rate",
        text="publications/s in one channel of 100 subscribers",
        x="publications/s",
        shapes={float(each): Shape(channels=1, members=100, per_s=each) for each in (25, 100, 400, 1_600)},
        per_delivery=True,
    ),
    Curve(
        name="members",
        text="members of each channel, 1,000 clients, 400 publications/s",
        x="members of a channel",
        shapes={float(each): _chat(each) for each in (1, 4, 16, 64)},
    ),
    Curve(
        name="channels",
        text="channels of two members, 400 publications/s over all of them",
        x="channels",
        shapes={float(each): Shape(channels=each, members=2, per_s=400) for each in (10, 100, 1_000, 4_000)},
    ),
    Curve(
        name="payload",
        text="bytes of a publication, 50 channels of 4 members, 200 publications/s",
        x="bytes",
        shapes={
            float(each): Shape(channels=50, members=4, per_s=200, payload_bytes=each)
            for each in (64, 512, 2_048, 8_192, 16_384)
        },
    ),
    Curve(
        name="edges, chat",
        text="edges, 100 channels of 6 members on all of them, 1,500 publications/s",
        x="edges",
        shapes={float(each): Shape(channels=100, members=6, per_s=1_500) for each in (1, 2, 3)},
        edges=True,
    ),
    Curve(
        name="edges, fan-out",
        text="edges, one channel with 600 subscribers on all of them, 50 publications/s",
        x="edges",
        shapes={float(each): Shape(channels=1, members=600, per_s=50) for each in (1, 2, 3)},
        per_delivery=True,
        edges=True,
    ),
)
MEMORY = ("connections", "channels of their own", "kept publications")


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """All points of all rounds."""

    points: list[Point] = []

    def spreads(self, curve: str, figure: str) -> dict[float, Spread]:
        """x → the figure over the rounds."""
        found: dict[float, list[float]] = {}
        for point in self.points:
            if point.curve == curve and figure in point.figures:
                found.setdefault(point.x, []).append(point.figures[figure])
        return {x: spread(found[x]) for x in sorted(found)}


async def measure(names: Sequence[str], start: Platform, *, seconds: float, found: Callable[[Point], None]) -> None:
    """One round of these curves; `found` is told of each point."""
    for edges, wanted in _by_platform([curve for curve in CURVES if curve.name in names]):
        async with start(edges) as target:
            for curve, x in wanted:
                figures = await _traffic(target, curve.name, curve.shapes[x], seconds)
                found(Point(curve=curve.name, x=x, figures=figures))
    runs: dict[str, Callable[[Target, Fleet], Awaitable[Figures]]] = dict(
        zip(MEMORY, (_connections, _channels, _kept), strict=True)
    )
    for name in MEMORY:
        if name in names:
            async with start(2) as target, Fleet(_LOAD_PROCESSES) as fleet:
                found(Point(curve=name, x=0, figures=await runs[name](target, fleet)))


def _by_platform(curves: Sequence[Curve]) -> Iterator[tuple[int, list[tuple[Curve, float]]]]:
    """Number of edges → what is measured on one platform of so many."""
    plan: dict[int, list[tuple[Curve, float]]] = {}
    for curve in curves:
        for x in curve.shapes:
            plan.setdefault(int(x) if curve.edges else 2, []).append((curve, x))
    yield from plan.items()


async def _traffic(target: Target, name: str, shape: Shape, seconds: float) -> Figures:
    """Measure CPU of each publication and delivery, beyond that of silence.

    In silence the same clients are connected.
    """
    channels = [f"live:{name.replace(', ', '-')}-{number}" for number in range(shape.channels)]
    async with Fleet(_LOAD_PROCESSES) as fleet:
        await fleet.connect(shape.channels * shape.members, target.where, channels, payload_bytes=shape.payload_bytes)
        await publish(fleet, shape.members, shape.per_s, _WARM_S)
        silent = usage(target.pids())
        await asyncio.sleep(_QUIET_S)
        before = usage(target.pids())
        seen = await publish(fleet, shape.members, shape.per_s, seconds)
        after = usage(target.pids())
        await fleet.close()
    everything, edges, redis = (beyond_silence(silent, before, after, prefix) for prefix in ("", _EDGE, _REDIS))
    return {
        "cpu_us_per_publish": everything / seen.acked,
        "cpu_us_per_delivery": everything / seen.delivered,
        "edges_us_per_publish": edges / seen.acked,
        "redis_us_per_publish": redis / seen.acked,
    }


def beyond_silence(silent: Usage, before: Usage, after: Usage, prefix: str) -> float:
    """Return µs of CPU from `before` to `after`, beyond that of silence.

    The time from `silent` to `before` shows what silence takes.
    """
    names = [name for name in after.cpu if name.startswith(prefix)]
    quiet = sum(before.cpu[name] - silent.cpu[name] for name in names) / (before.at_s - silent.at_s)
    busy = sum(after.cpu[name] - before.cpu[name] for name in names)
    return (busy - quiet * (after.at_s - before.at_s)) * 1e6


async def _connections(target: Target, fleet: Fleet) -> Figures:
    """Measure what a connection takes: CPU to come and to stay, and memory.

    All share 250 channels.
    """
    shared = [f"live:shared-{number}" for number in range(_MEMORY_CHANNELS)]
    empty = await _warmed(target, fleet)
    points = [(0.0, _rss(empty, _EDGE))]
    coming = 0.0
    for step in range(_MEMORY_STEPS):
        before = usage(target.pids())
        await fleet.connect(_MEMORY_STEP, target.where, shared, beginning=step * _MEMORY_STEP)
        coming += usage(target.pids()).cpu_since(before)
        await asyncio.sleep(_SETTLES_S)
        points.append(((step + 1.0) * _MEMORY_STEP, _rss(usage(target.pids()), _EDGE)))
    clients = _MEMORY_STEP * _MEMORY_STEPS
    before = usage(target.pids())
    await asyncio.sleep(_PING_S)
    after = usage(target.pids())
    edges = sum(name.startswith(_EDGE) for name in after.cpu)
    staying = sum(after.cpu[name] - before.cpu[name] for name in after.cpu if name.startswith(_EDGE))
    return {
        "edge_rss_kib": _rss(empty, _EDGE) / edges,
        "redis_rss_kib": _rss(empty, _REDIS),
        "kib_per_connection": fitted(points).slope,
        "cpu_us_per_connect": coming * 1e6 / clients,
        "cpu_us_per_connection_s": staying * 1e6 / clients / (after.at_s - before.at_s),
    }


async def _channels(target: Target, fleet: Fleet) -> Figures:
    """The memory of a connection that is alone in a channel of its own."""
    empty = await _warmed(target, fleet)
    points, of_redis = [(0.0, _rss(empty, _EDGE))], [(0.0, _rss(empty, _REDIS))]
    for step in range(_MEMORY_STEPS):
        own = [f"live:own-{step}-{number}" for number in range(_MEMORY_STEP // 2)]
        await fleet.connect(_MEMORY_STEP, target.where, own, beginning=step * _MEMORY_STEP)
        await asyncio.sleep(_SETTLES_S)
        now = usage(target.pids())
        points.append(((step + 1.0) * _MEMORY_STEP, _rss(now, _EDGE)))
        of_redis.append(((step + 1.0) * _MEMORY_STEP, _rss(now, _REDIS)))
    return {
        "kib_per_connection_and_channel": fitted(points).slope,
        "redis_kib_per_channel_received": fitted(of_redis).slope,
    }


async def _kept(target: Target, fleet: Fleet) -> Figures:
    """What Redis takes for a publication of 128 bytes while its log keeps it."""
    channels = [f"live:kept-{number}" for number in range(_KEPT_CHANNELS)]
    await fleet.connect(4 * len(channels), target.where, channels)
    filling: list[tuple[float, float]] = []
    acked = 0
    while acked < _KEPT_CHANNELS * _HISTORY_SIZE:
        acked += (await publish(fleet, 4, _KEPT_PER_S, _KEPT_S)).acked
        filling.append((float(acked), _rss(usage(target.pids()), _REDIS)))
    return {"redis_bytes_per_kept": fitted(filling).slope * 1024}


async def _warmed(target: Target, fleet: Fleet) -> Usage:
    """Everything used once, and nobody there."""
    await fleet.connect(_WARM_CLIENTS, target.where, ["live:warm"])
    await fleet.close()
    await asyncio.sleep(_SETTLES_S)
    return usage(target.pids())


def _rss(seen: Usage, prefix: str) -> float:
    return float(sum(kib for name, kib in seen.rss.items() if name.startswith(prefix)))
