"""An edge with EDGE_WORKERS as a process, and what the system says of its workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.stack import clean_environment

LIMIT_S = 60.0
_PROC = Path("/proc")


def workers_of(parent: int) -> dict[int, int]:
    """Number → process id of the workers that run now."""
    found = {}
    for child in (_PROC / str(parent) / "task" / str(parent) / "children").read_text().split():
        words = _command(int(child))
        if "--worker" in words and not any(word.endswith("guard.py") for word in words):
            found[int(words[words.index("--worker") + 1])] = int(child)
    return found


def is_gone(pid: int) -> bool:
    """No such process, or nothing left of it but its exit code."""
    return not _command(pid)


def suspend(pid: int) -> None:
    """SIGSTOP, and wait until it has been taken: other signals may overtake it."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: "State:\tT" in (_PROC / str(pid) / "status").read_text(), f"{pid} stopped")


def _command(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "cmdline").read_text().split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it, with a limit."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class LoneEdge:
    """`python -m services.edge` without other services or Redis; leaving kills it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.edge"],
            env={**clean_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # also workers that a failing test has left
        self.process.communicate()

    def workers(self, count: int) -> dict[int, int]:
        """Number → process id, once so many run."""
        until(lambda: len(workers_of(self.process.pid)) == count, f"{count} workers")
        return workers_of(self.process.pid)

    def end(self) -> tuple[int, str, list[str]]:
        """Exit code, stdout, and the lines of stderr that are no log, once it has ended."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, [line for line in err.splitlines() if not line.startswith("{")]

    def group_is_empty(self) -> bool:
        """Neither the edge nor anything that it started is left."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False
