"""Waiting in tests for what happens by itself."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def until(holds: Callable[[], Any], within_s: float = 30.0, what: str = "") -> Any:
    """Wait until something holds; return what it is.

    Args:
        holds: Asked again and again. What it returns is awaited if need be, and counts if it is true.
        within_s: The limit, which is generous: a loaded machine is no failure.
        what: What is waited for, for the error.

    Raises:
        TimeoutError: it does not hold within the limit.
    """
    try:
        async with asyncio.timeout(within_s):
            while True:
                found = holds()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.005)
    except TimeoutError as error:
        raise TimeoutError(what or f"not within {within_s:g} s") from error
