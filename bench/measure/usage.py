"""What a target's processes used between two moments."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from bench.measure.proc import cpu_s, family, pss_kib, rss_kib


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU so far and memory now, by process name; children count as their parents."""

    at_s: float
    cpu: Mapping[str, float]
    rss: Mapping[str, int]
    pss: Mapping[str, int]

    def cpu_since(self, before: Usage) -> float:
        """Seconds of CPU of all processes."""
        return sum(self.cpu.values()) - sum(before.cpu.values())


def usage(pids: Mapping[str, int]) -> Usage:
    """As it is now."""
    families = {name: family([pid]) for name, pid in pids.items()}
    return Usage(
        at_s=time.monotonic(),
        cpu={name: sum(map(cpu_s, members)) for name, members in families.items()},
        rss={name: sum(map(rss_kib, members)) for name, members in families.items()},
        pss={name: sum(map(pss_kib, members)) for name, members in families.items()},
    )
