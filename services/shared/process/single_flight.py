"""Work that is done once for all who ask for it at the same time (single flight)."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Tasks by key, each shared by its callers.

    A task goes on when its callers give up: others may join it, and what it brings may be of use later. Whoever asks
    after its end starts a new one.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Result]] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Whether work of this key is under way."""
        return key in self._running

    async def do(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, Result]], *, name: str = "") -> Result:
        """Return the result of the work that is under way for `key`.

        Start `work` if there is none.

        All callers get the same result, or the same exception. `name` is that of a new task.
        """
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._run(key, work), name=name or None)
            task.add_done_callback(functools.partial(self._ended, key))
        return await asyncio.shield(task)

    async def _run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        try:
            return await work()
        finally:
            # Not in a callback: what the work started before its end must not find it under way any more.
            del self._running[key]

    def _ended(self, key: Hashable, done: asyncio.Task[Result]) -> None:
        """Forget a task cancelled before it began; fetch the exception of any other.

        asyncio logs an exception that nobody fetched, as when all callers gave up.
        """
        if self._running.get(key) is done:
            del self._running[key]
        if not done.cancelled():
            done.exception()
