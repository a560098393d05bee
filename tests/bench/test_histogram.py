"""Latencies are counted exactly, and folding costs little."""

from __future__ import annotations

import random

import pytest

from bench.load.histogram import Histogram


def test_percentiles_are_those_of_the_sorted_values() -> None:
    rng = random.Random(5)
    values = [rng.randrange(1, 50_000) for _ in range(2_001)]
    histogram = Histogram()
    histogram.record_all(values)
    ordered = sorted(values)
    assert histogram.total() == len(values)
    assert [histogram.percentile(fraction) for fraction in (0.5, 0.99, 1.0)] == [
        ordered[1000],
        ordered[1980],
        ordered[-1],
    ]


def test_the_percentile_of_one_slow_value_in_a_hundred_is_not_it() -> None:
    histogram = Histogram()
    histogram.record_all([10] * 99 + [5_000])
    assert (histogram.percentile(0.99), histogram.percentile(0.991)) == (10, 5_000)


def test_an_empty_histogram_says_zero() -> None:
    assert Histogram().percentile(0.99) == 0


@pytest.mark.parametrize("value", [0, 1, 255, 256, 511, 512, 1_000, 65_537, 123_456_789])
def test_a_folded_value_is_at_most_one_part_in_256_below(value: int) -> None:
    histogram = Histogram()
    histogram.record_all([value])
    (folded,) = histogram.folded().counts
    assert value - value / 256 <= folded <= value


def test_folding_keeps_every_count_and_few_values() -> None:
    histogram = Histogram()
    histogram.record_all(range(100_000))
    folded = histogram.folded()
    assert folded.total() == 100_000
    assert len(folded.counts) < 3_000


def test_merged_histograms_are_as_one() -> None:
    one, other = Histogram({5: 2}), Histogram({5: 1, 7: 1})
    one.merge(other)
    assert one.counts == {5: 3, 7: 1}
