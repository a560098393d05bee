"""Latencies, counted by the microsecond; rounded to 0.4 % when sent or kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate

_PRECISION_BITS = 8  # a folded value is at most 1/256 below the exact one


class Histogram:
    """How often each value (µs, whole, not negative) came."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def record_all(self, values: Iterable[int]) -> None:
        """Count values; the counting runs in C."""
        self.counts.update(values)

    def merge(self, other: Histogram) -> None:
        """Count what another one counted."""
        self.counts.update(other.counts)

    def total(self) -> int:
        """How many values."""
        return self.counts.total()

    def percentile(self, fraction: float) -> int:
        """Return the smallest value that `fraction` of all do not exceed; 0 if empty."""
        wanted = fraction * self.total()
        values = sorted(self.counts)
        for value, so_far in zip(values, accumulate(self.counts[value] for value in values), strict=True):
            if so_far >= wanted:
                return value
        return 0

    def folded(self) -> Histogram:
        """The same with few distinct values: buckets as wide as 1/256 of their values."""
        small: Counter[int] = Counter()
        for value, count in self.counts.items():
            small[_floor(value)] += count
        return Histogram(small)


def _floor(value: int) -> int:
    """The lower end of the value's bucket."""
    shift = max(0, value.bit_length() - _PRECISION_BITS - 1)
    return value >> shift << shift
