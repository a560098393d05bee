"""`python -m bench.churn`: a million clients connect, subscribe and go, in chunks.

The exit code is 1 if anything grew.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import msgspec

from bench.load.fleet import Fleet
from bench.load.visits import VISITS
from bench.report.churn import ChurnResults, draw, markdown
from bench.report.results import origin
from bench.scenarios.churn import begin, chunk
from bench.servers.platform import platform

_RAW = Path("build") / "bench" / "churn.json"
_PLOTS = "plots"


@click.command()
@click.option("--connects", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option("--chunk", "of_one", type=click.IntRange(1), default=50_000, show_default=True, help="Connects in each.")
@click.option("--at-a-time", type=click.IntRange(2), default=200, show_default=True, help="Connections that are open.")
@click.option(
    "--kind", type=click.Choice(list(VISITS)), default=None, help="Of connections; none: clients that subscribe."
)
@click.option("--from", "done", type=click.IntRange(0), default=0, help="Go on behind so many chunks of the last run.")
@click.option("--out", type=click.Path(path_type=Path), default=_RAW.with_suffix(".md"), show_default=True)
@click.option("--redraw", is_flag=True, help="Measure nothing: write page and plot of the last raw results.")
def main(connects: int, of_one: int, at_a_time: int, kind: str | None, done: int, out: Path, redraw: bool) -> None:
    """Have clients come and go until so many have."""
    if redraw or done:
        results = msgspec.json.decode(_RAW.read_bytes(), type=ChurnResults)
    else:
        results = ChurnResults(origin=origin(["python -m bench.churn", *sys.argv[1:]]), kind=kind or "")
    if not redraw:
        results.cut(done)
        asyncio.run(_run(results, connects, of_one, at_a_time))
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(results, out.parent / _PLOTS)
    out.write_text(markdown(results, _PLOTS))
    findings = results.findings()
    for finding in findings:
        click.echo(f"{'ok  ' if finding.good else 'FAIL'} {finding.what}: {finding.found}, {finding.bound}")
    sys.exit(0 if all(finding.good for finding in findings) else 1)


async def _run(results: ChurnResults, connects: int, of_one: int, at_a_time: int) -> None:
    """Add chunks until the results have so many connects; write them after each chunk."""
    came = sum(each.visitors for each in results.chunks())
    async with platform(edges=2) as target, Fleet(2) as fleet:
        run = await begin(target, fleet, kind=results.kind)
        while came < connects:
            count = min(of_one, connects - came)
            found = await chunk(target, fleet, first=came, count=count, at_a_time=at_a_time, kind=results.kind)
            came += count
            if not run.chunks:
                results.runs.append(run)
            run.chunks.append(found)
            _RAW.parent.mkdir(parents=True, exist_ok=True)
            _RAW.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
            rss = ", ".join(f"{name} {each.rss_kib / 1024:.1f}" for name, each in found.vitals.items())
            click.echo(
                f"{len(results.chunks())}: {came:,} came, {found.took_s:.0f} s, {found.failed} failed; MiB: {rss}",
                err=True,
            )


if __name__ == "__main__":
    main()
