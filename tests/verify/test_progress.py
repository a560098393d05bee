"""Progress on a terminal and on a pipe, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminal import run_on_terminal

_ROOT = Path(__file__).resolve().parents[2]
_TWO_STEPS = """
from verify.progress import steps
with steps(2) as progress:
    for name in ("[one]", "[two]"):
        progress.begin(name)
        print("out", name)
        progress.end(f"{name} took 1.5 s " + "x" * 200)
"""
_ONE_RUN = """
import asyncio, io
from verify import progress
from verify.events import Acked, Publishing, Recorder

progress.EVERY_S = 0.2

async def main():
    recorder = Recorder(io.BytesIO())
    shown = progress.RunProgress(progress.stderr(), recorder)
    task = asyncio.create_task(shown.run())
    shown.stage("publishing")
    recorder.note(Publishing(at=0.0, id="1", channel="c", publisher="p"))
    recorder.note(Acked(at=0.0, id="1", channel="c", offset=1, epoch="e"))
    await asyncio.sleep(0.7)
    task.cancel()

asyncio.run(main())
"""
_COUNTED = "publishing: 1 of 1 publications acknowledged, 0 deliveries, 0 cuts, 0 gap notifications"


def on_a_pipe(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with pipes for stdout and stderr."""
    command = [sys.executable, "-c", program]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.parametrize("forced", ["", "1"])
def test_a_pipe_gets_one_plain_line_per_result(forced: str) -> None:
    done = on_a_pipe(_TWO_STEPS, FORCE_COLOR=forced)
    results = [f"{name} took 1.5 s " + "x" * 200 for name in ("[one]", "[two]")]
    assert done.stderr.splitlines() == results
    assert done.stdout.splitlines() == ["out [one]", "out [two]"]


def test_a_terminal_gets_a_bar_and_stdout_stays_a_pipe() -> None:
    done = run_on_terminal([sys.executable, "-c", _TWO_STEPS], cwd=_ROOT, ends_within_s=60)
    assert done.code == 0, done
    assert "\x1b[" in done.stderr
    assert "2/2" in done.stderr
    assert "[two] took 1.5 s" in done.stderr
    assert done.stdout.splitlines() == ["out [one]", "out [two]"]


def test_a_pipe_gets_a_plain_line_of_a_run_now_and_then() -> None:
    lines = on_a_pipe(_ONE_RUN).stderr.splitlines()
    assert lines[0] == "publishing: 0 of 0 publications acknowledged, 0 deliveries, 0 cuts, 0 gap notifications"
    assert len(lines) > 1
    assert set(lines[1:]) == {_COUNTED}


def test_a_terminal_gets_a_live_line_of_a_run() -> None:
    done = run_on_terminal([sys.executable, "-c", _ONE_RUN], cwd=_ROOT, ends_within_s=60)
    assert done.code == 0, done
    assert "\x1b[2K" in done.stderr  # the line is written again in its place
    assert "publishing: 1 of 1" in done.stderr
