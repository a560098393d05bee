"""Scaling, updating, rotating and killing while a thousand clients are there.

Nobody misses anything.

Rows F02, F03 and F17 of docs/reliability.md, through the balancer. `SWARM_SEEDS=1,2,3` runs those with other seeds.
"""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.swarm.docker import docker, until
from tests.swarm.load import SEEDS, nothing_is_missed
from tests.swarm.stack import ROOT, SwarmStack
from verify.target import ApiError, call_api

GRACE_S = 5.0  # EDGE_DRAIN_GRACE_S of the stack here
with_seeds = pytest.mark.parametrize("seed", SEEDS)


def finished_at(container: str) -> float:
    """Unix seconds."""
    text = docker("inspect", "--format", "{{.State.FinishedAt}}", container).strip()
    return datetime.datetime.fromisoformat(f"{text[:26].rstrip('Z')}Z").timestamp()


def test_scaling_up_and_down_loses_nothing(stack: SwarmStack, tmp_path: Path) -> None:
    def scale() -> None:
        for replicas in (1, 3, 2):
            stack.scale("edge", replicas)
            time.sleep(2)
            stack.wait_healthy()
            time.sleep(8)

    nothing_is_missed(stack, "scale", scale, tmp_path, clients=60, drop_every_s=15.0)


@with_seeds
def test_a_rolling_update_under_a_thousand_clients_is_not_noticed_f03(
    stack: SwarmStack, tmp_path: Path, seed: int
) -> None:
    watched = Watch(stack, f"chat:f03-{seed}-1")

    def update() -> None:
        stack.update("edge")
        time.sleep(1)
        assert stack.wait_updated("edge") == "completed"
        time.sleep(12)  # longer than anybody's grace
        watched.enough = True

    checked = nothing_is_missed(
        stack,
        "f03",
        update,
        tmp_path,
        seed=seed,
        channels=20,
        beside=watched.run,
        clients=1_000,
        publishers=20,
        rate_per_s=50.0,
        drop_every_s=0.0,
    )
    assert watched.asked > 20
    assert watched.left == {}, "users who were seen to be gone"
    found = checked.handshakes()
    print(f"f03: seed {seed}: handshakes {dict(found)}, presence asked {watched.asked} times")
    assert watched.unanswered <= 0.1 * watched.asked
    assert found.total() >= 1_000
    assert found.total() - found[101, False] <= 0.05 * found.total(), found


@with_seeds
def test_sigterm_of_an_edge_f02(stack: SwarmStack, tmp_path: Path, seed: int) -> None:
    victim = stack.containers("edge")[0]
    signalled: list[float] = []

    def stop() -> None:
        signalled.append(time.time())
        docker("kill", "--signal", "TERM", victim)
        until(lambda: state() == "exited", GRACE_S + 20, "the edge has not ended")
        stack.wait_healthy()

    def state() -> str:
        return docker("inspect", "--format", "{{.State.Status}}", victim).strip()

    checked = nothing_is_missed(
        stack,
        "f02",
        stop,
        tmp_path,
        seed=seed,
        clients=300,
        publishers=10,
        rate_per_s=30.0,
        drop_every_s=0.0,
    )
    assert checked.back_p99_s() <= 5.0
    ends = checked.ended(3001)
    assert len(ends) >= 60
    assert max(ends) - min(ends) >= 0.8 * GRACE_S
    assert docker("inspect", "--format", "{{.State.ExitCode}}", victim).strip() == "0"
    took_s = finished_at(victim) - signalled[0]
    print(f"f02: seed {seed}: closed over {max(ends) - min(ends):.1f} s, exited after {took_s:.1f} s")
    assert took_s <= GRACE_S + 5


@pytest.mark.parametrize("service", ["edge", "auth", "presence", "persistence", "balancer", "redis"])
def test_a_container_killed_costs_nothing(stack: SwarmStack, tmp_path: Path, service: str) -> None:
    def kill() -> None:
        docker("kill", stack.containers(service)[0])
        time.sleep(3)
        stack.wait_healthy()

    nothing_is_missed(stack, f"kill-{service}", kill, tmp_path, clients=60, drop_every_s=10.0)


def test_secrets_rotate_without_a_gap(stack: SwarmStack, tmp_path: Path) -> None:
    def rotate() -> None:
        before = {path.name: path.read_bytes() for path in stack.secrets.iterdir()}
        for _ in range(2):  # accepted beside the present one, then used
            for name in ("service_token", "token_secret", "redis_edge", "redis_persistence"):
                folder = ["--folder", str(stack.secrets)]
                subprocess.run([ROOT / ".venv/bin/thalamus", "secrets", "rotate", name, *folder], cwd=ROOT, check=True)
            stack.up()
            time.sleep(2)
            for service in ("redis", "auth", "presence", "persistence", "edge"):
                assert stack.wait_updated(service) in ("", "completed")
            stack.wait_healthy()
        after = {path.name: path.read_bytes() for path in stack.secrets.iterdir()}
        assert all(before[name] != after[name] for name in ("service_token", "redis_edge", "redis_acl"))

    nothing_is_missed(stack, "rotate", rotate, tmp_path, clients=60, drop_every_s=20.0)


class Watch:
    """Asks all the time who is in a channel; by user, as others see it."""

    def __init__(self, stack: SwarmStack, channel: str) -> None:
        self._stack, self._channel = stack, channel
        self.asked = self.unanswered = 0
        self.left: dict[str, int] = {}
        self.enough = False

    async def run(self) -> None:
        """Until that is enough. Who was there once must stay: the load lets nobody leave."""
        seen: set[str] = set()
        async with httpx.AsyncClient() as client:
            while not self.enough:
                try:
                    found = await call_api(
                        client, self._stack.http, self._stack.api_key, "presence", channel=self._channel
                    )
                except ApiError:  # busy, or an edge that goes: ask again
                    self.unanswered += 1
                    await asyncio.sleep(0.2)
                    continue
                users = {str(info["user"]) for info in found["presence"].values()}
                self.asked += 1
                for user in seen - users:
                    self.left[user] = self.left.get(user, 0) + 1
                seen |= users
                await asyncio.sleep(0.2)


@with_seeds
def test_two_thousand_clients_come_back_at_once_f17(stack: SwarmStack, tmp_path: Path, seed: int) -> None:
    """The balancer dies, and with it every connection."""

    def kill() -> None:
        docker("kill", stack.containers("balancer")[0])
        time.sleep(3)
        stack.wait_healthy()

    before = running(stack)
    checked = nothing_is_missed(
        stack,
        "f17",
        kill,
        tmp_path,
        seed=seed,
        channels=20,
        clients=2_000,
        publishers=10,
        rate_per_s=30.0,
        after_s=15.0,
        drop_every_s=0.0,
    )
    assert len(checked.ended(1006)) >= 1_900, "the balancer's death was not theirs"
    assert checked.back_p99_s() <= 30.0
    found = checked.handshakes()
    print(f"f17: seed {seed}: handshakes {dict(found)}")
    assert all(says_when for (status, says_when) in found if status not in (101, 0)), found
    assert running(stack) == before, "a process died"


def running(stack: SwarmStack) -> set[str]:
    """Containers of our services."""
    return {one for service in ("edge", "auth", "presence", "persistence") for one in stack.containers(service)}
