"""The measurement of what is unread, on a small scale."""

from __future__ import annotations

import pytest

from bench.unread import measure


@pytest.mark.slow
async def test_each_row_has_an_answer_that_cost_something() -> None:
    table = await measure(members=3, unread=[0, 20], asking=2, answers=200)
    rows = [[cell.strip().replace(",", "") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["0", "20"]
    assert all(float(row[1]) >= max(map(float, row[2:5])) for row in rows)
    assert all(float(value) > 0 for row in rows for value in (row[1], row[2], row[5]))
