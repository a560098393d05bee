"""The budget of repetitions: a share of the calls, however long the trouble lasts."""

from __future__ import annotations

import random

import pytest

from services.shared.dynamodb.budget import BASE_S, CAP_S, RetryBudget, pause_s


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


def test_pauses_are_spread_over_a_range_that_doubles_to_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high if low == 0 else None)
    assert [pause_s(attempt) for attempt in range(7)] == [BASE_S * factor for factor in (1, 2, 4, 8, 16, 16, 16)]
    assert pause_s(100) == CAP_S
