"""Who types: when the others are told.

**Rules.**

1. That somebody begins is told once in 3 s for each user and conversation, however many devices and calls there are. An
   application calls again while the user types on; others take it as over after 6 s without a word.
2. That somebody stops is told if it was told that it began, and only once. So it is told no more often either.
3. What is known is one key in Redis for each user and conversation, for 30 s. Replicas share it. It is lost with Redis,
   and then something is told once more.

**Example.** Ann types for 5 s, with a call every second: told at 0 s and 3 s. She stops: told. She goes on at 5.5 s,
which is not told, and at 6 s, which is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

EVERY_MS = 3_000
KEPT_MS = 30_000
_TIMEOUT_S = 2.0  # longest round trip, seconds
_NOTE = load(Path(__file__).parent / "who_types.lua")


class Typing:
    """Knows whether others are to be told.

    Raises `Unavailable` if Redis does not answer.
    """

    def __init__(self, redis: RedisPipeline, now_ms: Callable[[], int]) -> None:
        """Create it; `now_ms`: Unix ms by the clock of Redis."""
        self._redis, self._now_ms = redis, now_ms

    async def began(self, channel: str, user: str) -> bool:
        """Note that a user types; return whether to tell."""
        return await self._note(channel, user, "1")

    async def stopped(self, channel: str, user: str) -> bool:
        """Note that a user types no more; return whether to tell."""
        return await self._note(channel, user, "0")

    async def _note(self, channel: str, user: str, what: str) -> bool:
        call = Call(_NOTE, [keys.typing(channel, user)], [self._now_ms(), what, EVERY_MS, KEPT_MS])
        (reply,) = await self._redis.run([call], timeout_s=_TIMEOUT_S)
        return bool(raise_for_error(reply))
