"""How many edges, and how much Redis, so many sockets take, by measured costs.

The page shows the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.measure.statistics import fitted
from bench.scenarios.curves import Curves

SOCKETS = (10_000, 100_000, 1_000_000)
# What is planned for; docs/performance.md says why.
MEMBERS = 20  # of a channel, each in one
EVERY_S = 10.0  # a publication in each channel
KEPT = 100  # publications, history_size
BACK_WITHIN_S = 120.0  # all clients of a whole platform that was away
BUSY = 0.6  # of a core, of which the rest is for peaks and for an edge that is away
PER_EDGE = 10_000  # sockets, of EDGE_MAX_CONNECTIONS=15000
EDGE_MIB = 700.0  # of EDGE_MEMORY=1G
REDIS_BUSY = 0.7  # of the one core that it has


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """µs of CPU and memory, as measured."""

    publish_us: float  # of edges, whoever hears it
    receive_us: float  # of edges, for each edge that receives it
    delivery_us: float  # of edges
    redis_publish_us: float
    redis_receive_us: float  # for each edge that receives it
    connect_us: float  # of all processes
    connection_us: float  # of edges, each second
    edge_mib: float  # without clients
    connection_kib: float
    channel_kib: float  # on each edge that receives it
    redis_mib: float
    redis_channel_kib: float  # for each edge that receives it
    kept_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """For so many sockets."""

    sockets: int
    edges: int
    spread: float  # edges that receive a channel, on average
    edge_cores: float
    edge_mib: float  # each
    back_cores: float
    redis_cores: float
    redis_mib: float

    @property
    def publishes(self) -> float:
        """Each second."""
        return self.sockets / MEMBERS / EVERY_S


def costs(curves: Curves) -> Costs | None:
    """From the medians; None: not everything was measured."""
    members = _line(curves, "members", "edges_us_per_publish", at_least=4)
    receiving = _line(curves, "edges, chat", "edges_us_per_publish")
    redis = _line(curves, "edges, chat", "redis_us_per_publish")
    one = {figure: found[0.0].median for name, figure in _ALONE if (found := curves.spreads(name, figure))}
    if members is None or receiving is None or redis is None or len(one) < len(_ALONE):
        return None
    receive_us = max(0.0, receiving[1])
    return Costs(
        publish_us=max(0.0, members[0] - 2 * receive_us),  # members were on two edges
        receive_us=receive_us,
        delivery_us=members[1],
        redis_publish_us=redis[0],
        redis_receive_us=max(0.0, redis[1]),
        connect_us=one["cpu_us_per_connect"],
        connection_us=one["cpu_us_per_connection_s"],
        edge_mib=one["edge_rss_kib"] / 1024,
        connection_kib=one["kib_per_connection"],
        channel_kib=max(0.0, one["kib_per_connection_and_channel"] - one["kib_per_connection"]),
        redis_mib=one["redis_rss_kib"] / 1024,
        redis_channel_kib=max(0.0, one["redis_kib_per_channel_received"]),
        kept_bytes=max(0.0, one["redis_bytes_per_kept"]),
    )


_ALONE = (
    ("connections", "cpu_us_per_connect"),
    ("connections", "cpu_us_per_connection_s"),
    ("connections", "edge_rss_kib"),
    ("connections", "redis_rss_kib"),
    ("connections", "kib_per_connection"),
    ("channels of their own", "kib_per_connection_and_channel"),
    ("channels of their own", "redis_kib_per_channel_received"),
    ("kept publications", "redis_bytes_per_kept"),
)


def _line(curves: Curves, name: str, figure: str, at_least: float = 0.0) -> tuple[float, float] | None:
    points = [(x, found.median) for x, found in curves.spreads(name, figure).items() if x >= at_least]
    if len(points) < 2:
        return None
    line = fitted(points)
    return line.base, line.slope


def receiving_edges(edges: int, members: int) -> float:
    """Edges of so many that hear a channel whose members are anywhere."""
    return edges * (1 - (1 - 1 / edges) ** members)


def plan(sockets: int, cost: Costs) -> Plan:
    """Plan the fewest edges that suffice for sockets, CPU, memory and a return of all."""
    edges = -(-sockets // PER_EDGE)
    while True:
        found = _with(sockets, edges, cost)
        if max(found.edge_cores / BUSY, found.back_cores) <= edges and found.edge_mib <= EDGE_MIB:
            return found
        edges += 1


def _with(sockets: int, edges: int, cost: Costs) -> Plan:
    channels = sockets / MEMBERS
    publishes = channels / EVERY_S
    receiving = receiving_edges(edges, MEMBERS)
    each = cost.publish_us + cost.receive_us * receiving + cost.delivery_us * MEMBERS
    return Plan(
        sockets=sockets,
        edges=edges,
        spread=receiving,
        edge_cores=(publishes * each + sockets * cost.connection_us) / 1e6,
        edge_mib=cost.edge_mib
        + (sockets * cost.connection_kib + channels * receiving * cost.channel_kib) / edges / 1024,
        back_cores=sockets * cost.connect_us / 1e6 / BACK_WITHIN_S,
        redis_cores=publishes * (cost.redis_publish_us + cost.redis_receive_us * receiving) / 1e6,
        redis_mib=cost.redis_mib
        + channels * (KEPT * cost.kept_bytes / 1024 + receiving * cost.redis_channel_kib) / 1024,
    )


def planning(cost: Costs) -> Iterator[str]:
    """The costs, the table, and one column of it written out."""
    yield "| measured cost | |"
    yield "|---|---|"
    yield f"| a publication, on the edge that takes it | {cost.publish_us:,.0f} µs |"
    yield f"| … on each edge that receives it | {cost.receive_us:,.1f} µs |"
    yield f"| … for each member that gets it | {cost.delivery_us:,.2f} µs |"
    redis = f"{cost.redis_publish_us:,.0f} µs + {cost.redis_receive_us:,.1f} µs for each edge that receives it"
    yield f"| … in Redis | {redis} |"
    yield f"| a connect with token and subscription, everything | {cost.connect_us:,.0f} µs |"
    yield f"| an open connection, each second (pings) | {cost.connection_us:,.2f} µs |"
    yield f"| memory of an edge without clients | {cost.edge_mib:,.0f} MiB |"
    yield f"| … of a connection with a subscription | {cost.connection_kib:,.1f} KiB |"
    yield f"| … of a channel, on each edge that receives it | {cost.channel_kib:,.1f} KiB |"
    yield f"| memory of Redis without channels | {cost.redis_mib:,.0f} MiB |"
    yield f"| … of a channel, for each edge that receives it | {cost.redis_channel_kib:,.2f} KiB |"
    yield f"| … of a kept publication of 128 bytes | {cost.kept_bytes:,.0f} bytes |"
    yield ""
    plans = [plan(sockets, cost) for sockets in SOCKETS]
    yield "| sockets | " + " | ".join(f"{each.sockets:,}" for each in plans) + " |"
    yield "|---" * (len(plans) + 1) + "|"
    rows = (
        ("publications/s", [f"{each.publishes:,.0f}" for each in plans]),
        ("deliveries/s", [f"{each.publishes * MEMBERS:,.0f}" for each in plans]),
        ("**edges**", [f"**{each.edges}**" for each in plans]),
        ("edges that receive a channel", [f"{each.spread:.1f}" for each in plans]),
        ("CPU of all edges, cores", [f"{each.edge_cores:.2f}" for each in plans]),
        (f"CPU to have all back in {BACK_WITHIN_S:.0f} s, cores", [f"{each.back_cores:.2f}" for each in plans]),
        ("memory of each edge, MiB", [f"{each.edge_mib:,.0f}" for each in plans]),
        ("CPU of Redis, cores", [_of_redis(each) for each in plans]),
        ("memory of Redis, MiB", [f"{each.redis_mib:,.0f}" for each in plans]),
    )
    yield from (f"| {name} | {' | '.join(cells)} |" for name, cells in rows)
    yield ""
    yield from _written_out(plans[1], cost)


def _of_redis(found: Plan) -> str:
    return f"{found.redis_cores:.2f}" if found.redis_cores <= REDIS_BUSY else f"**{found.redis_cores:.2f}: divide**"


def _written_out(found: Plan, cost: Costs) -> Iterator[str]:
    n, channels = found.sockets, found.sockets // MEMBERS
    yield f"The arithmetic for {n:,}:"
    yield ""
    yield "```text"
    yield f"channels         {n:,} / {MEMBERS} = {channels:,}"
    yield f"publications/s   {channels:,} / {EVERY_S:g} s = {found.publishes:,.0f}"
    yield f"edges, sockets   {n:,} / {PER_EDGE:,} = {-(-n // PER_EDGE)}, so E = {found.edges}"
    yield f"receiving edges  E × (1 − (1 − 1/E)^{MEMBERS}) = {found.spread:.1f}"
    yield (
        f"CPU of edges     {found.publishes:,.0f} × ({cost.publish_us:.0f} + {cost.receive_us:.1f} × "
        f"{found.spread:.1f} + {cost.delivery_us:.2f} × {MEMBERS}) µs + {n:,} × {cost.connection_us:.2f} µs "
        f"= {found.edge_cores:.2f} cores"
    )
    yield f"                 {found.edge_cores:.2f} / {found.edges} edges ≤ {BUSY:g} of a core"
    yield (
        f"all back         {n:,} × {cost.connect_us:,.0f} µs / {BACK_WITHIN_S:.0f} s = {found.back_cores:.2f} cores "
        f"≤ {found.edges}"
    )
    yield (
        f"memory of each   {cost.edge_mib:.0f} MiB + ({n:,} × {cost.connection_kib:.1f} + {channels:,} × "
        f"{found.spread:.1f} × {cost.channel_kib:.1f}) KiB / {found.edges} = {found.edge_mib:,.0f} MiB ≤ {EDGE_MIB:.0f}"
    )
    yield (
        f"CPU of Redis     {found.publishes:,.0f} × ({cost.redis_publish_us:.0f} + {cost.redis_receive_us:.1f} × "
        f"{found.spread:.1f}) µs = {found.redis_cores:.2f} cores ≤ {REDIS_BUSY:g} of the one it has"
    )
    yield (
        f"memory of Redis  {cost.redis_mib:.0f} MiB + {channels:,} × ({KEPT} × {cost.kept_bytes:.0f} bytes + "
        f"{found.spread:.1f} × {cost.redis_channel_kib:.2f} KiB) = {found.redis_mib:,.0f} MiB"
    )
    yield "```"
