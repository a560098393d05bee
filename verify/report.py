"""Markdown report about one run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from verify.judge import KINDS, Verdict
from verify.measure import Figures, percentile
from verify.summary import TIMES, Summary


def report(verdict: Verdict, figures: Figures, summary: Summary, *, where: str) -> str:
    """Return the report: verdict, counts, times, then the findings."""
    lines = [
        f"# Delivery check: {'PASSED' if verdict.passed else 'FAILED'}",
        "",
        f"{where}; seed {'?' if summary.seed is None else summary.seed}; {summary.what}",
        "",
        f"{summary.subscribers} subscribers on {summary.channels} channels, {summary.publications} publications, "
        f"{verdict.acked} acknowledged, {verdict.delivered} deliveries, {summary.cuts} cuts, "
        f"{verdict.recoveries} recoveries.",
        "",
        "| finding | count |",
        "|---|---|",
        *(f"| {kind} | {verdict.counts[kind]} |" for kind in KINDS),
        *(f"| {kind} | {count} |" for kind, count in sorted(verdict.counts.items()) if kind not in KINDS),
        "",
        f"Refused by name: {summary.refused}. Outcome unknown at the end: {summary.unknown}. "
        f"Gap notifications in all: {verdict.told}.",
        "",
        "| time | count | p50 | p99 | most |",
        "|---|---|---|---|---|",
        *(_row(name, getattr(figures, member)) for member, name in TIMES.items()),
    ]
    if summary.faults:
        lines += [
            "",
            "Faults: " + ", ".join(f"{one.name} {'on' if one.on else 'off'} {one.at:.1f} s" for one in summary.faults),
        ]
    for kind, found in verdict.findings.items():
        lines += ["", f"## {kind}", "", *(f"* {text}" for text in found)]
    return "\n".join(lines) + "\n"


def _row(name: str, values: Sequence[float]) -> str:
    shown = [percentile(values, share) for share in (0.5, 0.99, 1.0)]
    return f"| {name} | {len(values)} | " + " | ".join(seconds(value) for value in shown) + " |"


def seconds(value: float) -> str:
    """Return a time as text: in milliseconds below 1 s."""
    if math.isnan(value):
        return "–"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
