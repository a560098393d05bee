"""Scripts of the log over redis-py, as tests run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio

from services.shared.hotlog.scripts import Call, Command, run_through


async def run(client: redis.asyncio.Redis, calls: Sequence[Call]) -> list[Any]:
    """Run calls; return their results in order, `redis.ResponseError` if refused."""

    async def send(commands: Sequence[Command]) -> list[Any]:
        async with client.pipeline(transaction=False) as pipeline:
            for words in commands:
                pipeline.execute_command(*words)
            return list(await pipeline.execute(raise_on_error=False))

    return await run_through(send, calls)
