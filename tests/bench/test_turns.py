"""The comparison of commits in turns: its statistics."""

from __future__ import annotations

import random

from bench.turns import interval, table


def test_the_interval_holds_the_true_ratio_and_shrinks_with_more_turns() -> None:
    rng = random.Random(3)
    ratios = [1.05 * rng.lognormvariate(0, 0.08) for _ in range(400)]
    few, many = interval(ratios[:20]), interval(ratios)
    assert many[0] <= 1.05 <= many[1]
    assert many[1] - many[0] < few[1] - few[0]
    assert interval([1.0] * 5) == (1.0, 1.0)


def test_the_first_commit_is_one_and_ratios_are_those_of_the_same_turn() -> None:
    """The second turn was disturbed, for both alike."""
    page = table(["a1", "b2"], "µs", [[100.0, 103.0], [200.0, 206.0], [100.0, 103.0]])
    assert "| a1 | 100.0 | 1.000 | 1.000 to 1.000 |" in page
    assert "| b2 | 103.0 | 1.030 | 1.030 to 1.030 |" in page
