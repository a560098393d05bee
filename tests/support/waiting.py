"""Waiting in tests for what happens by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: it does not within the limit, which is generous: a loaded machine is no failure.
    """
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.005)
