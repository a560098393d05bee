"""What a scenario is, and how one is run with one seed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop

from tests.support.stack import Stack
from verify import events as e
from verify.check import Outcome, conclude
from verify.context import Run
from verify.drive import drive
from verify.events import read_history
from verify.measure import percentile
from verify.plan import Drop, Load, make_plan
from verify.target import Target

STORED, HOT = "chat", "live"
_ENVIRONMENT = {
    "EDGE_COMMANDS_PER_S": "0",
    "EDGE_PING_INTERVAL_S": "5",  # half-open clients are found out sooner
    "EDGE_PONG_TIMEOUT_S": "3",
}


@dataclass(slots=True)
class World:
    """What a fault works on."""

    stack: Stack
    run: Run
    seed: int
    extras: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)  # what the fault itself saw that must not be
    remarks: list[str] = field(default_factory=list)

    async def until(self, at_s: float) -> None:
        """Sleep until so many seconds after the start."""
        await asyncio.sleep(max(0.0, at_s - self.run.now()))

    async def do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Something that blocks."""
        return await asyncio.to_thread(call, *arguments)

    @contextlib.asynccontextmanager
    async def fault(self, name: str) -> Any:
        """Between on and off."""
        self.run.note(e.Fault(at=self.run.now(), name=name, on=True))
        try:
            yield
        finally:
            self.run.note(e.Fault(at=self.run.now(), name=name, on=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A row of the table in docs/reliability.md."""

    id: str
    title: str
    trouble: Callable[[World], Awaitable[None]]
    duration_s: float = 30.0
    hot_gaps: bool = False  # gap notifications in `hot` channels are allowed
    edges: int = 3
    restart: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[ExitStack], dict[str, Any]] | None = None  # before the stack; gives Stack arguments and extras
    around: Callable[[Stack, ExitStack], dict[str, Any]] | None = None  # after its start; `websockets`, … override
    load: Mapping[str, Any] = field(default_factory=dict)  # overrides of `Load`
    slow: int = 0  # so many subscribers read 1 KiB/s at first
    padding: int = 0
    token_ttl_s: float = 3_600.0
    needs: str = ""  # "namespaces" or "faketime"
    limits: Callable[[Outcome, World], list[str]] = lambda outcome, world: []


@dataclass(slots=True)
class Result:
    """One run of one scenario."""

    scenario: Scenario
    seed: int
    outcome: Outcome
    broken: list[str]  # limits that did not hold
    remarks: list[str]
    took_s: float

    @property
    def passed(self) -> bool:
        return self.outcome.verdict.passed and not self.broken

    def line(self) -> str:
        """The result in one line."""
        verdict = self.outcome.verdict
        return (
            f"{self.scenario.id} seed {self.seed}: {'ok' if self.passed else 'FAILED'} in {self.took_s:.0f} s; "
            f"{verdict.acked} acked, {verdict.delivered} delivered, {verdict.recoveries} recovered, "
            f"{verdict.told} told {dict(verdict.counts) or ''} {'; '.join((*self.broken, *self.remarks))}"
        ).rstrip()


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of the load of the table.

    1.0 is 1,000 subscribers, 20 channels, 100 publications/s.
    """

    share: float = 1.0

    def load(self, scenario: Scenario, seed: int) -> Load:
        channels = max(3, round(20 * math.sqrt(self.share)))
        names = [f"{STORED if number % 3 else HOT}:f{scenario.id}-{seed}-{number}" for number in range(channels)]
        load = Load(
            seed=seed,
            duration_s=scenario.duration_s,
            clients=max(9, round(1_000 * self.share)),
            channels=tuple(names),
            publishers=max(3, round(20 * self.share)),
            rate_per_s=max(10.0, 100 * self.share),
            drop_every_s=20.0,
            drops=tuple(Drop),
        )
        return replace(load, **scenario.load)


def run_scenario(scenario: Scenario, seed: int, scale: Scale, folder: Path) -> Result:
    """Start a stack, run, judge, stop."""
    began = time.monotonic()
    path = folder / f"{scenario.id}-{seed}.jsonl"
    load = scale.load(scenario, seed)
    with ExitStack() as exits:
        options = scenario.prepare(exits) if scenario.prepare else {}
        extras = options.pop("extras", {})
        around_start: AbstractContextManager[Any] = options.pop("while_starting", contextlib.nullcontext())
        environment = {**_ENVIRONMENT, **scenario.environment, **options.pop("environment", {})}
        made = Stack(edges=scenario.edges, restart=scenario.restart, environment=environment, **options)
        with around_start:
            stack = exits.enter_context(made)
        overrides = scenario.around(stack, exits) if scenario.around else {}
        target = Target(
            websockets=tuple(overrides.get("websockets", stack.ws_urls)),
            https=tuple(overrides.get("https", stack.http_urls)),
            api_key=stack.api_key,
            token=lambda user: stack.token(user, ttl_s=scenario.token_ttl_s),
        )
        extras |= overrides.get("extras", {})
        worlds: list[World] = []

        async def trouble(run: Run) -> None:
            worlds.append(World(stack, run, seed, extras))
            await scenario.trouble(worlds[0])

        uvloop.run(
            drive(
                make_plan(load),
                target,
                path,
                what=f"{scenario.id} {scenario.title}",
                stored=[channel for channel in load.channels if channel.startswith(STORED)],
                trouble=trouble,
                slow=[f"s{number}" for number in range(scenario.slow)],
                padding=scenario.padding,
            )
        )
        allowed = (lambda channel: channel.startswith(HOT)) if scenario.hot_gaps else (lambda channel: False)
        outcome = conclude(
            path,
            where=f"{scenario.id}, seed {seed}",
            gap_allowed=allowed,
            gaps_allowed_to=[f"s{number}" for number in range(scenario.slow)],  # what it missed may be too much
            harmed_edge=extras.get("harmed_edge", ""),
        )
        world = worlds[0]
        extras["hot_streams"] = hot_streams(path)
        broken = [*world.findings, *scenario.limits(outcome, world), *_tracebacks(stack)]
    result = Result(scenario, seed, outcome, broken, world.remarks, time.monotonic() - began)
    if not result.passed:
        (folder / f"{scenario.id}-{seed}.log").write_text(stack.logs(400))
        (folder / f"{scenario.id}-{seed}.md").write_text(outcome.page + "\n".join(broken))
    return result


def _tracebacks(stack: Stack) -> list[str]:
    """No fault makes a service log a traceback."""
    return [
        f"{name} logged a traceback: {line[:200]}"
        for name in stack.supervisor.children
        for line in stack.lines(name)
        if "Traceback" in line
    ]


# Limits, as the table has them.


def within(outcome: Outcome, figure: str, share: float, limit_s: float) -> list[str]:
    """A percentile of a figure must not exceed this."""
    values = getattr(outcome.figures, figure)
    found = percentile(values, share)
    if math.isnan(found) or found <= limit_s:
        return []
    return [f"{figure} p{share * 100:g} is {found:.2f} s, not {limit_s:g} s"]


def told_once(outcome: Outcome, streams: int) -> list[str]:
    """At most one gap notification per subscriber and `hot` channel."""
    told = outcome.verdict.told
    return [] if told <= streams else [f"{told} gap notifications to {streams} subscriptions"]


def hot_streams(path: Path) -> int:
    """How many (client, `hot` channel) there are."""
    for event in read_history(path):
        if isinstance(event, e.Finished):
            return sum(channel.startswith(HOT) for _, channel in event.subscribers)
    return 0
