"""The measurement of inboxes, on a small scale."""

from __future__ import annotations

import pytest

from bench.inbox import measure_hints, measure_lists


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return [[cell.strip().replace(",", "") for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.slow
async def test_inboxes_have_times_and_cost_something() -> None:
    table = await measure_lists(users=12, conversations=6, members=4, seconds=1.0, rounds=2)
    assert [row[0] for row in rows(table)] == ["the first time 4 at a time", "12 users a second"]
    assert all(float(row[1]) <= float(row[2]) for row in rows(table))
    assert all(float(value) > 0 for row in rows(table) for value in (row[1], row[3]))
    assert "Memory of an edge" in table


@pytest.mark.slow
async def test_all_hints_are_read_and_counted() -> None:
    table = await measure_hints(per_s=400, seconds=1.0, conversations=10, watchers=3, turns=1)
    nobody, watched = rows(table)
    assert nobody[0] != watched[0]
    assert all(float(row[1]) > 50 for row in (nobody, watched))
