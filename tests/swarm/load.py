"""The delivery checker through the balancer, while something is done to the stack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

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

RESULTS = ROOT / "build" / "swarm-results.jsonl"
DROPS = (Drop.CLOSE, Drop.RESET, Drop.VANISH)


@dataclass(frozen=True, slots=True)
class Checked:
    """A judged run and its history."""

    outcome: Outcome
    path: Path

    def ended(self, code: int) -> list[float]:
        """When connections ended with this code: seconds since the start."""
        return [one.at for one in read_history(self.path) if isinstance(one, e.Offline) and one.code == code]


def check(
    stack: SwarmStack,
    name: str,
    trouble: Callable[[Run], Awaitable[None]],
    folder: Path,
    *,
    seed: int = 1,
    channels: int = 6,
    **load: object,
) -> Checked:
    """Run, judge, and keep the figures. `load` overrides `Load`; nothing may be lost, twice, out of order or told."""
    names = [f"{'chat' if number % 3 else 'live'}:{name}-{seed}-{number}" for number in range(channels)]
    whole = replace(Load(seed=seed, channels=tuple(names), drops=DROPS), **load)  # type: ignore[arg-type]
    target = Target(
        websockets=(stack.websocket,), https=(stack.http,), api_key=stack.api_key, token=lambda user: stack.token(user)
    )
    path = folder / f"{name}-{seed}.jsonl"
    print(f"{name}: seed {seed}")
    stored = [channel for channel in names if channel.startswith("chat")]
    uvloop.run(drive(make_plan(whole), target, path, what=name, stored=stored, trouble=trouble))
    outcome = conclude(path, where=f"{name}, seed {seed}")
    _keep(name, seed, whole, outcome)
    return Checked(outcome, path)


def assert_nothing_missed(checked: Checked) -> None:
    """Nothing lost, twice, out of order, and no gap told."""
    outcome = checked.outcome
    assert outcome.verdict.passed, outcome.page
    assert outcome.verdict.told == 0, outcome.page


async def during(run: Run, name: str, work: Callable[[], object], *, after_s: float = 5.0) -> None:
    """Some seconds into the run do something that blocks, as a fault of that name."""
    await asyncio.sleep(max(0.0, after_s - run.now()))
    run.note(e.Fault(at=run.now(), name=name, on=True))
    try:
        await asyncio.to_thread(work)
    finally:
        run.note(e.Fault(at=run.now(), name=name, on=False))


def _keep(name: str, seed: int, load: Load, outcome: Outcome) -> None:
    figures = outcome.figures
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        row = {
            "name": name,
            "seed": seed,
            "clients": load.clients,
            "rate_per_s": load.rate_per_s,
            "seconds": load.duration_s,
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
