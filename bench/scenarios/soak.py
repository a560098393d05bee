"""Steady traffic while clients come and go; every process is measured repeatedly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from bench.load.commands import Report
from bench.load.fleet import Fleet
from bench.load.histogram import Histogram
from bench.measure.leaks import Finding, few, handles, memory, nothing_held, steady
from bench.measure.vitals import Vitals, at_rest, vitals
from bench.servers.target import Target

WINDOW_S = 10.0
_MINUTE_S = 60.0
_CLIENTS_OF_A_CHANNEL = 4
# One in five is `stored` and has presence; joins and leaves of the churn run through that as well.
CHANNELS = [*(f"live:soak-{number}" for number in range(80)), *(f"chat:soak-{number}" for number in range(20))]
CLIENTS = _CLIENTS_OF_A_CHANNEL * len(CHANNELS)
_VISITORS = 1_000_000  # their numbers begin here
_STAYS_S = 2.0
_VISITORS_AT_A_TIME = 1_000
_WARM_CLIENTS, _WARM_S = 400, 3.0
_SETTLES_S = 2.0
_EMPTY_WITHIN_S = 30.0
_ARRIVES_WITHIN_S = 15.0
_LOOK_EVERY_S = 0.05
_REFUSED_AT_MOST = 0.001  # a stall of the machine fills the bounded queues; who is refused is told

# Redis rewrites its log when that has doubled, and grows and shrinks meanwhile; SQLite's page cache is bounded.
_RSS_KIB_PER_MIN, _RSS_KIB_PER_MIN_REDIS = 256.0, 2_048.0


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """Of some time, in ms, from when publications were to be sent."""

    ack_p50: float
    ack_p99: float
    delivery_p50: float
    delivery_p99: float


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Some seconds, and all processes at their end."""

    at_s: float
    sent: int
    acked: int
    refused: int
    delivered: int
    ms: Latencies
    vitals: dict[str, Vitals]


class Soaked(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    per_s: float
    churn_per_s: float
    before: dict[str, Vitals]  # nobody there, everything used once
    windows: list[Window]
    minutes: list[Latencies]
    after: dict[str, Vitals]  # nobody there
    held: dict[str, int]
    lost: int
    visitors: int
    failed: int
    failure: str
    connect_p50_ms: float
    connect_p99_ms: float

    def sent(self) -> int:
        """Publications."""
        return sum(each.sent for each in self.windows)

    def delivered(self) -> int:
        """To residents."""
        return sum(each.delivered for each in self.windows)

    def findings(self) -> list[Finding]:
        """The verdict."""
        refused = sum(each.refused for each in self.windows)
        acked = sum(each.acked for each in self.windows)
        wanted = (self.sent() - refused) * _CLIENTS_OF_A_CHANNEL
        return [
            few("publications refused", refused, self.sent(), _REFUSED_AT_MOST),
            few("publications without an answer", self.sent() - acked - refused, self.sent()),
            few("deliveries to residents missing, or too many", abs(wanted - self.delivered()), wanted),
            few("connections of residents lost", self.lost, CLIENTS),
            few("visitors that could not come, or go", self.failed, self.visitors),
            *nothing_held(self.held),
            *memory(
                [(each.at_s, each.vitals) for each in self.windows],
                at_most={"redis": _RSS_KIB_PER_MIN_REDIS},
                otherwise=_RSS_KIB_PER_MIN,
                per="min",
                scale=60.0,
            ),
            *handles(self.before, self.after),
            *steady("acknowledgements", [each.ack_p99 for each in self.minutes]),
            *steady("deliveries", [each.delivery_p99 for each in self.minutes]),
        ]


async def soak(
    target: Target,
    residents: Fleet,
    visitors: Fleet,
    *,
    windows: int,
    window_s: float = WINDOW_S,
    per_s: float,
    churn_per_s: float,
    say: Callable[[Window], None],
) -> Soaked:
    """So many windows of so many seconds; `say` is told of each."""
    before = await _warm(target, residents)
    await residents.connect(CLIENTS, target.where, CHANNELS)
    await residents.counters(reset=True)
    seconds = windows * window_s
    async with asyncio.TaskGroup() as group:
        churning = group.create_task(
            visitors.churn(
                round(churn_per_s * seconds),
                target.where,
                CHANNELS,
                at_a_time=_VISITORS_AT_A_TIME,
                beginning=_VISITORS,
                per_s=churn_per_s,
                stays_s=_STAYS_S,
            )
        )
        found, minutes = await _windows(target, residents, windows, window_s, per_s, say)
        visited = await churning
    lost = (await residents.counters()).lost
    await residents.close()
    held = await at_rest(target, within_s=_EMPTY_WITHIN_S)
    await asyncio.sleep(_SETTLES_S)
    connected = Histogram(visited.connect_us)
    return Soaked(
        per_s=per_s,
        churn_per_s=churn_per_s,
        before=before,
        windows=found,
        minutes=minutes,
        after=await vitals(target),
        held=held,
        lost=lost,
        visitors=round(churn_per_s * seconds),
        failed=visited.failed + visited.lost,
        failure=visited.trouble,
        connect_p50_ms=connected.percentile(0.5) / 1000,
        connect_p99_ms=connected.percentile(0.99) / 1000,
    )


async def _warm(target: Target, fleet: Fleet) -> dict[str, Vitals]:
    """Everything is used once, all go, and this is what remains."""
    await fleet.connect(_WARM_CLIENTS, target.where, CHANNELS)
    await fleet.publish(_WARM_CLIENTS, _WARM_S)
    await fleet.close()
    await at_rest(target, within_s=_EMPTY_WITHIN_S)
    await asyncio.sleep(_SETTLES_S)
    return await vitals(target)


async def _windows(
    target: Target, fleet: Fleet, count: int, window_s: float, per_s: float, say: Callable[[Window], None]
) -> tuple[list[Window], list[Latencies]]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    found: list[Window] = []
    minutes: list[Latencies] = []
    acks, deliveries = Histogram(), Histogram()
    for number in range(1, count + 1):
        await fleet.publish(per_s, window_s)
        if number == count:
            await _all_arrived(fleet, found)
        seen = await fleet.counters(reset=True)
        found.append(_window(seen, loop.time() - began, await vitals(target)))
        say(found[-1])
        acks.merge(Histogram(seen.ack_us))
        deliveries.merge(Histogram(seen.delivery_us))
        if number * window_s >= (len(minutes) + 1) * _MINUTE_S or number == count:
            minutes.append(_latencies(acks, deliveries))
            acks, deliveries = Histogram(), Histogram()
    return found, minutes


async def _all_arrived(fleet: Fleet, before: Sequence[Window]) -> None:
    """Wait until the last window has all: a late delivery counts in the next window."""
    deadline = time.monotonic() + _ARRIVES_WITHIN_S
    while time.monotonic() < deadline:
        seen = await fleet.counters()
        sent = seen.sent + sum(each.sent for each in before)
        refused = seen.refused + sum(each.refused for each in before)
        acked = seen.acked + sum(each.acked for each in before)
        delivered = seen.delivered + sum(each.delivered for each in before)
        if acked + refused >= sent and delivered >= (sent - refused) * _CLIENTS_OF_A_CHANNEL:
            return
        await asyncio.sleep(_LOOK_EVERY_S)


def _window(seen: Report, at_s: float, now: dict[str, Vitals]) -> Window:
    return Window(
        at_s=round(at_s, 1),
        sent=seen.sent,
        acked=seen.acked,
        refused=seen.refused,
        delivered=seen.delivered,
        ms=_latencies(Histogram(seen.ack_us), Histogram(seen.delivery_us)),
        vitals=now,
    )


def _latencies(acks: Histogram, deliveries: Histogram) -> Latencies:
    return Latencies(
        ack_p50=acks.percentile(0.5) / 1000,
        ack_p99=acks.percentile(0.99) / 1000,
        delivery_p50=deliveries.percentile(0.5) / 1000,
        delivery_p99=deliveries.percentile(0.99) / 1000,
    )
