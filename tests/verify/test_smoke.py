"""The checker against a stack that is being broken.

Against one that can't repair: that one must not pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

import verify.drive
from tests.support.faults import kill_pubsub
from tests.support.full import sized
from tests.support.stack import Stack
from verify import events as e
from verify import judge as j
from verify.check import Outcome, conclude
from verify.context import Run
from verify.drive import drive
from verify.events import read_history
from verify.plan import Load, make_plan
from verify.target import Target

CHANNELS = ("chat:smoke-0", "chat:smoke-1", "live:smoke-2")
FAST_PINGS = {"EDGE_PING_INTERVAL_S": "5", "EDGE_PONG_TIMEOUT_S": "3", "EDGE_COMMANDS_PER_S": "0"}


def check(
    stack: Stack, load: Load, trouble: Callable[[Run], Awaitable[None]], path: Path, settle_s: float = 60.0
) -> Outcome:
    target = Target(tuple(stack.ws_urls), tuple(stack.http_urls), stack.api_key, stack.token)
    stored = [channel for channel in load.channels if channel.startswith("chat:")]
    print(f"seed {load.seed}")
    uvloop.run(drive(make_plan(load), target, path, what="smoke", stored=stored, trouble=trouble, settle_s=settle_s))
    return conclude(path, where="smoke")


def redis_port(stack: Stack) -> int:
    return int(stack.redis_url.rsplit(":", 1)[1].split("/")[0])


@pytest.mark.slow
def test_killed_edges_and_killed_pubsub_connections_lose_nothing(tmp_path: Path) -> None:
    """F01 and F07: 30 clients, 3 channels, two edges that are killed in turn."""
    duration_s = sized(24, 60)

    with Stack(edges=2, environment=FAST_PINGS) as stack:

        async def trouble(run: Run) -> None:
            for number in range(6):
                await asyncio.sleep(max(0.0, (6.0 + 8.0 * number) * duration_s / 60 - run.now()))
                name = f"edge-{number // 2 % 2 + 1}" if number % 2 == 0 else "pubsub"
                run.note(e.Fault(at=run.now(), name=name, on=True))
                if number % 2 == 0:
                    await asyncio.to_thread(stack.kill9, name)
                    await asyncio.to_thread(stack.wait_ready, name, 30.0)
                else:
                    assert await asyncio.to_thread(kill_pubsub, redis_port(stack)) >= 2
                run.note(e.Fault(at=run.now(), name=name, on=False))

        load = Load(seed=20, duration_s=duration_s, clients=30, channels=CHANNELS)
        outcome = check(stack, load, trouble, tmp_path / "history.jsonl")
        print(outcome.page)
        assert outcome.verdict.passed, outcome.page
        print(f"{outcome.verdict.acked} acknowledged, {outcome.verdict.recoveries} recoveries")
        assert outcome.verdict.acked > sized(300, 500)
        assert outcome.verdict.recoveries > 50
        assert not [line for name in stack.internal_urls for line in stack.lines(name) if "Traceback" in line]


@pytest.mark.slow
def test_nobody_drops_before_everyone_is_there_and_everybody_does_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so many drops there is no moment at which all are there.

    Waiting for one would use up the plan.
    """
    monkeypatch.setattr(verify.drive, "_CONNECTS_AT_ONCE", 5)  # so that it takes as long as with thousands

    async def nothing(run: Run) -> None: ...

    load = Load(seed=3, duration_s=6, clients=120, channels=CHANNELS, drop_every_s=1.0, offline_s=(0.5, 1.0))
    with Stack(edges=1, environment=FAST_PINGS) as stack:
        outcome = check(stack, load, nothing, tmp_path / "history.jsonl")
    assert outcome.verdict.passed, outcome.page
    seen = list(read_history(tmp_path / "history.jsonl"))
    first = next(index for index, event in enumerate(seen) if isinstance(event, e.Publishing))
    there: set[str] = set()
    planned: list[int] = []  # drops of clients that had got in: an attempt that failed is given up as one, too
    for index, event in enumerate(seen):
        if isinstance(event, e.Subscribed):
            there.add(event.client)
        elif isinstance(event, e.Offline) and event.planned and event.client in there:
            planned.append(index)
    assert min(planned) > first, [event for event in seen[: first + 1] if isinstance(event, e.Offline)]
    assert len(planned) > 60
    assert outcome.verdict.recoveries > 60


# Builds that lack something: what the edges import first (`sitecustomize`) takes it out of them.
NO_REPAIR = """
from services.edge.domain.channels.hub import Hub
Hub._repair = lambda self, view: None
Hub.check_tops = lambda self: None
"""
NO_RECOVERY = """
import importlib
subscribe = importlib.import_module("services.edge.domain.session.handlers.subscribe")
async def recover(*_, **__):
    return []
subscribe.recover = recover
"""


@pytest.mark.parametrize(
    ("build", "kinds"),
    [(NO_REPAIR, {j.LOST}), (NO_RECOVERY, {j.LOST})],
    ids=["without repair", "without recovery"],
)
@pytest.mark.slow
def test_a_build_that_lacks_something_does_not_pass(build: str, kinds: set[str], tmp_path: Path) -> None:
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "services_mutant.py").write_text(build)
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'services.edge' in ' '.join(sys.orig_argv):\n"
        "    sys.path[:0] = [p for p in __import__('os').environ['MUTANT_PATH'].split(':')]\n"
        "    import services_mutant\n"
    )
    mutated = {"PYTHONPATH": str(folder), "MUTANT_PATH": str(Path.cwd()) + ":" + str(Path.cwd() / "proto" / "gen")}
    with Stack(edges=2, environment={**FAST_PINGS, **mutated}) as stack:

        async def trouble(run: Run) -> None:
            for number in range(6):
                await asyncio.sleep(max(0.0, 2.0 + 2.0 * number - run.now()))
                await asyncio.to_thread(kill_pubsub, redis_port(stack))

        load = Load(seed=5, duration_s=12, clients=12, channels=CHANNELS, rate_per_s=150, publishers=12, drop_every_s=4)
        outcome = check(stack, load, trouble, tmp_path / "history.jsonl", settle_s=5.0)
        print(outcome.page)
        assert kinds <= {kind for kind, count in outcome.verdict.counts.items() if count}
