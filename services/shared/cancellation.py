"""Whose cancellation it is: grpc.aio raises CancelledError for a call whose channel was closed, too."""

from __future__ import annotations

import asyncio


def is_being_cancelled() -> bool:
    """Whether somebody asked this very task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
