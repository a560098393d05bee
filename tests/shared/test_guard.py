"""No child outlives the process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.shared.process import guard

GUARD = guard.__file__
MODES = ["pipe", pytest.param("signal", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only"))]
PARENT = """
import os, subprocess, sys, time
guard, mode = sys.argv[1:]
reading, writing = os.pipe()
child = subprocess.Popen(
    [sys.executable, "-I", "-S", guard, mode, str(os.getpid()), str(reading), "sleep", "60"],
    pass_fds=(reading,), start_new_session=True,
)
print(child.pid, flush=True)
time.sleep(60)
"""


def _command_of(pid: int) -> str:
    return subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()


def _group_is_empty_within(pid: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("mode", MODES)
def test_a_child_dies_when_its_parent_is_killed(mode: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, GUARD, mode], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        child = int(parent.stdout.readline())
        deadline = time.monotonic() + 30
        while _command_of(child) != "sleep 60" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert _command_of(child) == "sleep 60", "the guard becomes the command, under the same pid"
        parent.kill()
        parent.wait()
        assert _group_is_empty_within(child, 30.0), "neither the child nor its watcher is left"
    finally:
        parent.kill()
        parent.communicate()
        parent.stdout.close()


def _run_guarded(*command: str, parent: int | None = None) -> subprocess.CompletedProcess[str]:
    reading, writing = os.pipe()
    try:
        return subprocess.run(
            [sys.executable, "-I", "-S", GUARD, "pipe", str(parent or os.getpid()), str(reading), *command],
            pass_fds=(reading,),
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    finally:
        os.close(reading)
        os.close(writing)


def test_output_ends_with_the_command_although_the_watcher_is_still_there() -> None:
    assert _run_guarded("echo", "done").stdout == "done\n"


def test_a_command_that_does_not_exist_is_named() -> None:
    done = _run_guarded("/no/such")
    assert done.returncode == 127
    assert done.stderr.strip() == "can't start /no/such: No such file or directory"


def test_a_parent_that_died_before_the_guard_ran_leaves_nothing(tmp_path: Path) -> None:
    assert _run_guarded("touch", str(tmp_path / "x"), parent=1).returncode == 127
    assert not (tmp_path / "x").exists()
