"""What a publish costs each process, and the table of several commits."""

from __future__ import annotations

from bench.cost import Cost, Load, cost
from bench.steps import table


async def test_the_cost_of_a_load_is_told_for_every_process() -> None:
    load = Load([f"live:cost-{number}" for number in range(4)], 300, "acked", clients=16)
    found = await cost(load, edges=2, seconds=1)
    assert (found.count, found.refused) == (300, 0)
    assert set(found.us) == {"redis", "auth", "presence", "persistence", "edge-1", "edge-2"}
    assert sum(found.us["edge-1"]) > 0 < sum(found.us["edge-2"])


def test_costs_add_up() -> None:
    assert Cost("acked", 1, 0, {"redis": (1.0, 2.0), "edge-1": (4.0, 8.0)}).total() == 15.0


def test_a_table_of_commits_has_medians_and_what_is_left() -> None:
    costs = {("a1", "chat"): [100.0, 90.0, 130.0], ("b2", "chat"): [40.0, 50.0, 60.0]}
    assert table(["a1", "b2"], ["was", "is"], costs).splitlines()[2:] == [
        "| a1 | was | 100.0 (90.0 to 130.0), × 1.00 |",
        "| b2 | is | 50.0 (40.0 to 60.0), × 0.50 |",
    ]
