"""`make verify-faults`: every fault with every seed, and a table of its cost."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from tests.faults.scenario import Result, Scale, run_scenario
from tests.faults.scenarios import BY_NAME, SCENARIOS, possible
from tests.faults.table import table, with_rest
from tests.support.faults import enter_namespaces
from verify.progress import steps


@click.command()
@click.option("--only", multiple=True, help="Ids of scenarios; may be repeated.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(1, 2, 3), show_default=True)
@click.option("--scale", type=float, default=0.3, show_default=True, help="Share of 1,000 subscribers.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table here.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep histories and logs in this folder.")
def main(only: tuple[str, ...], seeds: tuple[int, ...], scale: float, out: Path | None, keep: Path | None) -> None:
    """Run the matrix; exit code 1 if anything was not as promised."""
    chosen = [one for one in (*SCENARIOS, *BY_NAME) if one.id in only] if only else list(SCENARIOS)
    before = out.read_text() if out is not None and out.exists() else ""
    results: list[Result] = []
    skipped: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        plan = [(scenario, seed) for scenario in chosen for seed in seeds]
        with steps(len(plan)) as progress:
            for scenario, seed in plan:
                progress.begin(f"{scenario.id} seed {seed}")
                why = possible(scenario)
                if why:
                    if (scenario.id, why) not in skipped:
                        skipped.append((scenario.id, why))
                    progress.end(f"{scenario.id} seed {seed} left out: {why}")
                    continue
                result = run_scenario(scenario, seed, Scale(scale), folder)
                results.append(result)
                progress.end(result.line())
                if out is not None:
                    out.write_text(with_rest(table(results, skipped, Scale(scale)), before))
    page = table(results, skipped, Scale(scale))
    if out is None:
        click.echo(page)
    sys.exit(0 if all(result.passed for result in results) else 1)


if __name__ == "__main__":
    enter_namespaces()
    main()
