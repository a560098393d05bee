"""What bursts in conversations do to publishers, measured on a small scale."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from pathlib import Path

import pytest

import services
from bench.bursts import (
    Burst,
    Turn,
    Window,
    bursts_table,
    command_name,
    measure_deletes,
    measure_storm,
    on_schedule,
    quantile,
)
from services.shared.hotlog.scripts import ERASE


def test_ratios_are_those_of_each_turn() -> None:
    """The second turn was disturbed, with the burst and without alike."""
    burst = Burst(calls=1_000, took_s=2.0, p99_ms=30.0, events=1_000, rechecks=7)
    found = [
        Turn(Window(10.0, 5.0, 0, 1.0), Window(20.0, 5.5, 0, 2.0), burst),
        Turn(Window(100.0, 50.0, 0, 9.0), Window(200.0, 55.0, 3, 4.0), burst._replace(events=1_002, rechecks=2)),
        Turn(Window(12.0, 6.0, 0, 1.0), Window(24.0, 6.6, 0, 2.5), burst._replace(took_s=2.5)),
    ]
    table = bursts_table(found)
    assert "| alone | 12.0 | 6.0 | 9.0 | 0 |" in table
    assert "| with the burst | 24.0 | 6.6 | 4.0 | 3 |" in table
    assert "In the group the p99 is 2.00 × that of the base, 95 %: 2.00 to 2.00, of 3 turns." in table
    assert "In other groups the p99 is 1.10 × that of the base, 95 %: 1.10 to 1.10, of 3 turns." in table
    assert "1,000 calls in 2.00 s, their p99 30.0 ms, 1,002 events at most, 7 decided again at most" in table
    assert "blocked 2.50 ms at a time" in table


def test_the_command_that_took_longest_is_named() -> None:
    head = (Path(services.__file__ or "").parent / "persistence/chat/inbox/put_head.lua").read_bytes()
    sha = hashlib.sha1(head, usedforsecurity=False).hexdigest()
    assert command_name(b"XADD key 1-0 a b") == "XADD"
    assert command_name(f"EVALSHA {ERASE.sha} 2 a b".encode()) == "erase.lua"
    assert command_name(f"EVALSHA {sha} 2 a b".encode()) == "put_head.lua"
    assert command_name(b"EVALSHA 0123 2 a b") == "script 0123"


def test_a_quantile_is_one_of_the_values() -> None:
    values = list(map(float, range(100, 0, -1)))
    assert [quantile(values, fraction) for fraction in (0.01, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert quantile([3.0], 0.99) == 3.0


async def test_a_slow_caller_leaves_nothing_out_and_counts_from_when_calls_were_due() -> None:
    """The call that is stuck makes the next one of its caller late, and nobody else's."""
    made: list[int] = []
    others_are_done = asyncio.Event()

    async def call(number: int) -> None:
        if number == 0:
            await others_are_done.wait()
        made.append(number)
        if number == 5:
            await asyncio.sleep(0.05)
            others_are_done.set()

    took = await on_schedule([functools.partial(call, number) for number in range(6)], 2, per_s=1e6)
    assert made == [1, 3, 5, 0, 2, 4]
    assert all(ms >= 49 for ms in took[2:]), "whoever waited for a call that was stuck is late, too"


@pytest.mark.slow
async def test_c16_a_storm_of_joins_adds_an_event_for_each_and_refuses_no_publication() -> None:
    (turn,) = await measure_storm(joins=40, within_s=0.5, clients=8, channels=2, turns=1, per_s=40)
    assert turn.burst.events == turn.burst.calls == 40
    assert turn.base.refused == turn.load.refused == 0
    assert min(turn.base.inside_ms, turn.base.others_ms, turn.load.inside_ms, turn.load.others_ms) > 0


@pytest.mark.slow
async def test_c37_a_burst_of_deletes_refuses_no_publication_and_redis_says_how_long_it_was_blocked() -> None:
    (turn,) = await measure_deletes(
        deletes_per_s=100, seconds=0.5, authors=10, clients=8, channels=2, turns=1, per_s=40
    )
    assert turn.burst.events == turn.burst.calls == 50
    assert turn.base.refused == turn.load.refused == 0
    assert turn.load.blocked_ms > 0
