"""A loop whose clock nobody waits for."""

from __future__ import annotations

import asyncio
import selectors


class _NoWait(selectors.DefaultSelector):
    """Instead of waiting, time goes on."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everything waits for something that nobody does")
        self.passed += max(0.0, timeout)
        return super().select(0)


class ManualLoop(asyncio.SelectorEventLoop):
    """A loop whose sleeps and timeouts end once nothing else is left to run."""

    def __init__(self) -> None:
        self._no_wait = _NoWait()
        super().__init__(self._no_wait)

    def time(self) -> float:
        return self._no_wait.passed

    def skip(self, seconds: float) -> None:
        """So much time is gone."""
        self._no_wait.passed += seconds


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
