"""Publishing to the log of `stored` channels as its tests want it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import Outcome
from services.shared.hotlog.hotlog import STAMP_BYTES


def begin(log: Log, requests: Sequence[Request]) -> list[asyncio.Future[Outcome]]:
    """What becomes of each, in order."""
    loop = asyncio.get_running_loop()
    outcomes: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in requests]
    log.append(requests, lambda index, outcome: outcomes[index].set_result(outcome))
    return outcomes


async def append(log: Log, requests: Sequence[Request]) -> list[Outcome]:
    """The same, once all is known."""
    return [await outcome for outcome in begin(log, requests)]


def unstamped(publication: bytes) -> bytes:
    """Return a publication as the log got it, without the time that the log appended."""
    return publication[:-STAMP_BYTES]
