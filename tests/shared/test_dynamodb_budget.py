"""The budget of repetitions: a share of the calls, however long the trouble lasts."""

from __future__ import annotations

import pytest

from services.shared.dynamodb.budget import RetryBudget, retry_backoff


def test_a_new_budget_has_its_reserve_and_no_more() -> None:
    budget = RetryBudget(reserve=3)
    assert [budget.withdraw() for _ in range(5)] == [True, True, True, False, False]


def test_calls_without_trouble_do_not_save_up_beyond_the_reserve() -> None:
    budget = RetryBudget(reserve=3)
    for _ in range(1_000):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(1_000)) == 3


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_in_lasting_trouble_repetitions_stay_a_share_of_the_calls(share: float) -> None:
    budget, repeated = RetryBudget(share=share, reserve=10), 0
    for _ in range(1_000):
        budget.deposit()
        while budget.withdraw():
            repeated += 1
    assert 1_000 * share - 1 <= repeated <= 1_000 * share + 10


def test_pauses_are_spread_from_nothing_to_a_bound_that_doubles_up_to_400_ms() -> None:
    bounds_s = [0.025, 0.05, 0.1, 0.2, 0.4, 0.4]
    calls = [retry_backoff() for _ in range(500)]
    for bound_s in bounds_s:
        pauses_s = [backoff.next_s() for backoff in calls]
        assert 0.0 <= min(pauses_s) < 0.1 * bound_s
        assert 0.9 * bound_s < max(pauses_s) <= bound_s
