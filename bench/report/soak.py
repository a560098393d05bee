"""The soak as a page with plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.report.endurance import head, processes, verdict
from bench.report.lines import draw_lines
from bench.report.results import Origin
from bench.scenarios.soak import CLIENTS, Soaked

_RSS, _P99 = "soak-rss.png", "soak-p99.png"


class SoakResults(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a run."""

    origin: Origin
    soaked: Soaked


def markdown(results: SoakResults, plots: str) -> str:
    """The page; `plots`: the folder of the plots, from there."""
    return "\n".join([*head("Soak", results.origin), *_body(results.soaked, plots)]) + "\n"


def _body(soaked: Soaked, plots: str) -> Iterator[str]:
    minutes = soaked.windows[-1].at_s / 60
    yield (
        f"{minutes:.1f} minutes: {soaked.sent():,} publications at {soaked.per_s:,.0f}/s, {soaked.delivered():,} "
        f"deliveries to {CLIENTS} residents, and {soaked.visitors:,} visitors at {soaked.churn_per_s:,.0f}/s, each "
        f"with a token and a subscription; half of them went with a reset. Connect and subscribe: p50 "
        f"{soaked.connect_p50_ms:.1f} ms, p99 {soaked.connect_p99_ms:.1f} ms."
    )
    yield ""
    if soaked.failure:
        yield f"The first visitor that failed: {soaked.failure}."
        yield ""
    yield from verdict(soaked.findings())
    yield "## Processes"
    yield ""
    half = soaked.windows[len(soaked.windows) // 2]
    yield from processes(
        {
            "before, nobody there": soaked.before,
            f"after {half.at_s:.0f} s": half.vitals,
            f"after {soaked.windows[-1].at_s:.0f} s": soaked.windows[-1].vitals,
            "all gone": soaked.after,
        }
    )
    yield f"![RSS over time]({plots}/{_RSS})"
    yield ""
    yield "## Latency by minute"
    yield ""
    yield "| minute | ack p50, ms | ack p99 | delivery p50 | delivery p99 |"
    yield "|---|---|---|---|---|"
    for number, each in enumerate(soaked.minutes, 1):
        cells = (each.ack_p50, each.ack_p99, each.delivery_p50, each.delivery_p99)
        yield f"| {number} | {' | '.join(f'{value:.1f}' for value in cells)} |"
    yield ""
    yield f"![p99 of each 10 s]({plots}/{_P99})"


def draw(soaked: Soaked, folder: Path) -> None:
    """RSS of every process, and p99 of every window, over time."""
    names = soaked.before
    rss = {name: [(each.at_s / 60, each.vitals[name].rss_kib / 1024) for each in soaked.windows] for name in names}
    draw_lines(folder / _RSS, "RSS of each process", rss, x="minutes", y="MiB")
    p99 = {
        "acknowledgements": [(each.at_s / 60, each.ms.ack_p99) for each in soaked.windows],
        "deliveries": [(each.at_s / 60, each.ms.delivery_p99) for each in soaked.windows],
    }
    draw_lines(folder / _P99, "p99 of each 10 s", p99, x="minutes", y="ms")
