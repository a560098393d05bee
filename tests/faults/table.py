"""Results as a table for people.

One line per scenario, the worst of its seeds, and the seeds that failed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from tests.faults.scenario import Result, Scale
from verify import judge as j
from verify.measure import percentile
from verify.report import seconds

_HEAD = (
    "| id | fault | seeds | lost | twice | other | gap notifications | delivery p50 | delivery p99 | catch-up p99 |"
    " first ack after heal | back p99 | |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)


REST = "<!-- What follows, make verify-faults leaves as it is. -->"


def with_rest(page: str, before: str) -> str:
    """The page, and what stands below the mark in the one that was there before."""
    _, mark, rest = before.partition(REST)
    return f"{page}\n{mark}{rest}" if mark else page


def table(results: Sequence[Result], skipped: Sequence[tuple[str, str]], scale: Scale) -> str:
    """The whole page."""
    lines = [
        "# What faults cost: measured",
        "",
        "Made by `make verify-faults`, which starts a stack of processes for every line and seed, breaks it while",
        "clients chat and drop at random, and judges what they saw (`verify/`). What each fault is and what must hold",
        "stands in [reliability.md](reliability.md); how the judge is tested, in [testing.md](testing.md).",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores shared with the clients,"
        f" Linux {platform.release().split('-')[0]}, Python {platform.python_version()}."
        f" Scale {scale.share:g} of 1,000 subscribers and 100 publications/s.",
        "Lost, twice and told are sums over the seeds; times are medians (p50) and worst (the others) over the seeds.",
        "",
        *_HEAD,
    ]
    by_id: dict[str, list[Result]] = {}
    for result in results:
        by_id.setdefault(result.scenario.id, []).append(result)
    for of_one in by_id.values():
        lines.append(_row(of_one))
    remarks = [
        f"* {result.scenario.id}, seed {result.seed}: {'; '.join(result.remarks)}"
        for result in results
        if result.remarks
    ]
    failed = [
        f"* {result.scenario.id}, seed {result.seed}: {dict(result.outcome.verdict.counts)} {'; '.join(result.broken)}"
        for result in results
        if not result.passed
    ]
    if remarks:
        lines += ["", "## Seen besides", "", *remarks]
    if failed:
        lines += ["", "## Not as promised", "", *failed]
    if skipped:
        lines += ["", "## Not run here", "", *(f"* {name}: {why}" for name, why in skipped)]
    traffic = [(result.outcome.verdict.acked, result.outcome.verdict.delivered) for result in results]
    lines += [
        "",
        f"In all {sum(acked for acked, _ in traffic):,} publications acknowledged, "
        f"{sum(one for _, one in traffic):,} delivered, "
        f"{sum(result.outcome.verdict.recoveries for result in results):,} recoveries.",
    ]
    return "\n".join(lines) + "\n"


def _row(results: Sequence[Result]) -> str:
    scenario = results[0].scenario
    counts = [result.outcome.verdict.counts for result in results]
    other = sum(
        count for of_one in counts for kind, count in of_one.items() if kind not in (j.LOST, j.DUPLICATE, j.GAP)
    )
    cells = [
        scenario.id,
        scenario.title,
        ", ".join(str(result.seed) for result in results),
        str(sum(one[j.LOST] for one in counts)),
        str(sum(one[j.DUPLICATE] for one in counts)),
        str(other),
        str(sum(result.outcome.verdict.told for result in results)),
        seconds(percentile([percentile(one.outcome.figures.delivery, 0.5) for one in results], 0.5)),
        seconds(_worst(results, "delivery", 0.99)),
        seconds(_worst(results, "catch_up", 0.99)),
        seconds(_worst(results, "first_ack_after_heal", 1.0)),
        seconds(_worst(results, "back", 0.99)),
        "" if all(result.passed for result in results) else "**failed**",
    ]
    return "| " + " | ".join(cells) + " |"


def _worst(results: Sequence[Result], figure: str, share: float) -> float:
    found = [percentile(values, share) for one in results if (values := getattr(one.outcome.figures, figure))]
    return max(found, default=float("nan"))
