"""Counts of a run from its history, and the outcome as an object for programs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from verify import events as e
from verify.judge import KINDS, Verdict
from verify.measure import Figures, percentile

TIMES = {
    "ack": "acknowledged after",
    "delivery": "delivered after",
    "base": "delivered after, no fault on",
    "failed": "told that the outcome is unknown after",
    "catch_up": "caught up after coming back",
    "back": "subscribed again after a cut",
    "first_ack_after_heal": "first ack after a fault ended",
    "settled_after_heal": "last late delivery after a fault ended",
}
"""Members of `Figures`, and what each of them is."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of one run. `seed` is None if the history has none."""

    seed: int | None
    what: str
    subscribers: int
    channels: int
    publications: int
    cuts: int
    refused: int
    unknown: int
    faults: Sequence[e.Fault]


def summarize(history: Iterable[e.Event]) -> Summary:
    """Count the events of a history."""
    kept = list(history)
    events = Counter(type(event).__name__ for event in kept)
    started = next((event for event in kept if isinstance(event, e.Started)), None)
    return Summary(
        seed=started.seed if started else None,
        what=started.what if started else "",
        subscribers=len({event.client for event in kept if isinstance(event, e.Subscribed)}),
        channels=len({event.channel for event in kept if isinstance(event, e.Publishing)}),
        publications=events["Publishing"],
        cuts=events["Offline"],
        refused=events["Refused"],
        unknown=events["Unknown"],
        faults=[event for event in kept if isinstance(event, e.Fault)],
    )


def as_object(verdict: Verdict, figures: Figures, summary: Summary, *, where: str) -> dict[str, Any]:
    """Return verdict, counts and times for a program, with JSON types only.

    Times are seconds; a percentile of no values is null.
    """
    return {
        "passed": verdict.passed,
        "where": where,
        "seed": summary.seed,
        "what": summary.what,
        "subscribers": summary.subscribers,
        "channels": summary.channels,
        "publications": summary.publications,
        "acked": verdict.acked,
        "delivered": verdict.delivered,
        "cuts": summary.cuts,
        "recoveries": verdict.recoveries,
        "refused": summary.refused,
        "unknown": summary.unknown,
        "told": verdict.told,
        "counts": {kind: verdict.counts[kind] for kind in (*KINDS, *sorted(verdict.counts.keys() - set(KINDS)))},
        "findings": {kind: list(texts) for kind, texts in verdict.findings.items() if texts},
        "times": {name: _times(getattr(figures, name)) for name in TIMES},
        "faults": [{"name": fault.name, "on": fault.on, "at_s": round(fault.at, 3)} for fault in summary.faults],
    }


def _times(values: Sequence[float]) -> dict[str, Any]:
    found = {name: percentile(values, share) for name, share in (("p50_s", 0.5), ("p99_s", 0.99), ("most_s", 1.0))}
    return {"count": len(values)} | {name: None if math.isnan(one) else round(one, 6) for name, one in found.items()}
