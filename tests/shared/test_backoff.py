"""Pauses between attempts: growth, limit, jitter, reset."""

from __future__ import annotations

import random

import pytest

from services.shared.process.backoff import Backoff

SEED = 20_240_611


def test_pauses_grow_by_the_factor_up_to_the_longest() -> None:
    doubling, tripling = Backoff(1.0, 10.0, jitter=0.0), Backoff(1.0, 10.0, factor=3.0, jitter=0.0)
    assert [doubling.next_s() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert [tripling.next_s() for _ in range(4)] == [1.0, 3.0, 9.0, 10.0]


def test_ten_thousand_failures_are_no_more_than_the_longest_pause() -> None:
    backoff = Backoff(0.05, 1.0, jitter=0.0)
    assert [backoff.next_s() for _ in range(10_000)][-1] == 1.0
    assert backoff.failures == 10_000


@pytest.mark.parametrize("jitter", [0.1, 0.5, 1.0])
def test_jitter_takes_up_to_its_share_and_the_whole_range_occurs(jitter: float) -> None:
    rng = random.Random(SEED)
    pauses_s = [Backoff(2.0, 2.0, jitter=jitter, rng=rng).next_s() for _ in range(2_000)]
    least_s = 2.0 * (1.0 - jitter)
    assert least_s <= min(pauses_s) < least_s + 0.02, f"seed {SEED}"
    assert 2.0 - 0.02 < max(pauses_s) <= 2.0, f"seed {SEED}"
    assert sum(pauses_s) / len(pauses_s) == pytest.approx((least_s + 2.0) / 2, abs=0.05), f"seed {SEED}"


def test_jitter_does_not_change_how_the_pauses_grow() -> None:
    backoff = Backoff(1.0, 8.0, jitter=1.0, rng=random.Random(SEED))
    bounds_s = [1.0, 2.0, 4.0, 8.0, 8.0]
    for pause_s, bound_s in zip([backoff.next_s() for _ in bounds_s], bounds_s, strict=True):
        assert 0.0 <= pause_s <= bound_s, f"seed {SEED}"
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_two_callers_that_failed_together_do_not_come_back_together() -> None:
    first, second = Backoff(1.0, 8.0), Backoff(1.0, 8.0)
    assert [first.next_s() for _ in range(8)] != [second.next_s() for _ in range(8)]


def test_the_same_seed_makes_the_same_pauses() -> None:
    runs = [Backoff(0.1, 5.0, rng=random.Random(SEED)) for _ in range(2)]
    assert [runs[0].next_s() for _ in range(20)] == [runs[1].next_s() for _ in range(20)]


def test_a_success_begins_with_the_first_pause_again() -> None:
    backoff = Backoff(1.0, 8.0, jitter=0.0)
    assert [backoff.next_s() for _ in range(3)] == [1.0, 2.0, 4.0]
    backoff.reset()
    assert backoff.failures == 0
    assert [backoff.next_s() for _ in range(2)] == [1.0, 2.0]


def test_an_attempt_that_lasted_long_enough_counts_as_a_success() -> None:
    backoff = Backoff(1.0, 8.0, jitter=0.0, healthy_after_s=30.0)
    assert [backoff.next_s(29.9) for _ in range(3)] == [1.0, 2.0, 4.0]
    assert backoff.next_s(30.0) == 1.0
    assert backoff.next_s() == 2.0


def test_without_such_a_time_no_attempt_counts_as_a_success_however_long_it_lasted() -> None:
    backoff = Backoff(1.0, 8.0, jitter=0.0)
    assert [backoff.next_s(1e9) for _ in range(3)] == [1.0, 2.0, 4.0]
