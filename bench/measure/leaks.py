"""Whether anything grows: repeated measurements, compared with bounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

from bench.measure.statistics import fitted
from bench.measure.vitals import Vitals

Seen = Sequence[tuple[float, Mapping[str, Vitals]]]  # (when, or after how much; every process then)

_MORE_FDS, _MORE_THREADS, _MORE_TASKS = 4, 4, 4  # connections between services that are made when first needed
_P99_GROWS_BY, _P99_STEP_MS = 1.5, 5.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was to hold, and whether it did."""

    what: str
    found: str
    bound: str
    good: bool


def memory(
    seen: Seen, *, at_most: Mapping[str, float], otherwise: float, per: str, scale: float = 1.0
) -> list[Finding]:
    """Compare the slope of each process's RSS over the second half with bounds.

    In the first half caches and histories fill.

    Args:
        seen: In order.
        at_most: Bounds in KiB for each of `per`, by process.
        otherwise: That of the other processes.
        per: What a slope is told by, such as `min`.
        scale: How many units of x one of them is.
    """
    found = []
    late = seen[len(seen) // 2 :]
    for name in seen[0][1]:
        slope = fitted([(x, float(each[name].rss_kib)) for x, each in late]).slope * scale
        bound = at_most.get(name, otherwise)
        first, last = (each[name].rss_kib for _, each in (late[0], late[-1]))
        found.append(
            Finding(
                what=f"RSS of {name}, second half",
                found=f"{slope:+,.0f} KiB/{per} ({first:,} to {last:,} KiB)",
                bound=f"≤ {bound:,.0f} KiB/{per}",
                good=slope <= bound,
            )
        )
    return found


def handles(before: Mapping[str, Vitals], after: Mapping[str, Vitals]) -> list[Finding]:
    """Open files, threads and tasks, with nobody there before and nobody left."""
    found = []
    for name, then in before.items():
        now = after[name]
        counts = [("fds", then.fds, now.fds, _MORE_FDS), ("threads", then.threads, now.threads, _MORE_THREADS)]
        if then.tasks is not None and now.tasks is not None:
            counts.append(("tasks", then.tasks, now.tasks, _MORE_TASKS))
        found += [
            Finding(what=f"{kind} of {name}", found=f"{old} to {new}", bound=f"≤ +{more}", good=new <= old + more)
            for kind, old, new, more in counts
        ]
    return found


def nothing_held(held: Mapping[str, int]) -> list[Finding]:
    """What edges hold when all clients are gone."""
    left = {name: count for name, count in held.items() if count}
    text = ", ".join(f"{name} {count:,}" for name, count in left.items()) or "nothing"
    return [Finding(what="held by edges for clients that are gone", found=text, bound="nothing", good=not left)]


def steady(what: str, p99_ms: Sequence[float]) -> list[Finding]:
    """Compare the median latency of the second half with that of the first.

    Medians, because a busy machine is slow now and then.
    """
    if len(p99_ms) < 2:
        return []
    early, late = p99_ms[: len(p99_ms) // 2], p99_ms[len(p99_ms) // 2 :]
    then, now = statistics.median(early), statistics.median(late)
    return [
        Finding(
            what=f"p99 of {what}, median minute, first half and second",
            found=f"{then:.1f} and {now:.1f} ms",
            bound=f"≤ {_P99_GROWS_BY:g} × + {_P99_STEP_MS:g} ms",
            good=now <= then * _P99_GROWS_BY + _P99_STEP_MS,
        )
    ]


def few(what: str, count: int, of: int, share: float = 0.0) -> Finding:
    """What must not happen, or only so often."""
    bound = f"≤ {share:.1%}" if share else "0"
    return Finding(what=what, found=f"{count:,} of {of:,}", bound=bound, good=count <= of * share)
