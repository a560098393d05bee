"""Rounds of writing: at once while writing is cheap, else in larger portions.

It is not cheap where it takes much of the loop's time.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.edge.transport.metrics import TransportCounters
from services.edge.transport.outbox import Flusher, Outbox

MAX_INTERVAL_S = 0.02


class Loop:
    """Keeps what is to be called, and when; the test calls it."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Any]] = []

    def call_soon(self, call: Any) -> None:
        self.calls.append((0.0, call))

    def call_later(self, delay_s: float, call: Any) -> None:
        self.calls.append((delay_s, call))


class Wire:
    """A transport on which a write takes its time."""

    def __init__(self, now: list[float], write_s: float) -> None:
        self.now, self.write_s = now, write_s
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.now[0] += self.write_s
        self.writes.append(data)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None: ...


class Box(Outbox):
    """One that has nothing to say about it."""

    def outbox_empty(self) -> None: ...


class Rounds:
    """A flusher with outboxes that all get the same."""

    def __init__(self, outboxes: int, write_s: float, max_interval_s: float = MAX_INTERVAL_S) -> None:
        self.now = [100.0]
        self.loop = Loop()
        self.flusher = Flusher(
            cast(asyncio.AbstractEventLoop, self.loop),
            TransportCounters(),
            max_outbox_bytes=1 << 20,
            max_total_bytes=1 << 24,
            max_interval_s=max_interval_s,
            clock=lambda: self.now[0],
        )
        self.wires = [Wire(self.now, write_s) for _ in range(outboxes)]
        self.boxes = [Box(cast(Any, wire), self.flusher) for wire in self.wires]

    def to_all(self, frame: bytes) -> None:
        for box in self.boxes:
            box.put(frame)

    def next_round(self) -> float:
        """Run what is due next; how long it was told to wait."""
        waited, call = self.loop.calls.pop(0)
        self.now[0] += waited
        call()
        return waited


def test_what_is_cheap_to_write_waits_for_nothing() -> None:
    rounds = Rounds(outboxes=10, write_s=6e-6)
    for number in range(5):
        rounds.to_all(b"%d" % number)
        assert rounds.next_round() == 0
    assert not rounds.loop.calls
    assert all(wire.writes == [b"0", b"1", b"2", b"3", b"4"] for wire in rounds.wires)


def test_after_a_round_that_took_long_more_leaves_with_each_write() -> None:
    rounds = Rounds(outboxes=100, write_s=10e-6)  # 1 ms
    rounds.to_all(b"a")
    assert rounds.next_round() == 0
    rounds.to_all(b"b")
    rounds.now[0] += 0.005
    rounds.to_all(b"c")
    assert rounds.next_round() == pytest.approx(0.008)
    assert all(wire.writes == [b"a", b"bc"] for wire in rounds.wires)


def test_what_comes_after_the_rest_leaves_at_once() -> None:
    rounds = Rounds(outboxes=100, write_s=10e-6)
    rounds.to_all(b"a")
    rounds.next_round()
    rounds.now[0] += 0.00755
    rounds.to_all(b"b")
    assert rounds.next_round() == 0


def test_rounds_begin_no_farther_apart_than_allowed() -> None:
    rounds = Rounds(outboxes=900, write_s=10e-6)  # 9 ms
    rounds.to_all(b"a")
    rounds.next_round()
    rounds.to_all(b"b")
    assert rounds.next_round() == pytest.approx(MAX_INTERVAL_S - 0.009)


@pytest.mark.parametrize(("round_s", "rest_s"), [(0.0099, 0.0101), (0.0126, 0.0126), (0.018, 0.018), (0.09, 0.02)])
def test_writing_takes_half_of_the_time_at_most_until_no_rest_may_be_so_long(round_s: float, rest_s: float) -> None:
    rounds = Rounds(outboxes=900, write_s=round_s / 900)
    rounds.to_all(b"a")
    rounds.next_round()
    rounds.to_all(b"b")
    assert rounds.next_round() == pytest.approx(rest_s)


def test_what_others_do_between_the_turns_of_a_round_counts_for_its_beginning() -> None:
    rounds = Rounds(outboxes=1_500, write_s=1e-6)
    rounds.to_all(b"a")
    rounds.next_round()
    rounds.now[0] += 0.015
    rounds.next_round()
    rounds.to_all(b"b")
    assert rounds.next_round() == pytest.approx(MAX_INTERVAL_S - 0.0165)


def test_a_round_of_several_turns_of_the_loop_counts_as_one() -> None:
    rounds = Rounds(outboxes=1_500, write_s=1e-6)
    rounds.to_all(b"a")
    assert [rounds.next_round(), rounds.next_round()] == [0, 0]
    rounds.to_all(b"b")
    assert rounds.next_round() == pytest.approx(8 * 0.0015)


def test_there_is_no_rest_where_none_is_allowed() -> None:
    rounds = Rounds(outboxes=900, write_s=10e-6, max_interval_s=0)
    rounds.to_all(b"a")
    rounds.next_round()
    rounds.to_all(b"b")
    assert rounds.next_round() == 0
