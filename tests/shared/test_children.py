"""What a parent needs for its children."""

from __future__ import annotations

import pytest

from services.shared.process.children import describe_exit, restart_backoff


def test_a_process_is_started_again_after_delays_that_a_long_run_resets() -> None:
    backoff = restart_backoff()
    assert [backoff.next_s(29.9) for _ in range(8)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff.next_s(30.0) == 0.25


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with code 0"), (-9, "was killed by SIGKILL"), (-99, "was killed by signal 99")],
)
def test_an_exit_code_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
