"""Helpers for cancelling tasks, and for telling whose cancellation it is."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)

_AGAIN_S = 0.25  # pause before a task is cancelled again, seconds


def is_being_cancelled() -> bool:
    """Whether the current task itself was asked to end.

    grpc.aio also raises CancelledError when a call ended by itself.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end. An error that it ends with is logged.

    Cancels it repeatedly until it has ended: `asyncio.wait_for` of Python 3.11, which redis-py uses, loses a
    cancellation that arrives at the same moment as the response.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_S)
    if task.cancelled() or (error := task.exception()) is None:
        return
    if not isinstance(error, ConfigError):  # a ConfigError ends the process with a line of its own
        logger.error("a task ended with an error", exc_info=error)
