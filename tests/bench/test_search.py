"""Searches are measured and checked."""

from __future__ import annotations

import pytest

from bench.search import measure


@pytest.mark.slow
async def test_each_kind_of_query_is_measured() -> None:
    table = await measure(conversations=6, own=3, messages=1_200, searches=4)
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert len(rows) == 14
    assert all(0 < float(row[3]) <= float(row[5]) for row in rows)
