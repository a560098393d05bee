"""State that all clients of one run share."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field

from verify.events import Event, Recorder
from verify.target import Target


@dataclass(slots=True)
class Run:
    """One run. Its clock begins when it is made."""

    name: str  # prefix of every publication's id
    target: Target
    recorder: Recorder
    rng: random.Random
    started: float = field(default_factory=time.monotonic)
    published: set[str] = field(default_factory=set)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def note(self, event: Event) -> None:
        """Record an event in the history."""
        self.recorder.note(event)

    def new_id(self) -> str:
        """Return an id that no publication has had."""
        return f"{self.name}-{next(self._numbers)}"

    def edge(self, attempt: int) -> str:
        """Return the edge for this attempt; successive attempts take successive edges."""
        return self.target.websockets[attempt % len(self.target.websockets)]

    async def pause(self, attempt: int) -> None:
        """Wait before the next attempt: 50 ms, doubling up to 1 s, with jitter."""
        await asyncio.sleep(min(1.0, 0.05 * 2 ** min(attempt, 6)) * self.rng.uniform(0.5, 1.0))
