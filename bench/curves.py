"""`make bench-curves`: how cost grows with subscribers, channels, edges and more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from bench.report.curves import CurveResults, draw, tables
from bench.report.marked import with_part
from bench.report.planning import costs, planning
from bench.report.results import origin
from bench.scenarios.curves import CURVES, MEMORY, Curves, Point, measure
from bench.servers.platform import platform

_RAW = Path("build") / "bench" / "curves.json"
_PLOTS = "plots"
_NAMES = (*(curve.name for curve in CURVES), *MEMORY)


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="All of it so often; medians.")
@click.option("--seconds", type=click.FloatRange(0.2), default=5.0, show_default=True, help="Traffic at each point.")
@click.option("--only", "names", multiple=True, type=click.Choice(_NAMES), help="Of these.")
@click.option("--out", type=click.Path(path_type=Path), default=_RAW.with_suffix(".md"), show_default=True)
@click.option("--redraw", is_flag=True, help="Measure nothing: write tables and plots of the last raw results.")
def main(rounds: int, seconds: float, names: tuple[str, ...], out: Path, redraw: bool) -> None:
    """Measure, and write the marked parts of a page; what stands around them stays."""
    if redraw:
        results = msgspec.json.decode(_RAW.read_bytes(), type=CurveResults)
    else:
        results = CurveResults(origin=origin(["python -m bench.curves", *sys.argv[1:]]), curves=Curves())
        for _ in range(rounds):
            asyncio.run(_round(results, names or _NAMES, seconds))
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(results.curves, out.parent / _PLOTS)
    page = with_part(out.read_text() if out.is_file() else "", "curves", tables(results, _PLOTS))
    if cost := costs(results.curves):
        page = with_part(page, "capacity", planning(cost))
    out.write_text(page)
    click.echo(f"{out}, {_RAW}", err=True)


async def _round(results: CurveResults, names: Sequence[str], seconds: float) -> None:
    """Add a round; all is written after each point."""

    def found(point: Point) -> None:
        results.curves.points.append(point)
        _RAW.parent.mkdir(parents=True, exist_ok=True)
        _RAW.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
        figures = ", ".join(f"{name} {value:,.2f}" for name, value in point.figures.items())
        click.echo(f"{point.curve} {point.x:,.0f}: {figures}", err=True)

    await measure(names, lambda edges: platform(edges=edges), seconds=seconds, found=found)


if __name__ == "__main__":
    main()
