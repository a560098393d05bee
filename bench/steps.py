"""`python -m bench.steps COMMIT …`: what each commit costs, as a Markdown table.

The commits are measured in alternation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import click
import msgspec

from bench.cost import LOADS, Cost
from verify.progress import steps

_HERE = Path(__file__).resolve().parent
_ENDS_WITHIN_S = 120


def _measure(checkout: Path, name: str, seconds: float) -> Cost:
    """In a process of its own, with the code of that checkout."""
    said = subprocess.run(
        [sys.executable, _HERE / "cost.py", name, "--seconds", str(seconds), "--json"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
        capture_output=True,
        timeout=_ENDS_WITHIN_S,
    ).stdout
    return msgspec.json.decode(said, type=Cost)


def _git(*words: str | Path) -> str:
    return subprocess.run(["git", *words], cwd=_HERE, check=True, capture_output=True, text=True).stdout.strip()


def table(commits: Sequence[str], subjects: Sequence[str], costs: dict[tuple[str, str], list[float]]) -> str:
    """One row per commit: the medians, and what is left of the first row's."""
    names = list(dict.fromkeys(name for _, name in costs))
    lines = [
        "| commit | what | " + " | ".join(f"{name}, µs" for name in names) + " |",
        "|---|---|" + "---:|" * len(names),
    ]
    for commit, subject in zip(commits, subjects, strict=True):
        cells = []
        for name in names:
            now, first = median(costs[commit, name]), median(costs[commits[0], name])
            low, high = min(costs[commit, name]), max(costs[commit, name])
            cells.append(f"{now:.1f} ({low:.1f} to {high:.1f}), × {now / first:.2f}")
        lines.append(f"| {commit} | {subject} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("commits", nargs=-1, required=True)
@click.option("--load", "names", multiple=True, type=click.Choice(list(LOADS)), default=["fan-out", "chat"])
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=6.0, show_default=True)
def main(commits: Sequence[str], names: Sequence[str], rounds: int, seconds: float) -> None:
    """Print server CPU per delivery and per publish at each commit, oldest first."""
    costs: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {commit: Path(folder) / commit for commit in commits}
        try:
            for commit, checkout in checkouts.items():
                _git("worktree", "add", "--detach", checkout, commit)
            turns = [(commit, name) for _ in range(rounds) for commit in checkouts for name in names]
            with steps(len(turns)) as progress:
                for commit, name in turns:
                    progress.begin(f"{commit} {name}")
                    found = _measure(checkouts[commit], name, seconds).total()
                    costs.setdefault((commit, name), []).append(found)
                    progress.end(f"{commit} {name} {found:.2f}")
        finally:
            for checkout in checkouts.values():
                remove = ["git", "worktree", "remove", "--force", str(checkout)]
                subprocess.run(remove, cwd=_HERE, capture_output=True, check=False)
    click.echo(table(commits, [_git("log", "-1", "--format=%s", commit) for commit in commits], costs))


if __name__ == "__main__":
    main()
