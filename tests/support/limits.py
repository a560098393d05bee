"""Limits in Redis as an edge has them, and with a time that is passed in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from services.edge.adapters.redis import rates as adapter
from services.edge.adapters.redis.limit_calls import LimitCalls
from services.edge.adapters.redis.rates import RedisRates, take_call
from services.edge.domain.limits.ports import Taken
from services.edge.domain.limits.refusals import LimitRefusals
from services.shared.hotlog.scripts import Call, Script, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

US = 1_000_000
START_US = 90_000_000_000_000  # as `now_us` has it in September 2026


class LimitEdge:
    """Connection, calls and rates of one edge; `close` ends them."""

    def __init__(self, url: str) -> None:
        self.pipeline = RedisPipeline(url)
        self.calls = LimitCalls(self.pipeline)
        self.rates = RedisRates(self.calls)
        self.refusals = LimitRefusals()

    async def close(self) -> None:
        await self.calls.close()
        await self.pipeline.aclose()


def timed(script: str) -> Script:
    """A script of the edge whose clock is its last argument, in µs."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Path(folder) / "clock.lua"
        clock.write_text("local function now_us() return tonumber(ARGV[#ARGV]) end\n")
        return load(clock, Path(adapter.__file__).parent / script)


class TimedRates:
    """`SharedRates` in a real Redis, by a clock of the test: `now_us`."""

    def __init__(self, redis: RedisPipeline, now_us: Callable[[], int]) -> None:
        self._redis, self._now_us = redis, now_us
        self._script = timed("take_tokens.lua")
        self.asked = 0

    async def take(self, limit: str, name: str, *, rate: float, burst: float, most: int, least: int) -> Taken:
        self.asked += 1
        call = take_call(limit, name, rate=rate, burst=burst, most=most, least=least)
        timed_call = Call(self._script, call.keys, [*call.arguments, self._now_us()])
        (reply,) = await self._redis.run([timed_call], timeout_s=5)
        tokens, wait_us = raise_for_error(reply)
        return Taken(int(tokens), int(wait_us) / US)
