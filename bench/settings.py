"""`python -m bench.settings "" NAME=VALUE …`: what a setting costs per publish.

The settings are measured in alternation, each round with every one of them. The first is what the others are compared
with; "" is the default of everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median

import click

from bench.cost import LOADS, cost
from verify.progress import steps


def table(settings: Sequence[str], costs: dict[str, list[float]]) -> str:
    """One row per setting, with the median of the rounds' ratios to the first one."""
    lines = ["| setting | server CPU, µs | ratio | each round, µs |", "|---|---:|---:|---|"]
    first = costs[settings[0]]
    for setting in settings:
        found = costs[setting]
        ratios = [now / then for now, then in zip(found, first, strict=True)]
        shown = ", ".join(f"{value:.1f}" for value in found)
        lines.append(
            f"| {setting or 'default'} | {median(found):.1f} ({min(found):.1f}–{max(found):.1f}) "
            f"| {median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) | {shown} |"
        )
    return "\n".join(lines) + "\n"


def _environment(setting: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in setting.split())


@click.command()
@click.argument("settings", nargs=-1, required=True)
@click.option("--load", type=click.Choice(list(LOADS)), default="chat", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=6.0, show_default=True)
@click.option("--edges", default=2, show_default=True)
def main(settings: Sequence[str], load: str, rounds: int, seconds: float, edges: int) -> None:
    """Print the CPU of all processes per publish with each setting, as a table."""
    costs: dict[str, list[float]] = {setting: [] for setting in settings}
    with steps(rounds * len(settings)) as progress:
        for number in range(rounds):
            for setting in settings if number % 2 == 0 else reversed(settings):
                progress.begin(setting or "default")
                found = asyncio.run(cost(LOADS[load], edges=edges, seconds=seconds, environment=_environment(setting)))
                costs[setting].append(found.total())
                progress.end(f"{setting or 'default'} {found.total():.2f}, {found.refused:,.0f} refused")
    click.echo(table(settings, costs))


if __name__ == "__main__":
    main()
