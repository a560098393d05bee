"""How late this process is woken, for tests that bound a time."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

_EVERY_S = 0.02
_EXACT_S = 0.005  # a timer of a machine that has time is no later


class Lateness:
    """Counts for how long this process was not run; async context manager.

    `total_s` is next to nothing on a quiet machine. A bound on what took a while should leave it out.
    """

    def __init__(self) -> None:
        self.total_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._count())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _count(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_EVERY_S)
            late_s = time.monotonic() - began - _EVERY_S
            if late_s > _EXACT_S:
                self.total_s += late_s
