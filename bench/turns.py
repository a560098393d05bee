"""`python -m bench.turns COMMIT "COMMIT NAME=VALUE"`: tells small differences.

They are those between commits, or between settings of one.

It does so on a machine that others use too.

**Purpose.** `bench.steps` measures one commit after the other, for seconds each. What else the machine does differs
from one measurement to the next by more than the few percent that are asked for.

**Rules.** The platforms of all commits run at the same time, each with its clients. They get load in short turns, in
random order, and only one at a time: what disturbs one disturbs the other. What counts is the ratio of each turn to
that of the first commit, its median, and how far the median would differ if the turns were drawn again (95 %).

**Trade-off.** More memory, and caches that are shared with the others' idle work: compare ratios, not microseconds.

Run as a file from another checkout, it is the side that measures that checkout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path.cwd()))

import click
import msgspec

from bench.load.fleet import Fleet
from bench.scenarios.steady import connect, publish, window
from bench.servers.platform import platform

_HERE = Path(__file__).resolve().parent
_WARM_S = 3.0
_CLIENTS = 1_000
_CHANNELS = {
    "fan-out": ["live:fan-out"],
    "chat": [f"live:chat-{number}" for number in range(250)],
    "stored": [f"chat:stored-{number}" for number in range(250)],
}
_PER = {"fan-out": "cpu_us_per_delivery", "chat": "cpu_us_per_publish", "stored": "cpu_us_per_publish"}
_DRAWS = 2_000
_SEED = 1

Figures = Mapping[str, float]


async def _side(load: str, per_s: float, seconds: float, environment: Mapping[str, str]) -> None:
    """Run the platform of this checkout: a turn for each line on stdin.

    The figures of each go to stdout.
    """
    channels = _CHANNELS[load]
    members = _CLIENTS // len(channels)
    async with platform(edges=2, environment=environment) as target, Fleet(2) as fleet:
        await connect(fleet, target, _CLIENTS, channels)
        await publish(fleet, members, per_s, _WARM_S)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            figures = await window(fleet, target, members=members, per_s=per_s, seconds=seconds)
            print(msgspec.json.encode(figures).decode(), flush=True)


@contextlib.contextmanager
def _sides(checkouts: Mapping[Path, Sequence[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process for each checkout, with its arguments and its platform."""
    sides = [
        subprocess.Popen(
            [sys.executable, _HERE / "turns.py", *arguments],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for checkout, arguments in checkouts.items()
    ]
    try:
        for side in sides:
            _line_of(side)
        yield sides
    finally:
        for side in sides:
            assert side.stdin is not None
            side.stdin.close()
        for side in sides:
            side.wait()


def _line_of(side: subprocess.Popen[str]) -> str:
    assert side.stdout is not None
    line = side.stdout.readline()
    if not line:
        raise click.ClickException("a side has ended; what it said is above")
    return line


def _turn(side: subprocess.Popen[str]) -> Figures:
    assert side.stdin is not None
    side.stdin.write("\n")
    side.stdin.flush()
    return msgspec.json.decode(_line_of(side), type=dict[str, float])


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Where 95 % of the medians lie if the ratios are drawn again (bootstrap)."""
    rng = random.Random(_SEED)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(_DRAWS))
    return medians[_DRAWS // 40], medians[-_DRAWS // 40 - 1]


def table(commits: Sequence[str], unit: str, turns: Sequence[Sequence[float]]) -> str:
    """A row for each commit.

    `turns` has the figures of each turn, in the order of the commits.
    """
    lines = [f"| commit | {unit}, median | ratio, median of {len(turns)} turns | 95 % |", "|---|---:|---:|---|"]
    for place, commit in enumerate(commits):
        ratios = [figures[place] / figures[0] for figures in turns]
        low, high = interval(ratios)
        us = median(figures[place] for figures in turns)
        lines.append(f"| {commit} | {us:.1f} | {median(ratios):.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("commits", nargs=-1)
@click.option("--load", type=click.Choice(list(_CHANNELS)), default="chat", show_default=True)
@click.option("--turns", default=60, show_default=True)
@click.option("--per-s", default=2_000.0, show_default=True, help="Publications.")
@click.option("--seconds", default=1.0, show_default=True, help="Of a turn.")
@click.option("--setting", "settings", multiple=True, hidden=True, help="NAME=VALUE, of the side that is measured.")
def main(commits: Sequence[str], load: str, turns: int, per_s: float, seconds: float, settings: Sequence[str]) -> None:
    """Compare the server CPU of commits, the first of which is 1.

    A commit may have settings: "COMMIT NAME=VALUE NAME=VALUE".
    """
    if not commits:
        asyncio.run(_side(load, per_s, seconds, dict(one.split("=", 1) for one in settings)))
        return
    rng = random.Random(_SEED)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        checkouts = [Path(folder) / f"{number}" for number in range(len(commits))]
        try:
            for commit, checkout in zip(commits, checkouts, strict=True):
                add = ["git", "worktree", "add", "-q", "--detach", str(checkout), commit.split()[0]]
                subprocess.run(add, cwd=_HERE, check=True)
            common = ["--load", load, "--per-s", str(per_s), "--seconds", str(seconds)]
            own = [[part for one in commit.split()[1:] for part in ("--setting", one)] for commit in commits]
            with _sides({checkout: common + more for checkout, more in zip(checkouts, own, strict=True)}) as sides:
                for _ in range(turns):
                    figures = dict.fromkeys(range(len(sides)), 0.0)
                    for place in rng.sample(list(figures), len(sides)):
                        figures[place] = _turn(sides[place])[_PER[load]]
                    found.append(list(figures.values()))
        finally:
            for checkout in checkouts:
                remove = ["git", "worktree", "remove", "--force", str(checkout)]
                subprocess.run(remove, cwd=_HERE, capture_output=True, check=False)
    click.echo(table(commits, _PER[load].replace("_", " "), found))


if __name__ == "__main__":
    main()
