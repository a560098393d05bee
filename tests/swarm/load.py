"""The delivery checker through the balancer, while something is done to the stack."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from tests.swarm.stack import ROOT, SwarmStack
from verify import events as e
from verify.check import Outcome, conclude
from verify.context import Run
from verify.drive import drive
from verify.events import read_history
from verify.measure import percentile
from verify.plan import Drop, Load, make_plan
from verify.target import Target

SEEDS = [int(seed) for seed in os.environ.get("SWARM_SEEDS", "1").split(",")]
RESULTS = ROOT / "build" / "swarm-results.jsonl"
DROPS = (Drop.CLOSE, Drop.RESET, Drop.VANISH)
_BEGIN_S = 5.0
AFTER_S = 5.0
LONGEST_S = 240.0

Beside = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Checked:
    """A run that passed, and its history."""

    outcome: Outcome
    path: Path

    def ended(self, code: int) -> list[float]:
        """When connections ended with this code: seconds since the start."""
        return [one.at for one in read_history(self.path) if isinstance(one, e.Offline) and one.code == code]

    def handshakes(self) -> Counter[tuple[int, bool]]:
        """How many of each answer since clients were there.

        Its status, and whether it said when to come again.
        """
        found: Counter[tuple[int, bool]] = Counter()
        for one in read_history(self.path):
            if isinstance(one, e.Handshake):
                found[one.status, one.retry_after] += 1
            elif isinstance(one, e.Fault) and one.on:
                found.clear()  # those of the beginning
        return found

    def back_p99_s(self) -> float:
        """From an end that the plan did not make until it was subscribed again.

        In seconds.
        """
        return percentile(self.outcome.figures.back, 0.99)


def nothing_is_missed(
    stack: SwarmStack,
    name: str,
    work: Callable[[], object],
    folder: Path,
    *,
    seed: int = 1,
    channels: int = 6,
    beside: Beside | None = None,
    after_s: float = AFTER_S,
    **load: object,
) -> Checked:
    """Clients chat while `work` is done.

    Nothing may be lost, twice, out of order, and no gap notification may come.

    They chat until `after_s` seconds after it, or until their plan ends: `duration_s` is the longest.
    `work` may block. `beside` runs from then on and is awaited. `load` overrides `Load`. The figures are kept.
    """
    names = [f"{'chat' if number % 3 else 'live'}:{name}-{seed}-{number}" for number in range(channels)]
    whole = replace(Load(seed=seed, duration_s=LONGEST_S, channels=tuple(names), drops=DROPS), **load)  # type: ignore[arg-type]
    target = Target(
        websockets=(stack.websocket,), https=(stack.http,), api_key=stack.api_key, token=lambda user: stack.token(user)
    )
    path = folder / f"{name}-{seed}.jsonl"
    print(f"{name}: seed {seed}")
    stored = [channel for channel in names if channel.startswith("chat")]

    async def trouble(run: Run) -> None:
        await asyncio.sleep(max(0.0, _BEGIN_S - run.now()))
        run.note(e.Fault(at=run.now(), name=name, on=True))
        async with asyncio.TaskGroup() as group:
            if beside is not None:
                group.create_task(beside())
            await asyncio.to_thread(work)
            run.note(e.Fault(at=run.now(), name=name, on=False))

    plan = make_plan(whole)
    uvloop.run(drive(plan, target, path, what=name, stored=stored, trouble=trouble, after_s=after_s))
    outcome = conclude(path, where=f"{name}, seed {seed}")
    seconds = max(one.at for one in read_history(path) if isinstance(one, e.Acked))
    _keep(name, seed, whole, seconds, outcome)
    assert outcome.verdict.passed, outcome.page
    assert outcome.verdict.told == 0, outcome.page
    return Checked(outcome, path)


def _keep(name: str, seed: int, load: Load, seconds: float, outcome: Outcome) -> None:
    figures = outcome.figures
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        row = {
            "name": name,
            "seed": seed,
            "clients": load.clients,
            "rate_per_s": load.rate_per_s,
            "seconds": round(seconds, 1),
            "acked": outcome.verdict.acked,
            "delivered": outcome.verdict.delivered,
            "recoveries": outcome.verdict.recoveries,
            "told": outcome.verdict.told,
            "findings": dict(outcome.verdict.counts),
            "delivery_p50_ms": round(percentile(figures.delivery, 0.5) * 1000, 1),
            "delivery_p99_ms": round(percentile(figures.delivery, 0.99) * 1000, 1),
            "ack_p99_ms": round(percentile(figures.ack, 0.99) * 1000, 1),
            "back_p99_ms": round(percentile(figures.back, 0.99) * 1000, 1),
            "catch_up_p99_ms": round(percentile(figures.catch_up, 0.99) * 1000, 1),
        }
        file.write(json.dumps(row) + "\n")
