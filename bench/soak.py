"""`make bench-soak`: minutes of traffic while clients come and go.

The exit code is 1 if anything grew.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import msgspec

from bench.load.fleet import Fleet
from bench.report.results import origin
from bench.report.soak import SoakResults, draw, markdown
from bench.scenarios.soak import WINDOW_S, Soaked, Window, soak
from bench.servers.platform import platform

_RAW = Path("build") / "bench" / "soak.json"
_PLOTS = "plots"
_LONGEST_MIN = 45.0  # the load generator's clock ends after 54 minutes


@click.command()
@click.option("--minutes", type=click.FloatRange(0.3, _LONGEST_MIN), default=10.0, show_default=True)
@click.option("--per-s", default=1_800.0, show_default=True, help="Publications.")
@click.option("--churn-per-s", default=40.0, show_default=True, help="Clients that come and go.")
@click.option("--out", type=click.Path(path_type=Path), default=_RAW.with_suffix(".md"), show_default=True)
@click.option("--redraw", is_flag=True, help="Measure nothing: write page and plots of the last raw results.")
def main(minutes: float, per_s: float, churn_per_s: float, out: Path, redraw: bool) -> None:
    """Soak the platform, with two edges."""
    if redraw:
        results = msgspec.json.decode(_RAW.read_bytes(), type=SoakResults)
    else:
        ours = origin(["python -m bench.soak", *sys.argv[1:]])
        results = SoakResults(origin=ours, soaked=asyncio.run(_run(round(minutes * 60 / WINDOW_S), per_s, churn_per_s)))
        _RAW.parent.mkdir(parents=True, exist_ok=True)
        _RAW.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(results.soaked, out.parent / _PLOTS)
    out.write_text(markdown(results, _PLOTS))
    findings = results.soaked.findings()
    for finding in findings:
        click.echo(f"{'ok  ' if finding.good else 'FAIL'} {finding.what}: {finding.found}, {finding.bound}")
    sys.exit(0 if all(finding.good for finding in findings) else 1)


async def _run(windows: int, per_s: float, churn_per_s: float) -> Soaked:
    async with platform(edges=2) as target, Fleet(1) as residents, Fleet(1) as visitors:
        return await soak(target, residents, visitors, windows=windows, per_s=per_s, churn_per_s=churn_per_s, say=_say)


def _say(window: Window) -> None:
    rss = ", ".join(f"{name} {each.rss_kib / 1024:.1f}" for name, each in window.vitals.items())
    click.echo(f"{window.at_s:.0f} s: {window.acked:,} acked, p99 {window.ms.ack_p99:.1f} ms; MiB: {rss}", err=True)


if __name__ == "__main__":
    main()
