"""The churn as a page with a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.measure.leaks import Finding
from bench.report.endurance import head, processes, verdict
from bench.report.lines import draw_lines
from bench.report.results import Origin
from bench.scenarios.churn import Chunk, Run

_RSS = "churn-rss.png"


class ChurnResults(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a run, and of those that went on behind it."""

    origin: Origin
    kind: str = ""  # of the connections; none: clients that subscribe
    runs: list[Run] = []

    def chunks(self) -> list[Chunk]:
        """Of all runs."""
        return [chunk for run in self.runs for chunk in run.chunks]

    def cut(self, chunks: int) -> None:
        """Forget all but so many."""
        for run in self.runs:
            kept = run.chunks[:chunks]
            chunks -= len(kept)
            run.chunks[:] = kept
        self.runs[:] = [run for run in self.runs if run.chunks]

    def findings(self) -> list[Finding]:
        """Of every run."""
        return [finding for run in self.runs for finding in run.findings()]


def markdown(results: ChurnResults, plots: str) -> str:
    """The page; `plots`: the folder of the plot, from there."""
    return "\n".join([*head("Churn", results.origin), *_body(results, plots)]) + "\n"


def _body(results: ChurnResults, plots: str) -> Iterator[str]:
    chunks = results.chunks()
    took_s = sum(each.took_s for each in chunks)
    visitors = sum(each.visitors for each in chunks)
    who = (
        f"{visitors:,} connections of the kind `{results.kind}` came and went"
        if results.kind
        else f"{visitors:,} clients connected with a token, subscribed and went, one half of them with a reset"
    )
    yield (
        f"{who}, in {took_s / 60:.1f} minutes ({visitors / took_s:,.0f}/s), in {len(chunks)} chunks. Behind each, "
        "when nobody is there, every process is looked at."
    )
    if len(results.runs) > 1:
        yield f"The run was cut short; the platform was started {len(results.runs)} times, and each is judged alone."
    yield ""
    yield from verdict(results.findings())
    for failure in sorted({each.failure for each in chunks if each.failure}):
        yield f"A visitor that failed: {failure}."
        yield ""
    yield "## Processes"
    yield ""
    for run in results.runs:
        half = run.chunks[(len(run.chunks) - 1) // 2]
        yield from processes({"before": run.before, "half-way": half.vitals, "at the end": run.chunks[-1].vitals})
    yield f"![RSS by connects]({plots}/{_RSS})"
    yield ""
    yield "## Chunks"
    yield ""
    yield "| clients | s | per s | server CPU each, µs | connect p50, ms | p99 |"
    yield "|---|---|---|---|---|---|"
    for each in chunks:
        yield (
            f"| {each.visitors:,} | {each.took_s:.0f} | {each.visitors / each.took_s:,.0f} | {each.cpu_us:,.0f} "
            f"| {each.connect_p50_ms:.1f} | {each.connect_p99_ms:.1f} |"
        )


def draw(results: ChurnResults, folder: Path) -> None:
    """RSS of every process by connects."""
    series: dict[str, list[tuple[float, float]]] = {}
    so_far = 0
    for each in results.chunks():
        so_far += each.visitors
        for name, seen in each.vitals.items():
            series.setdefault(name, []).append((so_far / 1000, seen.rss_kib / 1024))
    draw_lines(folder / _RSS, "RSS of each process, nobody there", series, x="thousands of connects", y="MiB")
