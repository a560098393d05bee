"""`python -m bench`: measures, and writes raw results, the table and the plots.

`make help` has the usual ways.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click
import msgspec

from bench.report.plots import draw
from bench.report.results import Results, Round, machine, today, versions
from bench.report.table import markdown
from bench.run import CENTRIFUGO, FULL_TARGETS, QUICK_TARGETS, keep, measure, wanted
from bench.scenarios.catalogue import SCENARIOS
from verify.progress import steps

_BUILD = Path("build") / "bench"
_PLOTS = "plots"
_ROUNDS_QUICK, _ROUNDS_FULL = 2, 5


@click.command()
@click.option("--full", is_flag=True, help="All peers, full sizes, five rounds.")
@click.option("--rounds", type=click.IntRange(1), help=f"How many [{_ROUNDS_QUICK}; with --full {_ROUNDS_FULL}].")
@click.option(
    "--only", "scenarios", multiple=True, type=click.Choice([scenario.name for scenario in SCENARIOS]), help="Of these."
)
@click.option(
    "--peer", "targets", multiple=True, type=click.Choice([*FULL_TARGETS, CENTRIFUGO]), help="Measure these targets."
)
@click.option("--binary", type=click.Path(path_type=Path), help="Centrifugo's.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=_BUILD / "RESULTS.md", show_default=True, help="The table."
)
@click.option("--add", is_flag=True, help="Keep the raw results that are there, but for what is measured anew.")
@click.option("--redraw", is_flag=True, help="Measure nothing: write table and plots of the last raw results.")
def main(
    full: bool,
    rounds: int | None,
    scenarios: tuple[str, ...],
    targets: tuple[str, ...],
    binary: Path | None,
    out: Path,
    add: bool,
    redraw: bool,
) -> None:
    """Measure the platform beside other servers."""
    raw = _BUILD / "results.json"
    if redraw:
        results = msgspec.json.decode(raw.read_bytes(), type=Results)
    else:
        chosen = targets or (FULL_TARGETS if full else QUICK_TARGETS)
        results = Results(
            command=" ".join(["python -m bench", *sys.argv[1:]]),
            date=today(),
            machine=machine(),
            versions=versions(chosen),
        )
        plan = list(wanted(scenarios, chosen, rounds or (_ROUNDS_FULL if full else _ROUNDS_QUICK)))
        if add and raw.exists():
            keep(results, msgspec.json.decode(raw.read_bytes(), type=Results), plan)
        with steps(len(plan)) as progress:
            for number, scenario, target in plan:
                progress.begin(f"{number} {scenario.name}, {target}")
                found = asyncio.run(measure(number, scenario, target, full=full, binary=binary))
                results.rounds.append(found)
                _write(raw, results)
                progress.end(_line(found))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(markdown(results, draw(results, out.parent / _PLOTS)))
    click.echo(f"{out}, {raw}", err=True)


def _write(raw: Path, results: Results) -> None:
    """After every round: a long run that is cut short has measured something."""
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")


def _line(found: Round) -> str:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == found.scenario)
    figures = ", ".join(
        f"{shown.text} {found.figures[shown.figure]:,.{shown.digits}f}"
        for shown in scenario.shown
        if shown.figure in found.figures
    )
    return f"{found.number} {found.scenario}, {found.target}: {found.trouble or figures}"


if __name__ == "__main__":
    main()
