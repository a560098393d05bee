"""CPU time and memory of processes, as Linux tells them in /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12  # fields of stat behind the name


def cpu_s(pid: int, proc: Path = _PROC) -> float:
    """Seconds of CPU, user and system, of all threads of the process so far."""
    # The name may hold anything, also parentheses and blanks: what counts begins behind the last one.
    fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S


def rss_kib(pid: int, proc: Path = _PROC) -> int:
    """KiB of memory that are in use by the process, those that it shares included."""
    return _kib(proc / str(pid) / "status", "VmRSS:")


def pss_kib(pid: int, proc: Path = _PROC) -> int:
    """KiB of memory, of shared ones its share."""
    return _kib(proc / str(pid) / "smaps_rollup", "Pss:")


def _kib(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
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
