"""What is logged seldom is logged at once, then rarely; all is counted."""

from __future__ import annotations

import logging

import pytest

from services.shared.process.log_limit import RateLimitedLog


def test_a_flood_is_a_line_now_and_then_that_counts_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    seldom = RateLimitedLog(logging.getLogger("flooded"), logging.WARNING, every_s=10.0, clock=lambda: now)
    with caplog.at_level(logging.INFO):
        for _ in range(161):
            seldom("somebody sent nonsense", peer="10.0.0.1")
            now += 0.125
    lines = [record for record in caplog.records if record.name == "flooded"]
    assert [vars(line).get("left_out") for line in lines] == [None, 79, 79]
    assert {line.getMessage() for line in lines} == {"somebody sent nonsense"}
    assert {vars(line)["peer"] for line in lines} == {"10.0.0.1"}
