"""Waits at the start for a store that the service can't begin without."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0  # pause between two attempts, seconds
T = TypeVar("T")


async def once_store_answers(ask: Callable[[], Awaitable[T]]) -> T:
    """Call `ask` every second while it raises `Unavailable`; return its result.

    Logs the first failure only. Waits without limit, until cancelled.
    """
    said = False
    while True:
        try:
            return await ask()
        except Unavailable as error:
            if not said:
                logger.warning("not ready: the store does not answer", extra={"error": str(error)})
            said = True
            await asyncio.sleep(_PAUSE_S)
