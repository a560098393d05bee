"""Waiting for more: none when idle, more when busy, never longer than allowed."""

from __future__ import annotations

import pytest

from tests.support.linger import BusyThread

LONGEST_S = 0.01


@pytest.mark.parametrize(
    ("share", "wait_s"),
    [(0.0, 0.0), (0.1, 0.0), (0.2, LONGEST_S / 2), (0.3, LONGEST_S), (1.0, LONGEST_S)],
)
def test_the_busier_the_longer(share: float, wait_s: float) -> None:
    assert BusyThread(LONGEST_S).wait_after(share) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    ("in_the_longest_wait", "wait_s"),
    [(0.5, 0.0), (1.0, 0.0), (2.5, LONGEST_S / 2), (4.0, LONGEST_S), (100.0, LONGEST_S)],
)
def test_where_hardly_more_would_come_nobody_waits(in_the_longest_wait: float, wait_s: float) -> None:
    per_s = round(in_the_longest_wait / LONGEST_S)
    assert BusyThread(LONGEST_S).wait_after(1.0, per_s) == pytest.approx(wait_s)


def test_what_has_waited_long_enough_leaves_now() -> None:
    busy = BusyThread(LONGEST_S)
    busy.wait_after(1.0)
    busy.now += LONGEST_S * 0.75
    assert busy.linger.wait_s() == pytest.approx(LONGEST_S / 4)
    busy.now += LONGEST_S
    assert busy.linger.wait_s() == 0


def test_who_has_calmed_down_waits_no_more() -> None:
    busy = BusyThread(LONGEST_S)
    assert busy.wait_after(1.0) > 0
    assert busy.wait_after(0.1) == 0


def test_short_spells_are_not_judged_one_by_one() -> None:
    busy = BusyThread(LONGEST_S)
    busy.wait_after(0.1)
    for _ in range(4):
        busy.now += 0.01
        busy.used += 0.01
        busy.linger.began(1_000)
        assert busy.linger.wait_s() == 0
