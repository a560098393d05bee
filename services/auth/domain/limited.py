"""Limits of attempts in a window of time."""

from __future__ import annotations

from services.auth.domain.ports import Limits
from services.auth.domain.refusals import TooMany


async def count_attempt(limits: Limits, name: str, most: int, window_s: int) -> None:
    """Count an attempt under a name.

    Raises:
        TooMany: there were more than `most` in this window, with this one.
    """
    if await limits.count(name, window_s) > most:
        raise TooMany((await limits.current(name))[1])
