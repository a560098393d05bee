"""Curves become costs and costs a plan; pages keep what people wrote in them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.measure.usage import Usage
from bench.report.curves import CurveResults, tables
from bench.report.marked import with_part
from bench.report.planning import BACK_WITHIN_S, BUSY, EDGE_MIB, SOCKETS, Costs, costs, plan, planning, receiving_edges
from bench.report.results import Origin
from bench.scenarios.curves import CURVES, MEMORY, Curves, Point, beyond_silence, measure
from bench.servers.platform import platform

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
ORIGIN = Origin(command="python -m bench.curves", date="2026-01-01", machine={"cores": "2"}, versions={"Python": "3"})
CHEAP = Costs(
    publish_us=0,
    receive_us=0,
    delivery_us=0,
    redis_publish_us=0,
    redis_receive_us=0,
    connect_us=0,
    connection_us=0,
    edge_mib=0,
    connection_kib=0,
    channel_kib=0,
    redis_mib=0,
    redis_channel_kib=0,
    kept_bytes=0,
)


def but(**changed: float) -> Costs:
    """Free but for these."""
    return Costs(**{name: changed.get(name, 0.0) for name in CHEAP.__dataclass_fields__})


def traffic(curve: str, x: float, edges_us: float, redis_us: float = 0.0) -> Point:
    figures = {"edges_us_per_publish": edges_us, "redis_us_per_publish": redis_us}
    return Point(curve=curve, x=x, figures=figures | {"cpu_us_per_publish": edges_us, "cpu_us_per_delivery": 1.0})


def measured() -> list[Point]:
    """A publication takes 100 µs, and more for each edge and each member.

    20 µs for each edge that receives it, 3 for each member; in Redis 40 and 5.
    """
    return [
        *(traffic("members", members, 100 + 2 * 20 + 3 * members) for members in (1, 4, 16, 64)),
        *(traffic("edges, chat", edges, 100 + 20 * edges + 3 * 6, 40 + 5 * edges) for edges in (1, 2, 3)),
        Point(
            curve="connections",
            x=0,
            figures={
                "cpu_us_per_connect": 400.0,
                "cpu_us_per_connection_s": 2.0,
                "edge_rss_kib": 80 * 1024,
                "redis_rss_kib": 8 * 1024,
                "kib_per_connection": 4.0,
            },
        ),
        Point(
            curve="channels of their own",
            x=0,
            figures={"kib_per_connection_and_channel": 6.0, "redis_kib_per_channel_received": 0.5},
        ),
        Point(curve="kept publications", x=0, figures={"redis_bytes_per_kept": 400.0}),
    ]


def test_costs_are_taken_apart_again() -> None:
    found = costs(Curves(points=measured()))
    assert found is not None
    assert (found.publish_us, found.receive_us, found.delivery_us) == pytest.approx((100, 20, 3))
    assert (found.redis_publish_us, found.redis_receive_us) == pytest.approx((40, 5))
    assert (found.connection_kib, found.channel_kib) == (4, 2)


@pytest.mark.parametrize("missing", ["members", "edges, chat", *MEMORY])
def test_without_all_of_the_measurements_nothing_is_planned(missing: str) -> None:
    assert costs(Curves(points=[point for point in measured() if point.curve != missing])) is None


def test_rounds_count_by_their_median() -> None:
    points = [*measured(), *(Point(curve=p.curve, x=p.x, figures=dict.fromkeys(p.figures, 9e9)) for p in measured())]
    assert costs(Curves(points=[*points, *measured()])) == costs(Curves(points=measured()))


def test_a_channel_is_heard_by_few_of_many_edges() -> None:
    assert receiving_edges(1, 20) == 1
    assert receiving_edges(2, 1) == pytest.approx(1)
    assert receiving_edges(10, 20) == pytest.approx(10 * (1 - 0.9**20))
    assert receiving_edges(10_000, 20) == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize(
    ("cost", "edges"),
    [
        (CHEAP, 10),  # 10,000 sockets each
        (but(publish_us=12_000), 10),  # 500 publications/s × 12 ms = 6 cores = 10 × 0.6
        (but(publish_us=12_100), 11),
        (but(delivery_us=1_210), 21),  # 20 members: twice that
        (but(connection_us=121), 21),
        (but(connect_us=12_000), 10),  # 100,000 × 12 ms in 120 s: 10 cores
        (but(connect_us=12_100), 11),
        (but(connection_kib=71), 10),  # 693 MiB
        (but(connection_kib=72), 11),
        (but(edge_mib=600, connection_kib=71), 70),  # 100 MiB are left for 1,442 sockets
    ],
)
def test_edges_are_as_many_as_the_scarcest_thing_wants(cost: Costs, edges: int) -> None:
    found = plan(100_000, cost)
    assert found.edges == edges
    assert found.edge_cores <= BUSY * edges * (1 + 1e-9)
    assert found.back_cores == pytest.approx(100_000 * cost.connect_us / 1e6 / BACK_WITHIN_S)
    assert found.edge_mib <= EDGE_MIB


def test_redis_is_counted_by_publications_by_who_hears_them_and_by_what_is_kept() -> None:
    found = plan(100_000, but(redis_publish_us=100, redis_receive_us=10, redis_mib=8, kept_bytes=400))
    assert found.redis_cores == pytest.approx(500 * (100 + 10 * receiving_edges(10, 20)) / 1e6)
    assert found.redis_mib == pytest.approx(8 + 5_000 * 100 * 400 / 2**20)


def test_the_arithmetic_that_is_shown_is_the_plans() -> None:
    found = costs(Curves(points=measured()))
    assert found is not None
    page = "\n".join(planning(found))
    assert f"| sockets | {' | '.join(f'{each:,}' for each in SOCKETS)} |" in page
    receiving = receiving_edges(10, 20)
    cores = 500 * (100 + 20 * receiving + 3 * 20) / 1e6 + 100_000 * 2 / 1e6
    assert f"500 × (100 + 20.0 × {receiving:.1f} + 3.00 × 20) µs + 100,000 × 2.00 µs = {cores:.2f} cores" in page


def test_a_redis_that_is_asked_for_more_than_it_has_is_marked() -> None:
    row = next(line for line in planning(but(redis_publish_us=150)) if line.startswith("| CPU of Redis"))
    assert row == "| CPU of Redis, cores | 0.01 | 0.07 | **0.75: divide** |"
    row = next(line for line in planning(but(redis_publish_us=138)) if line.startswith("| CPU of Redis"))
    assert row.endswith("| 0.69 |")


def test_silence_is_not_counted() -> None:
    silent, before, after = (
        Usage(at_s=at_s, cpu={"edge-1": edge, "redis": redis}, rss={}, pss={})
        for at_s, edge, redis in ((0.0, 1.0, 1.0), (2.0, 1.5, 1.0), (6.0, 4.5, 3.0))
    )
    assert beyond_silence(silent, before, after, "edge") == pytest.approx((3.0 - 4 * 0.25) * 1e6)
    assert beyond_silence(silent, before, after, "") == pytest.approx((5.0 - 4 * 0.25) * 1e6)


def test_tables_have_a_line_for_each_x_with_its_spread() -> None:
    points = [traffic("members", 4, value, 10) for value in (100, 300, 200)] + [traffic("members", 16, 5)]
    page = "\n".join(tables(CurveResults(origin=ORIGIN, curves=Curves(points=points)), "plots"))
    assert "| 4 | 200 (100–300) | 1.00 (1.00–1.00) | 200 (100–300) | 10 (10–10) |" in page
    assert "| 16 | 5 | 1.00 | 5 | 0 |" in page
    assert "plots/cost-by-members.png" in page
    assert "By subscribers" not in page


def test_what_stands_around_the_marks_stays() -> None:
    page = with_part("before\n", "curves", ["one"])
    page = f"{page}after\n"
    again = with_part(page, "curves", ["two"])
    assert again == page.replace("one", "two")
    with pytest.raises(ValueError, match="no <!-- end of curves -->"):
        with_part(page.replace("end of", "of"), "curves", ["three"])


def test_the_page_has_both_parts_and_they_are_not_empty() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in ("curves", "capacity"):
        assert len(with_part(page, name, [])) < len(page) - 1_000
    assert all((PAGE.parent / "plots" / f"cost-by-{c.name.replace(', ', '-')}.png").is_file() for c in CURVES)


@pytest.mark.slow
async def test_a_point_is_measured_on_the_real_platform() -> None:
    found: list[Point] = []
    await measure(["edges, chat"], lambda edges: platform(edges=edges), seconds=0.3, found=found.append)
    assert [(point.curve, point.x) for point in found] == [("edges, chat", 1), ("edges, chat", 2), ("edges, chat", 3)]
    for point in found:
        parts = point.figures["edges_us_per_publish"] + point.figures["redis_us_per_publish"]
        assert 0 < parts <= point.figures["cpu_us_per_publish"] * 1.05
        assert point.figures["cpu_us_per_publish"] == pytest.approx(6 * point.figures["cpu_us_per_delivery"])
        assert not any(math.isnan(value) for value in point.figures.values())
