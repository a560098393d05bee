"""`python -m tests.swarm.results`: build/swarm-results.jsonl as a table.

Of runs of one name and seed, the last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import click

from tests.swarm.load import RESULTS

_WHAT = {
    "f02": "F02: SIGTERM of an edge",
    "f03": "F03: rolling update of every edge",
    "f11": "F11: DynamoDB fails 3 calls in 10, two persistence replicas",
    "f11-base": "the same without faults",
    "f17": "F17: the balancer dies, all come back at once",
    "scale": "edges 1, then 3, then 2",
    "rotate": "four secrets rotated in two steps",
}
_TIMES = ("delivery_p50_ms", "delivery_p99_ms", "ack_p99_ms", "catch_up_p99_ms", "back_p99_ms")
_HEAD = (
    "| what | clients | seeds | acked | delivered | recoveries | lost, twice, out of order | gap notifications |"
    " delivery p50 | delivery p99 | ack p99 | catch-up p99 | back p99 |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Counts are sums over the seeds; times are the worst of them, in ms."""
    last = {(row["name"], row["seed"]): row for row in rows}
    by_name: dict[str, list[dict[str, Any]]] = {}
    for (name, _), row in sorted(last.items()):
        by_name.setdefault(name, []).append(row)
    lines = list(_HEAD)
    for name, of_one in by_name.items():
        times = [max((row[time] for row in of_one if not math.isnan(row[time])), default=math.nan) for time in _TIMES]
        cells = [
            _WHAT.get(name, name.replace("kill-", "SIGKILL of ")),
            f"{of_one[0]['clients']:,}",
            ", ".join(str(row["seed"]) for row in of_one),
            *(f"{sum(row[count] for row in of_one):,}" for count in ("acked", "delivered", "recoveries")),
            str(
                sum(
                    sum(count for kind, count in row["findings"].items() if kind != "gap notification")
                    for row in of_one
                )
            ),
            str(sum(row["told"] for row in of_one)),
            *("–" if math.isnan(time) else f"{time:,.0f} ms" for time in times),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@click.command()
def main() -> None:
    """Print it."""
    click.echo(table(json.loads(line) for line in RESULTS.read_text().splitlines()))


if __name__ == "__main__":
    main()
