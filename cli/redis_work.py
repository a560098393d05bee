"""Work that a command does in the Redis of the running stack."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from cli.errors import Unreachable
from cli.options import find_redis
from services.shared.errors import Unavailable
from services.shared.redis.pipeline import RedisPipeline

T = TypeVar("T")


def with_redis(data: Path, work: Callable[[RedisPipeline], Awaitable[T]]) -> T:
    """Run work with a connection.

    Raises:
        Unreachable: Redis does not answer, or refuses.
    """
    address = find_redis(data)

    async def run() -> T:
        redis = RedisPipeline(address)
        try:
            return await work(redis)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(run())
    except Unavailable as error:
        raise Unreachable(str(error)) from error
