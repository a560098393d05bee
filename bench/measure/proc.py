"""CPU time and memory of processes, as Linux tells them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_CPU_CLOCK = 2  # CPUCLOCK_SCHED: the clock of what a process runs, all threads, user and system


def cpu_s(pid: int) -> float:
    """Seconds of CPU of the process so far.

    The sum of utime and stime in /proc/<pid>/stat, which shows it in steps of 10 ms; its clock shows it exactly
    (clock_getcpuclockid(3); the number is made as the C library makes it).
    """
    return time.clock_gettime(~pid << 3 | _CPU_CLOCK)


def rss_kib(pid: int, proc: Path = _PROC) -> int:
    """KiB of memory that are in use by the process, those that it shares included."""
    return _kib(proc / str(pid) / "status", "VmRSS:")


def pss_kib(pid: int, proc: Path = _PROC) -> int:
    """KiB of memory, of shared ones its share."""
    return _kib(proc / str(pid) / "smaps_rollup", "Pss:")


def fds(pid: int, proc: Path = _PROC) -> int:
    """Open file descriptors."""
    return len(os.listdir(proc / str(pid) / "fd"))


def threads(pid: int, proc: Path = _PROC) -> int:
    """Threads that run or wait."""
    return len(os.listdir(proc / str(pid) / "task"))


def _kib(file: Path, name: str) -> int:
    """Return a number of the file, KiB.

    0 for a process that has ended and was not waited for, such as one that Redis began to write its file: it has no
    memory any more.
    """
    try:
        lines = file.read_text().splitlines()
    except ProcessLookupError:
        return 0
    for line in lines:
        if line.startswith(name):
            return int(line.split()[1])
    if any(line.startswith("State:\tZ") for line in lines):
        return 0
    raise ValueError(f"{file} has no {name}")


def family(pids: Iterable[int], proc: Path = _PROC) -> list[int]:
    """The processes, their children, and theirs."""
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for task in (proc / str(pid) / "task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return found
