"""Several rounds as one figure, and points as a line."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Line:
    """y = base + slope × x."""

    base: float
    slope: float


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """The line with the least squares; flat where all x are the same."""
    if len({x for x, _ in points}) < 2:
        return Line(statistics.fmean(y for _, y in points), 0.0)
    found = statistics.linear_regression([x for x, _ in points], [y for _, y in points])
    return Line(found.intercept, found.slope)


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values), len(values))
