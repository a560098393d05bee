"""`python -m bench.cost`: what a publish or a delivery costs each process.

It tells user code from the kernel, and can draw flame graphs.

Run as a file from another checkout (`python …/bench/cost.py`), it measures that checkout: see `bench/steps.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path.cwd()))

import click
import msgspec

from bench.load.fleet import Fleet
from bench.scenarios.steady import connect, publish, window
from bench.servers.platform import platform

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WARM_S = 2.0
_SAMPLES_PER_S = 250


class Load(msgspec.Struct, frozen=True):
    """Clients spread over channels; `each` is what the cost is divided by."""

    channels: list[str]
    per_s: float
    each: str
    clients: int = 1_000


LOADS = {
    "fan-out": Load(["live:fan-out"], 100, "delivered"),
    "chat": Load([f"live:chat-{number}" for number in range(250)], 3_000, "acked"),
    "durable": Load([f"chat:durable-{number}" for number in range(250)], 1_500, "acked"),
}


class Cost(msgspec.Struct):
    """µs of each process for one publish or delivery: (user, kernel)."""

    each: str
    count: float
    refused: float
    us: dict[str, tuple[float, float]]

    def total(self) -> float:
        """Of all processes."""
        return sum(map(sum, self.us.values()))


def _used(pids: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, pid in pids.items():
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(words[11]) / _TICKS_PER_S, int(words[12]) / _TICKS_PER_S)
    return found


async def cost(
    load: Load,
    *,
    edges: int,
    seconds: float,
    flame: tuple[str, Path] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Cost:
    """Measure a running load; `environment` has settings of the services.

    `flame` is the process that is sampled meanwhile, and the file of the picture.
    """
    members = load.clients // len(load.channels)
    async with platform(edges=edges, environment=environment) as target, Fleet(2) as fleet:
        await connect(fleet, target, load.clients, load.channels)
        await publish(fleet, members, load.per_s, _WARM_S)
        pids = target.pids()
        sampler = _sample(pids[flame[0]], flame[1], seconds) if flame else None
        before = _used(pids)
        figures = await window(fleet, target, members=members, per_s=load.per_s, seconds=seconds)
        after = _used(pids)
        if sampler is not None and flame is not None:
            await asyncio.to_thread(sampler.wait)
            _entitle(flame[1], f"{flame[0]} of {edges} edges, {load.per_s:,g} publications/s")
        await fleet.close()
    count = figures[load.each]
    us = {
        name: tuple(1e6 * (now - then) / count for now, then in zip(after[name], before[name], strict=True))
        for name in after
    }
    return Cost(load.each, count, figures["refused"], us)  # type: ignore[arg-type]  # pairs


def _sample(pid: int, picture: Path, seconds: float) -> subprocess.Popen[bytes]:
    picture.parent.mkdir(parents=True, exist_ok=True)
    program = str(Path(sys.executable).with_name("py-spy"))
    how = ["--nonblocking", "--rate", str(_SAMPLES_PER_S), "--duration", str(int(seconds))]
    return subprocess.Popen(
        [program, "record", *how, "--output", str(picture), "--pid", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _entitle(picture: Path, title: str) -> None:
    """In place of the sampler's own command line."""
    text = picture.read_text()
    picture.write_text(
        re.sub(r'(<text id="title"[^>]*>).*?(</text>)', rf"\g<1>{title}\g<2>", text, count=1, flags=re.DOTALL)
    )


@click.command()
@click.argument("name", type=click.Choice(list(LOADS)))
@click.option("--edges", default=2, show_default=True)
@click.option("--seconds", default=8.0, show_default=True)
@click.option("--flame", type=click.Path(path_type=Path), help="Sample a process with py-spy; SVG.")
@click.option("--process", default="edge-1", show_default=True, help="That one.")
@click.option("--json", "as_json", is_flag=True)
def main(name: str, edges: int, seconds: float, flame: Path | None, process: str, as_json: bool) -> None:
    """Publish at a steady rate and say what it costs, process by process."""
    found = asyncio.run(cost(LOADS[name], edges=edges, seconds=seconds, flame=(process, flame) if flame else None))
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    click.echo(f"µs per publication {found.each}; {found.count:,.0f} of them, {found.refused:,.0f} refused")
    for process_name, (user, kernel) in found.us.items():
        click.echo(f"{process_name:12} user {user:8.2f}   kernel {kernel:8.2f}")
    click.echo(f"{'all':12} {found.total():8.2f}")


if __name__ == "__main__":
    main()
