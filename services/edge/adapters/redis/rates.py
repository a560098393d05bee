"""Rate limits in Redis: `SharedRates` by a script that takes tokens from a bucket."""

from __future__ import annotations

from pathlib import Path

from services.edge.adapters.redis.limit_calls import LimitCalls
from services.edge.domain.limits.ports import Taken
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load

_FOLDER = Path(__file__).parent
TAKE_TOKENS = load(_FOLDER / "clock.lua", _FOLDER / "take_tokens.lua")
_US = 1_000_000


class RedisRates:
    """Implements `SharedRates`, see domain/limits/ports.py."""

    def __init__(self, calls: LimitCalls) -> None:
        self._calls = calls

    async def take(self, limit: str, name: str, *, rate: float, burst: float, most: int, least: int) -> Taken:
        tokens, wait_us = await self._calls.run(take_call(limit, name, rate=rate, burst=burst, most=most, least=least))
        return Taken(int(tokens), int(wait_us) / _US)


def take_call(limit: str, name: str, *, rate: float, burst: float, most: int, least: int) -> Call:
    """Return the call of the script."""
    return Call(TAKE_TOKENS, [keys.limit(limit, name)], [f"{_US / rate:.6f}", f"{burst:g}", most, least])
