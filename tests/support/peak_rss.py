"""The most memory that a process has had resident, as Linux counts it."""

from __future__ import annotations

import re
from pathlib import Path

_PROC = Path("/proc")
_FORGET_PEAK = "5"  # of clear_refs, see proc(5)


class PeakRss:
    """How far the resident memory of a process rises above where it is now."""

    def __init__(self, pid: int) -> None:
        self._folder = _PROC / str(pid)
        (self._folder / "clear_refs").write_text(_FORGET_PEAK)
        self.before_kib = self._peak_kib()

    def risen_kib(self) -> int:
        """Its peak since then, less what it had."""
        return max(0, self._peak_kib() - self.before_kib)

    def _peak_kib(self) -> int:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (self._folder / "status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])
