"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from bench.measure.statistics import Spread
from bench.report.results import Results, Round
from bench.scenarios.catalogue import OURS, SCENARIOS, Goal, Scenario, Shown


def markdown(results: Results, plots: dict[str, str]) -> str:
    """The whole page; `plots`: scenario → file beside it."""
    return "\n".join([*_head(results), *_goals(results), *_scenarios(results, plots)]) + "\n"


def _head(results: Results) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield f"Written by `{results.command}` on {results.date}; [README.md](README.md) says what is measured and how."
    yield ""
    yield "| machine | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in results.machine.items())
    yield ""
    yield "Versions: " + ", ".join(f"{name} {value}" for name, value in results.versions.items()) + "."
    yield ""
    yield "Figures are medians over the rounds, with the lowest and the highest in brackets; ratios are medians of the"
    yield "rounds' ratios."
    yield ""
    yield "Beside it: [what was made faster, and what the missed goals need](OPTIMISATIONS.md),"
    yield "[ten minutes of traffic](soak.md), [a million clients that came and went](churn.md),"
    yield "[a hundred thousand connections of other kinds](churn-kinds.md),"
    yield "[how cost grows](../docs/performance.md)."
    yield ""


def _goals(results: Results) -> Iterator[str]:
    yield "## Goals"
    yield ""
    yield "| scenario | measure | thalamus | beside it | ratio | goal | |"
    yield "|---|---|---|---|---|---|---|"
    for scenario in SCENARIOS:
        for shown in scenario.shown:
            if shown.goal is not None and (found := results.spread(scenario.name, OURS, shown.figure)):
                yield _goal_line(results, scenario, shown, shown.goal, found)
    yield ""


def _goal_line(results: Results, scenario: Scenario, shown: Shown, goal: Goal, found: Spread) -> str:
    beside, ratio, reached = "", "", ""
    value: float | None = found.median
    if goal.peer:
        theirs = results.spread(scenario.name, goal.peer, shown.figure)
        value = results.ratio(scenario.name, OURS, goal.peer, shown.figure)
        beside = f"{goal.peer} {_text(theirs, shown.digits)}"
        ratio = "" if value is None else f"{value:.2f}"
    if value is not None:
        reached = "reached" if (value <= goal.bound if goal.at_most else value >= goal.bound) else "**missed**"
    wanted = f"{'≤' if goal.at_most else '≥'} {goal.bound:,g}{' ×' if goal.peer else ''}"
    ours = _text(found, shown.digits)
    return f"| {scenario.name} | {shown.text} | {ours} | {beside} | {ratio} | {wanted} | {reached} |"


def _scenarios(results: Results, plots: dict[str, str]) -> Iterator[str]:
    for scenario in SCENARIOS:
        targets = [name for name in results.targets() if any(_of(results, scenario, name))]
        if not targets:
            continue
        yield f"## {scenario.name}"
        yield ""
        yield f"{scenario.text[0].upper()}{scenario.text[1:]}."
        yield ""
        yield f"| | {' | '.join(targets)} |"
        yield "|---" * (len(targets) + 1) + "|"
        rounds = (str(sum(not each.trouble for each in _of(results, scenario, name))) for name in targets)
        yield f"| rounds | {' | '.join(rounds)} |"
        for shown in scenario.shown:
            cells = (_text(results.spread(scenario.name, name, shown.figure), shown.digits) for name in targets)
            yield f"| {shown.text} | {' | '.join(cells)} |"
        yield ""
        for name in targets:
            troubles = sorted({each.trouble for each in _of(results, scenario, name) if each.trouble})
            yield from (f"{name}: {trouble}.\n" for trouble in troubles)
        if scenario.name in plots:
            yield f"![{scenario.name}]({plots[scenario.name]})"
            yield ""


def _of(results: Results, scenario: Scenario, target: str) -> list[Round]:
    return [each for each in results.rounds if each.scenario == scenario.name and each.target == target]


def _text(found: Spread | None, digits: int) -> str:
    if found is None:
        return "–"
    if found.rounds == 1:
        return f"{found.median:,.{digits}f}"
    return f"{found.median:,.{digits}f} ({found.low:,.{digits}f}–{found.high:,.{digits}f})"
