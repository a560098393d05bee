"""Runs a coroutine without a task until it first waits.

For coroutines that mostly end without waiting: they are spared the cost of a task.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any


def run_until_it_waits(work: Coroutine[Any, Any, None], context: Context) -> Coroutine[Any, Any, None] | None:
    """Run a coroutine in `context` until it first waits.

    Return None if it has ended, otherwise a coroutine for the rest, to be run in a task with the same context. Until
    its first wait the coroutine has no task of its own. So it must not use anything that needs one, such as
    `asyncio.timeout`.

    Args:
        context: A copy of the caller's context that nothing else uses. Context variables that the coroutine sets are
            not seen by the caller, and can be reset behind the wait, as in a task.
    """
    try:
        waits_for = context.run(work.send, None)
    except StopIteration:
        return None
    return _rest(work, waits_for)


async def _rest(work: Coroutine[Any, Any, None], waits_for: object) -> None:
    await _go_on(work, waits_for)


@types.coroutine
def _go_on(work: Coroutine[Any, Any, None], waits_for: object) -> Generator[object, None, None]:
    """Drive a coroutine that has begun; `waits_for` is the future it waits for.

    Such a coroutine can't be awaited. So this passes on what it waits for, and sends the results to it.
    """
    while True:
        failure: BaseException | None = None
        try:
            yield waits_for
        except BaseException as error:  # the task was cancelled
            failure = error
        try:
            waits_for = work.send(None) if failure is None else work.throw(failure)
        except StopIteration:
            return
