"""Tells metrics how many messages wait, and how many are in the dead-letter queue."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from services.persistence.queue.metrics import DEAD, WAITING
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

_EVERY_S = 30.0  # seconds between two looks


class Queue(Protocol):
    """What is looked at; see `SqsQueue`."""

    async def counts(self) -> tuple[int, int]: ...


async def watch(queue: Queue, every_s: float = _EVERY_S) -> None:
    """Look at the queue until cancelled.

    Where it does not answer, or there is no right to look, the last numbers stay; that is logged once.
    """
    is_told = False
    while True:
        try:
            waiting, dead = await queue.counts()
        except Unavailable as error:
            if not is_told:
                logger.warning("messages of the queue can't be counted", extra={"error": str(error)})
            is_told = True
        else:
            WAITING.set(waiting)
            DEAD.set(dead)
            is_told = False
        await asyncio.sleep(every_s)
