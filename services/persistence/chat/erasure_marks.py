"""Marks in Redis of what is being erased from conversations.

A mark is set before the event is appended, and removed once all is erased. It has the position at that time, and the
event stands above it. So any replica can finish what a process has left that died in between.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.persistence.chat.oldest import oldest_s
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import SETTLED, Call, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_TIMEOUT_S = 2.0  # longest round trip, seconds
_LOOKED_AT = 1_000  # marks, for those of one channel


class Mark(NamedTuple):
    """Something is being erased from a channel, because of an event above `position`."""

    channel: str
    position: int
    name: bytes  # member of the sorted set: position, random text, channel


class PendingErasure(NamedTuple):
    """A mark, and when it was set, in Unix milliseconds."""

    mark: Mark
    at_ms: int


class ErasureMarks:
    """The marks. Every method raises `Unavailable` if Redis does not answer."""

    def __init__(self, client: RedisPipeline, clock: Callable[[], float]) -> None:
        """Create it; `clock` returns Unix seconds."""
        self._client, self._clock = client, clock

    async def set(self, places: Sequence[tuple[str, int]]) -> list[Mark]:
        """Mark (channel, position) each; return the marks in the same order."""
        marks = [
            Mark(channel, position, f"{position} {secrets.token_hex(8)} {channel}".encode())
            for channel, position in places
        ]
        now = int(self._clock() * 1_000)
        await self._run("ZADD", *(part for mark in marks for part in (now, mark.name)))
        return marks

    async def oldest_s(self) -> float:
        """Age of the oldest mark, seconds; 0: there is none."""
        return await oldest_s(self._client, keys.chat_erasures(), self._clock, _TIMEOUT_S)

    async def lowest(self, channel: str) -> int | None:
        """Return the lowest position of a channel's marks; None: there are none.

        0 if there are more marks, of all channels, than are looked at.
        """
        found = await self._run("ZRANGEBYSCORE", "-inf", "+inf", "LIMIT", 0, _LOOKED_AT)
        positions = (mark.position for mark in map(_mark_of, found) if mark.channel == channel)
        return 0 if len(found) == _LOOKED_AT else min(positions, default=None)

    async def remove(self, names: Sequence[bytes]) -> None:
        """Remove marks by their names."""
        await self._run("ZREM", *names)

    async def settled(self, age_s: float, limit: int, skip: int = 0) -> list[Mark]:
        """Return marks that were set more than `age_s` ago.

        The oldest come first; `skip` of them are left out.
        """
        call = Call(SETTLED, [keys.chat_erasures()], [int(age_s * 1_000), limit, skip])
        found = raise_for_error((await self._client.run([call], timeout_s=_TIMEOUT_S))[0])
        return [_mark_of(name) for name in found[::2]]

    async def oldest(self, limit: int) -> list[PendingErasure]:
        """Return the oldest marks, oldest first."""
        found = await self._run("ZRANGEBYSCORE", "-inf", "+inf", "WITHSCORES", "LIMIT", 0, limit)
        return [
            PendingErasure(_mark_of(name), int(float(at))) for name, at in zip(found[::2], found[1::2], strict=True)
        ]

    async def _run(self, command: str, *arguments: str | bytes | int) -> list[bytes]:
        words = (command, keys.chat_erasures(), *arguments)
        found: list[bytes] = raise_for_error((await self._client.execute([words], timeout_s=_TIMEOUT_S))[0])
        return found


def _mark_of(name: bytes) -> Mark:
    position, _, channel = name.decode().split(" ", 2)
    return Mark(channel, int(position), name)
