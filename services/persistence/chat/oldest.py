"""The age of what waits for the longest in a sorted set of times in Redis."""

from __future__ import annotations

from collections.abc import Callable

from services.shared.hotlog.scripts import raise_for_error
from services.shared.redis.pipeline import RedisPipeline


async def oldest_s(client: RedisPipeline, key: str, clock: Callable[[], float], timeout_s: float) -> float:
    """Return the age of the oldest member, seconds; 0: there is none.

    Scores are Unix ms, `clock` returns Unix seconds.

    Raises:
        Unavailable: Redis does not answer.
    """
    command = ("ZRANGEBYSCORE", key, "-inf", "+inf", "WITHSCORES", "LIMIT", 0, 1)
    oldest = raise_for_error((await client.execute([command], timeout_s=timeout_s))[0])
    return max(0.0, clock() - float(oldest[1]) / 1_000) if oldest else 0.0
