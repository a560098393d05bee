"""Whose turn it is to remove, or to archive, what is old, as a key in Redis.

The key expires. While a replica sweeps it renews it, so that another one goes on a minute after it died. At the end it
lets it stand for as long as the pause is: a sweep is due when there is no key. A Redis that lost the key only causes a
sweep too early. What the last sweep did is kept for operators.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

from services.persistence.domain.retention import Swept
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import raise_for_error
from services.shared.redis.pipeline import RedisPipeline

HELD_S = 60  # seconds after which the turn of a replica that died is over
_RENEWED_S = 10.0  # seconds after which it is renewed
_TIMEOUT_S = 2.0  # longest round trip


class Done(Protocol):
    """Counts of what was done: a named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


class RedisTurn:
    """`Turn` in Redis; methods raise `Unavailable` if it does not answer."""

    def __init__(self, client: RedisPipeline, clock: Callable[[], float], *, turn: str = "", swept: str = "") -> None:
        """Create it; `clock` returns Unix seconds.

        `turn`, `swept`: keys of the turn, and of what was done last; those of retention if not given.
        """
        self._client, self._clock = client, clock
        self._turn, self._swept = turn or keys.retention_turn(), swept or keys.retention_swept()
        self._name = secrets.token_hex(8)
        self._renewed_at = 0.0  # monotonic seconds

    async def time(self) -> float:
        """Ask Redis for its time."""
        (found,) = await self._execute(("TIME",))
        return int(found[0]) + int(found[1]) / 1e6

    async def take(self) -> bool:
        """Take the turn, if there is no key."""
        (taken,) = await self._execute(("SET", self._turn, self._name, "NX", "EX", HELD_S))
        self._renewed_at = time.monotonic()
        return taken is not None

    async def keep(self) -> bool:
        """Renew the key every 10 s, if it is ours."""
        if time.monotonic() < self._renewed_at + _RENEWED_S:
            return True
        (holder,) = await self._execute(("GET", self._turn))
        if holder != self._name.encode():
            return False
        await self._execute(("SET", self._turn, self._name, "EX", HELD_S))
        self._renewed_at = time.monotonic()
        return True

    async def end(self, swept: Done, pause_s: int) -> None:
        """Let the key stand for the pause, and note what was done."""
        done = [("at", round(self._clock())), *swept._asdict().items()]
        fields = [part for pair in done for part in pair]
        await self._execute(("SET", self._turn, self._name, "EX", pause_s), ("HSET", self._swept, *fields))

    async def _execute(self, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        return [raise_for_error(found) for found in await self._client.execute(commands, timeout_s=_TIMEOUT_S)]


async def last_swept(client: RedisPipeline) -> tuple[int, Swept] | None:
    """Return when the last sweep ended, Unix seconds, and what it did.

    None: there was none.

    Raises:
        Unavailable: Redis does not answer.
    """
    command = ("HMGET", keys.retention_swept(), "at", *Swept._fields)
    found = raise_for_error((await client.execute([command], timeout_s=_TIMEOUT_S))[0])
    if found[0] is None:
        return None
    return int(found[0]), Swept(*(int(one or 0) for one in found[1:]))
