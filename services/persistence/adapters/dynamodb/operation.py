"""An operation of a store in DynamoDB: several requests with one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.persistence.metrics import STORE_SECONDS
from services.shared.errors import Unavailable

DEADLINE_S = 2.0  # longest operation, with all its requests: edges wait 2.8 s for a publication


@asynccontextmanager
async def operation(name: str, deadline_s: float = DEADLINE_S) -> AsyncIterator[None]:
    """Context of an operation: measures it, and ends it at the deadline.

    Raises:
        Unavailable: the deadline has passed; a request that is under way may still be executed.
    """
    with STORE_SECONDS.labels(name).time():
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError:
            raise Unavailable("DynamoDB is too slow; the outcome is unknown") from None
