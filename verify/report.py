"""One page about one run, for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from verify import events as e
from verify.judge import KINDS, Verdict
from verify.measure import Figures, percentile

_ROWS = (
    ("acknowledged after", "ack"),
    ("delivered after", "delivery"),
    ("delivered after, no fault on", "base"),
    ("told that the outcome is unknown after", "failed"),
    ("caught up after coming back", "catch_up"),
    ("subscribed again after a cut", "back"),
    ("first ack after a fault ended", "first_ack_after_heal"),
    ("last late delivery after a fault ended", "settled_after_heal"),
)


def report(verdict: Verdict, figures: Figures, history: Iterable[e.Event], *, where: str) -> str:
    """Markdown: the verdict first, then what was counted and timed, then what was found."""
    kept = list(history)
    events = Counter(type(event).__name__ for event in kept)
    started = next((event for event in kept if isinstance(event, e.Started)), None)
    faults = [event for event in kept if isinstance(event, e.Fault)]
    clients = {event.client for event in kept if isinstance(event, e.Subscribed)}
    channels = {event.channel for event in kept if isinstance(event, e.Publishing)}
    lines = [
        f"# Delivery check: {'PASSED' if verdict.passed else 'FAILED'}",
        "",
        f"{where}; seed {started.seed if started else '?'}; {started.what if started else ''}",
        "",
        f"{len(clients)} subscribers on {len(channels)} channels, {events['Publishing']} publications, "
        f"{verdict.acked} acknowledged, {verdict.delivered} deliveries, {events['Offline']} cuts, "
        f"{verdict.recoveries} recoveries.",
        "",
        "| finding | count |",
        "|---|---|",
        *(f"| {kind} | {verdict.counts[kind]} |" for kind in KINDS),
        *(f"| {kind} | {count} |" for kind, count in sorted(verdict.counts.items()) if kind not in KINDS),
        "",
        f"Refused by name: {events['Refused']}. Outcome unknown at the end: {events['Unknown']}. "
        f"Gaps told in all: {verdict.told}.",
        "",
        "| time | count | p50 | p99 | most |",
        "|---|---|---|---|---|",
        *(_row(name, getattr(figures, member)) for name, member in _ROWS),
    ]
    if faults:
        lines += [
            "",
            "Faults: " + ", ".join(f"{one.name} {'on' if one.on else 'off'} {one.at:.1f} s" for one in faults),
        ]
    for kind, found in verdict.findings.items():
        lines += ["", f"## {kind}", "", *(f"* {text}" for text in found)]
    return "\n".join(lines) + "\n"


def _row(name: str, values: Sequence[float]) -> str:
    shown = [percentile(values, share) for share in (0.5, 0.99, 1.0)]
    return f"| {name} | {len(values)} | " + " | ".join(seconds(value) for value in shown) + " |"


def seconds(value: float) -> str:
    """In ms below 1 s."""
    if math.isnan(value):
        return "–"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
