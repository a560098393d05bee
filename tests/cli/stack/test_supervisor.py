"""Processes are started in order, kept running, and stopped in the opposite order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.stack.child import ChildSpec, Stage
from cli.stack.supervisor import StartFailed, Supervisor
from services.shared.process.children import Guard
from tests.support.waiting import until

# Says that it is up by a line, then by a file; and what signal it got by a line.
CHILD = """
import pathlib, signal, sys, time
name, up = sys.argv[1:3]
def end(number, frame):
    print("stopping", name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", name, flush=True)
pathlib.Path(up).write_text(name)
while True: time.sleep(60)
"""
STUBBORN = CHILD.replace("sys.exit(0)", "pass")


@dataclass
class Seen:
    """What a test sees of its supervisor."""

    directory: Path
    lines: list[tuple[str, str]] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def spec(self, name: str, stage: Stage = Stage.SERVICE, script: str = CHILD) -> ChildSpec:
        up = self.directory / name
        return ChildSpec(
            name=name,
            command=(sys.executable, "-c", script, name, str(up)),
            environment=os.environ,
            stage=stage,
            probe=self._probe(up),
        )

    def _probe(self, up: Path) -> Callable[[], Awaitable[str]]:
        async def probe() -> str:
            return "" if os.access(up, os.F_OK) else "no file"

        return probe

    async def pause(self, name: str, seconds: float) -> None:
        """The wait before a restart: noted, not spent."""
        self.pauses.append(seconds)

    def supervisor(self, *specs: ChildSpec, stop_s: float = 30.0) -> Supervisor:
        return Supervisor(
            specs,
            on_line=lambda name, line: self.lines.append((name, line.decode())),
            on_event=lambda *event: self.events.append(event),
            stop_times_s=dict.fromkeys(Stage, stop_s),
            pause=self.pause,
        )


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path)


def is_gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_stages_start_upwards_and_stop_downwards_and_nothing_is_left(seen: Seen) -> None:
    specs = seen.spec("edge-1", Stage.EDGE), seen.spec("auth"), seen.spec("redis", Stage.REDIS)
    async with seen.supervisor(*specs) as supervisor:
        await supervisor.start(30)
        pids = supervisor.pids()
        assert set(pids) == {"edge-1", "auth", "redis"}
    assert seen.lines[0] == ("redis", "up redis"), "the others start once Redis answers"
    assert [line for _, line in seen.lines if "stopping" in line] == [
        "stopping edge-1",
        "stopping auth",
        "stopping redis",
    ]
    assert all(is_gone(pid) for pid in pids.values())


async def test_a_child_that_dies_is_started_again_loudly(seen: Seen) -> None:
    async with seen.supervisor(seen.spec("auth")) as supervisor:
        await supervisor.start(30)
        first = supervisor.pids()["auth"]
        (seen.directory / "auth").unlink()
        os.kill(first, signal.SIGKILL)
        await until(lambda: ("INFO", "auth", "is ready again") in seen.events)
        assert supervisor.pids()["auth"] != first
    assert seen.events[0] == ("ERROR", "auth", "was killed by SIGKILL and is started again in 0.25 s")
    assert seen.pauses == [0.25]


async def test_each_quick_death_doubles_the_wait(seen: Seen) -> None:
    async with seen.supervisor(seen.spec("auth")) as supervisor:
        await supervisor.start(30)
        for deaths in range(1, 4):
            os.kill(supervisor.pids()["auth"], signal.SIGKILL)
            await until(lambda deaths=deaths: supervisor.children["auth"].deaths == deaths)  # type: ignore[misc]
            await until(lambda: "auth" in supervisor.pids())
    assert seen.pauses == [0.25, 0.5, 1.0]


async def test_a_child_that_ignores_sigterm_is_killed(seen: Seen) -> None:
    async with seen.supervisor(seen.spec("auth", script=STUBBORN), stop_s=0.3) as supervisor:
        await supervisor.start(30)
        pid = supervisor.pids()["auth"]
    assert is_gone(pid)
    assert seen.events == [("WARNING", "auth", "did not stop in time and is killed")]


async def test_hurry_kills_without_waiting(seen: Seen) -> None:
    async with seen.supervisor(seen.spec("auth", script=STUBBORN), stop_s=60.0) as supervisor:
        await supervisor.start(30)
        pid = supervisor.pids()["auth"]
        asyncio.get_running_loop().call_later(0.1, supervisor.hurry.set)
        stopping = asyncio.get_running_loop().time()
    assert is_gone(pid)
    assert asyncio.get_running_loop().time() - stopping < 5


async def test_a_suspended_child_is_stopped_too(seen: Seen) -> None:
    async with seen.supervisor(seen.spec("auth")) as supervisor:
        await supervisor.start(30)
        await until(lambda: ("auth", "up auth") in seen.lines)  # the whole line, with its end
        supervisor.children["auth"].send(signal.SIGSTOP)
    assert ("auth", "stopping auth") in seen.lines


async def test_leftovers_of_a_child_die_with_it(seen: Seen) -> None:
    script = "import subprocess; subprocess.Popen(['sleep', '60'])" + CHILD
    async with seen.supervisor(seen.spec("auth", script=script)) as supervisor:
        await supervisor.start(30)
        pid = supervisor.pids()["auth"]
    await until(lambda: is_gone(pid))


async def test_a_start_that_takes_too_long_names_the_child_and_keeps_its_last_words(seen: Seen) -> None:
    slow = seen.spec("edge-1", Stage.EDGE, "import time; print('still waiting', flush=True); time.sleep(60)")
    with pytest.raises(StartFailed) as failure:
        async with seen.supervisor(seen.spec("auth"), slow) as supervisor:
            await supervisor.start(1.0)
    assert str(failure.value) == "edge-1 is not ready after 1 s: no file"
    assert failure.value.tail == ("still waiting",)


async def test_settings_that_a_child_refuses_end_the_start_with_its_line(seen: Seen) -> None:
    refuses = seen.spec("auth", script="import sys; sys.exit(print('thalamus auth: AUTH_X must be a number') or 2)")
    with pytest.raises(StartFailed, match=r"^auth: AUTH_X must be a number$"):
        async with seen.supervisor(seen.spec("presence"), refuses) as supervisor:
            await supervisor.start(30.0)


async def test_a_child_that_keeps_dying_ends_the_start(seen: Seen) -> None:
    broken = seen.spec("auth", script="raise SystemExit('no module')")
    with pytest.raises(StartFailed, match="auth exited with code 1, again and again") as failure:
        async with seen.supervisor(broken) as supervisor:
            await supervisor.start(30.0)
    assert "no module" in failure.value.tail


async def test_lines_without_end_and_very_long_lines_arrive(seen: Seen) -> None:
    script = CHILD + "\n"
    script = script.replace('print("up"', 'print("x" * 200_000); print("up"').replace(
        'print("stopping", name, flush=True)', 'print("bye", end="", flush=True)'
    )
    async with seen.supervisor(seen.spec("auth", script=script)) as supervisor:
        await supervisor.start(30)
        await until(lambda: ("auth", "up auth") in seen.lines)
    assert sum(len(line) for _, line in seen.lines if line.startswith("x")) == 200_000
    assert seen.lines[-1] == ("auth", "bye")


async def test_the_other_guard_works_as_well(seen: Seen) -> None:
    supervisor = Supervisor(
        [seen.spec("auth")], on_line=lambda *_: None, on_event=lambda *_: None, guard=Guard(mode="pipe")
    )
    async with supervisor:
        await supervisor.start(30)
        pid = supervisor.pids()["auth"]
    await until(lambda: is_gone(pid))  # the watcher is the init process's to bury
