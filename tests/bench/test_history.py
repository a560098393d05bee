"""Pages of a long history are measured and checked."""

from __future__ import annotations

import pytest

from bench.history import measure


@pytest.mark.slow
async def test_each_kind_of_page_is_measured() -> None:
    table = await measure(publications=500, size=20, page=10, pages=5)
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["newest", "from anywhere, forwards", "from anywhere, backwards"]
    assert all(0 < float(row[1]) <= float(row[3]) for row in rows)
