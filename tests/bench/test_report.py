"""The table says what was measured, and whether it is good enough."""

from __future__ import annotations

import functools
import importlib.metadata

import pytest

from bench.measure.statistics import spread
from bench.report.results import Results, Round, versions
from bench.report.table import markdown
from bench.run import FULL_TARGETS, keep, wanted
from bench.scenarios.catalogue import ONE_EDGE, OURS, SCENARIOS
from bench.smoke import Baseline, baseline_of, vendor, verdict


def results(*rounds: Round) -> Results:
    return Results(
        command="python -m bench", date="2026-01-01", machine={"cores": "2"}, versions={"Python": "3"}, rounds=[*rounds]
    )


def fan_out(target: str, number: int, cost: float) -> Round:
    return Round(number=number, scenario="fan-out", target=target, figures={"cpu_us_per_delivery": cost})


def goal_line(page: str, scenario: str) -> str:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {scenario} | server CPU per delivery")]
    return line


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    ours, theirs = (2.0, 8.0, 3.0), (8.0, 16.0, 4.0)  # in the second round the machine was busy
    rounds = [fan_out(OURS, number, cost) for number, cost in enumerate(ours)]
    rounds += [fan_out("socketio-redis", number, cost) for number, cost in enumerate(theirs)]
    found = results(*rounds)
    assert found.ratio("fan-out", OURS, "socketio-redis", "cpu_us_per_delivery") == 0.5
    assert goal_line(markdown(found, {}), "fan-out") == (
        "| fan-out | server CPU per delivery, µs | 3.00 (2.00–8.00) | socketio-redis 8.00 (4.00–16.00) "
        "| 0.50 | ≤ 0.5 × | reached |"
    )


def test_a_missed_goal_is_called_so() -> None:
    page = markdown(results(fan_out(OURS, 1, 5.1), fan_out("socketio-redis", 1, 10.0)), {})
    assert goal_line(page, "fan-out").endswith("| 0.51 | ≤ 0.5 × | **missed** |")


def test_without_the_peer_there_is_no_verdict() -> None:
    page = markdown(results(fan_out(OURS, 1, 5.0)), {})
    assert goal_line(page, "fan-out").endswith("| socketio-redis – |  | ≤ 0.5 × |  |")


def test_a_fixed_goal_needs_no_peer() -> None:
    idle = Round(number=1, scenario="idle", target=OURS, figures={"cpu_percent": 1.5})
    assert "| idle | CPU, % of one core | 1.5 |  |  | ≤ 1 | **missed** |" in markdown(results(idle), {})


def test_how_often_each_was_measured_is_told() -> None:
    failed = Round(number=2, scenario="fan-out", target="ws", trouble="it did not start")
    rounds = [fan_out(OURS, 1, 5.0), fan_out(OURS, 2, 5.0), fan_out("ws", 1, 9.0), failed]
    assert "| rounds | 2 | 1 |" in markdown(results(*rounds), {})


def test_a_package_of_npm_does_not_take_the_place_of_one_from_pypi() -> None:
    found = versions(["socketio-redis"])
    assert found["redis"] == importlib.metadata.version("redis")
    assert found["redis (npm)"] != found["redis"]


def test_what_could_not_be_measured_is_told_with_its_reason() -> None:
    failed = Round(number=1, scenario="fan-out", target="ws", trouble="ws needs node and npm on the PATH")
    assert "ws: ws needs node and npm on the PATH." in markdown(results(failed, fan_out(OURS, 1, 5.0)), {})


def test_every_goal_names_a_target_and_every_scenario_is_run() -> None:
    for scenario in SCENARIOS:
        assert {shown.goal.peer for shown in scenario.shown if shown.goal} <= {"", *FULL_TARGETS}
    assert {scenario.name for _, scenario, _ in wanted((), FULL_TARGETS, 1)} == {
        scenario.name for scenario in SCENARIOS
    }


def test_targets_take_turns_within_a_scenario_and_scenarios_within_a_round() -> None:
    order = [
        (number, scenario.name, target) for number, scenario, target in wanted(("fan-out", "scale"), FULL_TARGETS, 2)
    ]
    first = [("fan-out", target) for target in FULL_TARGETS if target != ONE_EDGE] + [
        ("scale", OURS),
        ("scale", ONE_EDGE),
    ]
    assert order == [(number, *each) for number in (1, 2) for each in first]


@pytest.mark.parametrize(
    ("ratios", "good"), [((1.9, 2.5, 9.0), True), ((2.5, 2.61, 2.7), False), ((0.5, 1.0, 1.1), True)]
)
def test_the_guard_goes_red_beyond_30_percent_of_the_baseline(ratios: tuple[float, ...], good: bool) -> None:
    assert verdict("cpu_per_delivery", spread(ratios), 2.0)[0] is good


def test_each_kind_of_cpu_has_its_baseline_and_an_unknown_one_the_strictest() -> None:
    row = functools.partial(Baseline, cpu_per_publish=3.0)
    rows = {"A": row(cpu_per_delivery=2.0), "B": Baseline(cpu_per_delivery=1.0, cpu_per_publish=6.0)}
    assert baseline_of("A", rows) == rows["A"]
    assert baseline_of("B", rows) == rows["B"]
    assert baseline_of("C", rows) == row(cpu_per_delivery=1.0)
    assert vendor("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: x\n") == "GenuineIntel"
    assert vendor("processor\t: 0\n")


def test_what_is_added_stands_beside_what_was_measured_earlier() -> None:
    chat = next(each for each in SCENARIOS if each.name == "chat")
    names = [(scenario, target) for scenario in ("fan-out", "chat") for target in (OURS, "ws")]
    earlier = results(*(Round(number=1, scenario=scenario, target=target) for scenario, target in names))
    now = results()
    keep(now, earlier, [(1, chat, "ws")])
    assert [(each.scenario, each.target) for each in now.rounds] == [
        ("fan-out", OURS),
        ("fan-out", "ws"),
        ("chat", OURS),
    ]
    assert now.command == "python -m bench`, `python -m bench"
