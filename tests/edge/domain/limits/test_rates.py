"""Rate limits in one process, beside a model that counts in fractions."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from services.edge.domain.limits.rates import Rates
from tests.support.buckets import Bucket

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_admitted_and_the_time_to_wait_are_those_of_a_bucket(seed: int) -> None:
    rng = random.Random(seed)
    rate, burst = rng.choice([1, 2, 5, 50, 1_000]), rng.choice([1, 3, 20])
    now = Fraction(1_000)
    rates = Rates(rate, burst, lambda: float(now), max_names=10)
    model = {name: Bucket(Fraction(rate), burst, now) for name in "ab"}
    for step in range(500):
        now += Fraction(rng.choice([0, 0, 1, 7, 1_000]), 1_000 * rate)
        name, count = rng.choice("ab"), rng.randint(1, burst + 1)
        waited, expected = rates.take(name, count), model[name].take(count, now)
        assert waited == pytest.approx(float(expected), abs=1e-6), (seed, step, rate, burst)
        assert (waited == 0) == (expected == 0), (seed, step, rate, burst)


def test_who_took_nothing_for_longest_is_forgotten() -> None:
    rates = Rates(1.0, 1, lambda: 0.0, max_names=2)
    assert rates.take("a") == 0
    assert rates.take("b") == 0
    assert rates.take("a") > 0  # refused: nothing was taken
    assert rates.take("c") == 0  # a is forgotten
    assert rates.take("b") > 0
    assert rates.take("a") == 0


def test_a_burst_below_one_is_one() -> None:
    rates = Rates(0.5, 0.5, lambda: 0.0, max_names=2)
    assert [rates.take("a"), rates.take("a")] == [0.0, pytest.approx(2.0)]
