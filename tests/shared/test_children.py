"""What a parent needs for its children."""

from __future__ import annotations

import pytest

from services.shared.process.children import Backoff, describe_exit


def test_the_wait_has_a_bound_and_a_long_life_is_forgiven() -> None:
    backoff = Backoff(first_s=1.0, most_s=4.0, healthy_after_s=30.0)
    assert [backoff.delay_s(ran_s=0.1) for _ in range(5)] == [1.0, 2.0, 4.0, 4.0, 4.0]
    assert backoff.delay_s(ran_s=31.0) == 1.0


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with code 0"), (-9, "was killed by SIGKILL"), (-99, "was killed by signal 99")],
)
def test_an_exit_code_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
