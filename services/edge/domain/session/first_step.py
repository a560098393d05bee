"""Coroutines that mostly have nothing to wait for: run here and now, without the cost of a task."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any


def run_until_it_waits(work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Run it as far as it comes; None: it has ended. Else what is left of it, for a task.

    Up to its first wait it has no task of its own, so it must not ask for one there, as `asyncio.timeout` does.
    """
    try:
        waits_for = work.send(None)
    except StopIteration:
        return None
    return _rest(work, waits_for)


async def _rest(work: Coroutine[Any, Any, None], waits_for: object) -> None:
    await _go_on(work, waits_for)


@types.coroutine
def _go_on(work: Coroutine[Any, Any, None], waits_for: object) -> Generator[object, None, None]:
    """Wait for what it waits for, in its place: a coroutine that has begun can't be awaited."""
    while True:
        failure: BaseException | None = None
        try:
            yield waits_for
        except BaseException as error:  # a cancellation
            failure = error
        try:
            waits_for = work.send(None) if failure is None else work.throw(failure)
        except StopIteration:
            return
