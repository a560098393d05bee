"""Runs scenarios against targets, in alternation.

Each run has servers and load processes of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from bench.load.fleet import Fleet, LoadFailed
from bench.report.results import Results, Round
from bench.scenarios.catalogue import ONE_EDGE, OURS, SCENARIOS, Scenario
from bench.servers.peers import PEERS, centrifugo, running_peer
from bench.servers.platform import platform
from bench.servers.target import Target, TargetFailed
from cli.stack.supervisor import StartFailed

CENTRIFUGO = "centrifugo"
QUICK_TARGETS = (OURS, ONE_EDGE, "socketio-redis", "socketio-streams")
FULL_TARGETS = (OURS, ONE_EDGE, *PEERS)
_LOAD_PROCESSES = 2


def wanted(names: Sequence[str], targets: Sequence[str], rounds: int) -> Iterator[tuple[int, Scenario, str]]:
    """Yield what to measure, in order: by round, then by scenario, then by target."""
    for number in range(1, rounds + 1):
        for scenario in SCENARIOS:
            if names and scenario.name not in names:
                continue
            for target in targets:
                if target in scenario.only or (not scenario.only and target != ONE_EDGE):
                    yield number, scenario, target


def keep(results: Results, earlier: Results, plan: Sequence[tuple[int, Scenario, str]]) -> None:
    """Put earlier results of other scenarios and targets before these."""
    anew = {(scenario.name, target) for _, scenario, target in plan}
    results.rounds += [each for each in earlier.rounds if (each.scenario, each.target) not in anew]
    results.command = f"{earlier.command}`, `{results.command}"
    results.versions = {**earlier.versions, **results.versions}


async def measure(number: int, scenario: Scenario, name: str, *, full: bool, binary: Path | None) -> Round:
    """Measure one round of one scenario against one target.

    If it has no figures, it says why.
    """
    try:
        async with _target(name, binary) as target, Fleet(_LOAD_PROCESSES) as fleet:
            figures = await scenario.run(fleet, target, full)
    except (TargetFailed, LoadFailed, StartFailed, subprocess.CalledProcessError) as error:
        return Round(number=number, scenario=scenario.name, target=name, trouble=str(error))
    rounded = {figure: round(value, 4) for figure, value in figures.items()}
    return Round(number=number, scenario=scenario.name, target=name, figures=rounded)


def _target(name: str, binary: Path | None) -> AbstractAsyncContextManager[Target]:
    starts: dict[str, Callable[[], AbstractAsyncContextManager[Target]]] = {
        OURS: lambda: platform(edges=2),
        ONE_EDGE: lambda: platform(edges=1),
    }
    if name in starts:
        return starts[name]()
    if name == CENTRIFUGO:
        if binary is None:
            raise TargetFailed("centrifugo needs --binary PATH")
        return running_peer(centrifugo(binary))
    return running_peer(PEERS[name])
