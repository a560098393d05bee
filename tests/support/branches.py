"""The gate of `make coverage`: branches of each service's domain that tests reach.

    python -m tests.support.branches build/coverage/coverage.json

Reads the JSON report of coverage.py. Prints a line for each domain, and the branches that no test took in domains below
the bound. The exit code is 1 if one is below it.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AT_LEAST_PERCENT = 90.0
_DOMAIN = re.compile(r"^services/(\w+)/(?:\w+/)?domain/")


@dataclass(slots=True)
class Reached:
    """Branches of one domain: how many there are, how many were taken, which were not."""

    branches: int = 0
    taken: int = 0
    missing: list[str] = field(default_factory=list)  # "file: line → line"

    @property
    def percent(self) -> float:
        """Share of branches taken; a domain without any has nothing to miss."""
        return 100.0 * self.taken / self.branches if self.branches else 100.0


def by_domain(report: Mapping[str, Any]) -> dict[str, Reached]:
    """Return the branches of each service's domain, from a JSON report.

    Raises:
        ValueError: no domain was measured.
    """
    found: dict[str, Reached] = defaultdict(Reached)
    for file, measured in report["files"].items():
        if match := _DOMAIN.match(file):
            reached = found[match[1]]
            reached.branches += measured["summary"]["num_branches"]
            reached.taken += measured["summary"]["covered_branches"]
            reached.missing += [f"{file}: {start} → {end}" for start, end in measured["missing_branches"]]
    if not sum(reached.branches for reached in found.values()):
        raise ValueError("the report has no branches of services/*/domain")
    return dict(sorted(found.items()))


def main(report: Path) -> int:
    low = False
    for service, reached in by_domain(json.loads(report.read_text(encoding="utf-8"))).items():
        print(f"services/{service}/domain: {reached.taken} of {reached.branches} branches, {reached.percent:.1f} %")
        if reached.percent < AT_LEAST_PERCENT:
            low = True
            print(*(f"  {line}" for line in reached.missing), sep="\n")
    if low:
        print(f"below {AT_LEAST_PERCENT:.0f} %: write tests for the branches above (docs/testing.md)")
    return int(low)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
