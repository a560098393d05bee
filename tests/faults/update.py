"""`python -m tests.faults.update COMMIT`.

A rolling update from another commit to this code, and the way back.

One stack, real processes, SQLite, a Redis of its own. It starts with the code of COMMIT. Under the load of the fault
scenarios each process is stopped in order and started with this code, one at a time: auth, presence, persistence, the
edges. Then all of them go back to COMMIT in the same way. So old and new processes of every service serve together. All
have the channels of COMMIT.

Nothing may be lost, come twice or come out of order, and no gap may be told.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cli.bundled import ROOT
from tests.faults.scenario import Scale, Scenario, World, run_scenario
from tests.support.before import environment_of, import_paths, unpack
from verify.progress import steps

_EDGES = 3
_PROCESSES = ("auth", "presence", "persistence", *(f"edge-{number + 1}" for number in range(_EDGES)))
_BASE_S = 6.0  # nothing happens before
_BETWEEN_S = 1.5  # old and new serve together for this long, at least
_READY_S = 30.0


async def _replace(world: World, name: str, paths: str) -> None:
    """Stop a process as Swarm would, and start it with the code at those paths."""
    child = world.stack.supervisor.children[name]
    child.spec = replace(child.spec, environment={**child.spec.environment, "PYTHONPATH": paths})
    await world.do(world.stack.terminate, name)
    await world.do(world.stack.start, name, _READY_S)
    await asyncio.sleep(_BETWEEN_S)


def update_from(commit: str, checkout: Path) -> Scenario:
    """The scenario of an update from the code in `checkout`, and back."""
    old, new = import_paths(checkout), import_paths(ROOT)

    async def trouble(world: World) -> None:
        await world.until(_BASE_S)
        for what, paths in (("update", new), ("rollback", old)):
            async with world.fault(what):
                for name in _PROCESSES:
                    await _replace(world, name, paths)
            world.remarks.append(f"{what} done after {world.run.now():.0f} s")

    def prepare(_: Any) -> dict[str, Any]:
        return {"environment_of": {name: environment_of(checkout) for name in _PROCESSES}}

    return Scenario(
        id=f"update-{commit}",
        title=f"rolling update from {commit} to this code, and back",
        trouble=trouble,
        duration_s=75,
        edges=_EDGES,
        prepare=prepare,
    )


@click.command()
@click.argument("commit")
@click.option("--seed", "seeds", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--scale", type=float, default=0.1, show_default=True, help="Share of 1,000 subscribers.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep histories and logs in this folder.")
def main(commit: str, seeds: tuple[int, ...], scale: float, keep: Path | None) -> None:
    """Update from COMMIT to this code and back, once for each seed.

    Exit code 1 if anything was lost.
    """
    passed = True
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Path(scratch) / "checkout"
        unpack(commit, checkout)
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with steps(len(seeds)) as progress:
            for seed in seeds:
                progress.begin(f"update from {commit}, seed {seed}")
                result = run_scenario(update_from(commit, checkout), seed, Scale(scale), folder)
                passed = passed and result.passed
                progress.end(result.line())
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
