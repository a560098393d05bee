"""`Limits` in Redis, so that all replicas count together.

While Redis does not answer, each process counts for itself.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_TIMEOUT_S = 0.5  # longest wait for Redis, seconds
_MAX_LOCAL = 10_000  # names that are counted in this process; the oldest are dropped


class RedisLimits:
    """Fixed time windows. A window begins with its first count."""

    def __init__(self, redis: RedisPipeline) -> None:
        self._redis = redis
        self._local: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def count(self, name: str, window_s: int) -> int:
        return await self._add(name, 1, window_s)

    async def uncount(self, name: str, window_s: int) -> None:
        await self._add(name, -1, window_s)

    async def current(self, name: str) -> tuple[int, int]:
        key = keys.name(f"auth:limit:{name}")
        try:
            replies = await self._redis.execute([("GET", key), ("TTL", key)], timeout_s=_TIMEOUT_S)
            count, ttl_s = map(raise_for_error, replies)
            return int(count or 0), max(0, int(ttl_s))
        except Unavailable:
            count, ends = self._local.get(name, (0, 0.0))
            left_s = ends - time.monotonic()
            return (count, int(left_s) + 1) if left_s > 0 else (0, 0)

    async def _add(self, name: str, change: int, window_s: int) -> int:
        key = keys.name(f"auth:limit:{name}")
        try:
            replies = await self._redis.execute(
                [("MULTI",), ("INCRBY", key, change), ("EXPIRE", key, window_s, "NX"), ("EXEC",)], timeout_s=_TIMEOUT_S
            )
            return int(raise_for_error(raise_for_error(replies[-1])[0]))
        except Unavailable:
            return self._add_here(name, change, window_s)

    def _add_here(self, name: str, change: int, window_s: int) -> int:
        now = time.monotonic()
        count, ends = self._local.pop(name, (0, 0.0))
        if ends <= now:
            count, ends = 0, now + window_s
        self._local[name] = (count + change, ends)
        while len(self._local) > _MAX_LOCAL:
            self._local.popitem(last=False)
        return count + change
