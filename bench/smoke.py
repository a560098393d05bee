"""`make bench-smoke`: has the platform become slower?

It measures CPU per delivery and per publish, beside a floor in the same run.

The floor is a server that does as little as one can, driven by the same load in turns of about a second; what the
machine or its other users do to one, they do to the other. The median of the turns' ratios is held against
`baseline.json`.

Kinds of CPU differ in how much dearer Python is than the floor, which mostly makes system calls: one commit had 1.2
and 3.4 on one, 1.9 and 6.4 on another. So the baseline has a row per vendor; a CPU without one is held against the
strictest row.
"""

from __future__ import annotations

import asyncio
import platform as platform_module
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from bench.load.fleet import Fleet
from bench.measure.statistics import Spread, spread
from bench.measure.usage import usage
from bench.scenarios.steady import connect
from bench.servers.peers import FLOOR, running_peer
from bench.servers.platform import platform
from bench.servers.target import Target

_BASELINE = Path(__file__).with_name("baseline.json")
_TOLERANCE = 0.3
_TURNS = 5


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Ratios to the floor as they were when somebody last looked and agreed."""

    cpu_per_delivery: float
    cpu_per_publish: float


def vendor(cpuinfo: str) -> str:
    """Return whose CPU it is, such as "AuthenticAMD".

    `cpuinfo`: the text of `/proc/cpuinfo`; where it names nobody, the type of the machine counts.
    """
    found = re.search(r"^vendor_id\s*: (\S+)", cpuinfo, re.MULTILINE)
    return found[1] if found else platform_module.machine()


def baseline_of(vendor: str, rows: Mapping[str, Baseline]) -> Baseline:
    """Return the row of a vendor; without one the lowest of each figure."""
    return rows.get(vendor) or Baseline(
        cpu_per_delivery=min(row.cpu_per_delivery for row in rows.values()),
        cpu_per_publish=min(row.cpu_per_publish for row in rows.values()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """The load of both, in lockstep.

    On a schedule, a busy machine would have them work in larger portions.
    """

    name: str
    clients: int
    channels: Sequence[str]
    batch: int
    batches: int
    per_delivery: bool

    @property
    def members(self) -> int:
        return self.clients // len(self.channels)


_LOADS = (
    _Load(name="cpu_per_delivery", clients=300, channels=["live:smoke"], batch=2, batches=200, per_delivery=True),
    _Load(
        name="cpu_per_publish",
        clients=200,
        channels=[f"live:smoke-{number}" for number in range(50)],
        batch=50,
        batches=50,
        per_delivery=False,
    ),
)


class _Side:
    """One target under one load."""

    def __init__(self, fleet: Fleet, target: Target, load: _Load) -> None:
        self._fleet, self._target, self._load = fleet, target, load

    async def turn(self) -> float:
        """µs of CPU for each delivery, or each publish with its deliveries."""
        load = self._load
        await self._fleet.counters(reset=True)
        before = usage(self._target.pids())
        seen = await self._fleet.lockstep(batch=load.batch, batches=load.batches, members=load.members)
        return (
            usage(self._target.pids()).cpu_since(before) * 1e6 / (seen.delivered if load.per_delivery else seen.acked)
        )


async def measure(turns: int = _TURNS) -> dict[str, Spread]:
    """Ratios of the platform (one edge) to the floor, by the names of the baseline."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(platform(edges=1))
        floor = await stack.enter_async_context(running_peer(FLOOR, nodes=1))
        pairs: dict[str, tuple[_Side, _Side]] = {}
        for load in _LOADS:
            sides = []
            for each in (target, floor):
                fleet = await stack.enter_async_context(Fleet(1))
                await connect(fleet, each, load.clients, load.channels)
                sides.append(_Side(fleet, each, load))
                await sides[-1].turn()  # warm
            pairs[load.name] = (sides[0], sides[1])
        ratios: dict[str, list[float]] = {name: [] for name in pairs}
        for _ in range(turns):
            for name, (ours, theirs) in pairs.items():
                ratios[name].append(await ours.turn() / await theirs.turn())
        return {name: spread(found) for name, found in ratios.items()}


def verdict(name: str, found: Spread, baseline: float) -> tuple[bool, str]:
    """Whether the figure is good enough, and a line that says so."""
    change = found.median / baseline - 1
    text = (
        f"{name}: {found.median:.2f} × the floor ({found.low:.2f}–{found.high:.2f}), baseline {baseline:.2f}: "
        f"{change:+.0%}"
    )
    if change > _TOLERANCE:
        return False, f"{text}. That is slower by more than {_TOLERANCE:.0%}"
    if change < -_TOLERANCE:
        return True, f"{text}. Much faster: keep it so, with --write-baseline"
    return True, text


@click.command()
@click.option("--write-baseline", is_flag=True, help="What is measured now is the new baseline of this kind of CPU.")
@click.option("--turns", type=click.IntRange(1), default=_TURNS, show_default=True, help="Of about a second each.")
def main(write_baseline: bool, turns: int) -> None:
    """Compare with the baseline; exit code 1: slower."""
    found = asyncio.run(measure(turns))
    rows = msgspec.json.decode(_BASELINE.read_bytes(), type=dict[str, Baseline])
    here = vendor(Path("/proc/cpuinfo").read_text())
    if write_baseline:
        rows[here] = Baseline(**{name: round(each.median, 2) for name, each in found.items()})
        _BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    elif here not in rows:
        click.echo(f"{here}: this CPU has no baseline yet, the strictest counts")
    baseline = baseline_of(here, rows)
    verdicts = [verdict(name, each, getattr(baseline, name)) for name, each in found.items()]
    for _, text in verdicts:
        click.echo(text)
    sys.exit(0 if all(good for good, _ in verdicts) else 1)


if __name__ == "__main__":
    main()
