"""How late this process is woken, for tests that bound a time.

    async with Lateness() as late:
        await what_must_be_quick()
    assert late.took_s < 0.5

On a quiet machine `took_s` is the time that went by. On a busy one it leaves out for how long this process waited for a
processor; what it computed itself is not left out. Other processes of the same test wait as long, about.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

_EVERY_S = 0.02
_EXACT_S = 0.005  # a timer of a machine that has time is no later


class Lateness:
    """Counts for how long this process was not run; async context manager."""

    def __init__(self) -> None:
        self._counted_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._took_s: float | None = None  # once it is over

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        self._sleep()
        self._task = asyncio.create_task(self._count())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._counted_s = self.total_s
        self._took_s = time.monotonic() - self._began - self._counted_s
        self._task.cancel()
        await asyncio.wait([self._task])

    @property
    def total_s(self) -> float:
        """For how long until now: next to nothing on a quiet machine."""
        if self._took_s is not None:
            return self._counted_s
        late_s = time.monotonic() - self._due - (time.process_time() - self._computed_s)
        return self._counted_s + (late_s if late_s > _EXACT_S else 0.0)

    @property
    def took_s(self) -> float:
        """How long it has been since the beginning, or was until the end, without that."""
        return time.monotonic() - self._began - self.total_s if self._took_s is None else self._took_s

    def _sleep(self) -> None:
        self._due = time.monotonic() + _EVERY_S
        self._computed_s = time.process_time()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(self._due - time.monotonic())
            self._counted_s = self.total_s
            self._sleep()
