"""Cancelling tasks, and whose cancellation it is."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)

_AGAIN_S = 0.25


def is_being_cancelled() -> bool:
    """Whether somebody asked this very task to end: grpc.aio raises CancelledError for a call that ended, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end; an error it ends with is logged.

    Asked again until it has ended: `asyncio.wait_for` of Python 3.11, which redis-py uses, loses a cancellation that
    comes in the moment of an answer.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_S)
    if task.cancelled() or (error := task.exception()) is None:
        return
    if not isinstance(error, ConfigError):  # that one ends the process with its own line
        logger.error("a task ended with an error", exc_info=error)
