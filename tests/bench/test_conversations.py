"""The measurement of conversations, on a small scale."""

from __future__ import annotations

import pytest

from bench.conversations import cost_table, measure_cost, measure_counts


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:] if line.startswith("|")]


def test_the_difference_is_that_of_each_turn() -> None:
    def turn(cpu_us: float) -> dict[str, float]:
        parts = {"cpu_s_edge-1": 0.002, "cpu_s_persistence": 0.003, "cpu_s_redis": 0.001}
        return {"cpu_us_per_publish": cpu_us, "acked": 100, "ack_p99_ms": 5.0, "refused": 0, **parts}

    found = {"plain": [turn(300), turn(400), turn(500)], "conversation": [turn(340), turn(430), turn(560)]}
    table = cost_table(found)
    assert [row[:5] for row in rows(table)] == [
        ["plain", "400.0", "20.0", "30.0", "10.0"],
        ["conversation", "430.0", "20.0", "30.0", "10.0"],
    ]
    assert "A message costs 40.0 µs more" in table


@pytest.mark.slow
async def test_both_kinds_cost_something() -> None:
    table = await measure_cost(clients=16, channels=4, turns=2, per_s=100, seconds=0.5)
    assert [row[0] for row in rows(table)] == ["plain", "conversation"]
    assert all(float(row[1]) > 0 for row in rows(table))
    assert all(row[6] == "0" for row in rows(table)), "some publications were refused"


@pytest.mark.slow
async def test_c26_a_message_costs_the_same_commands_and_calls_however_many_are_members() -> None:
    tables = []
    for _ in range(3):  # what a busy machine does meanwhile is counted, too; what members cost is there each time
        tables.append(await measure_counts(sizes=[2, 60], followers=20, messages=30, every_s=0.02, environment={}))
        plain, *others = [list(map(float, row[1:])) for row in rows(tables[-1])]
        assert plain[0] > 0
        assert plain[1] > 0
        pairs = [pair for row in others for pair in zip(row, others[0], strict=True)]
        if all(abs(value - first) <= max(0.15 * first, 0.5) for value, first in pairs):
            return
    pytest.fail("\n".join(tables))
