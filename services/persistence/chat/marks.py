"""What conversations keep in Redis: unwritten changes, slow mode, known keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.persistence.chat.oldest import oldest_s
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import SETTLED, UNMARK, Call, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_TIMEOUT_S = 2.0  # longest round trip, seconds


class Marks:
    """Marks in Redis. Every method raises `Unavailable` if Redis does not answer.

    A conversation is marked while the log may have changes of it that the read model does not have. A mark is the time
    when it was set, Unix ms, as bytes.
    """

    def __init__(self, client: RedisPipeline, clock: Callable[[], float]) -> None:
        """Create it; `clock` returns Unix seconds."""
        self._client, self._clock = client, clock

    async def mark(self, channels: Sequence[str]) -> bytes:
        """Mark conversations; return the mark."""
        mark = b"%d" % (self._clock() * 1_000)
        command = ["ZADD", keys.chat_pending()]
        (result,) = await self._run([*command, *(part for channel in channels for part in (mark, channel))])
        raise_for_error(result)
        return mark

    async def unmark(self, marks: Sequence[tuple[str, bytes]]) -> None:
        """Remove marks that were not renewed."""
        call = Call(UNMARK, [keys.chat_pending()], [part for one in marks for part in one])
        raise_for_error((await self._client.run([call], timeout_s=_TIMEOUT_S))[0])

    async def settled(self, age_s: float, limit: int, skip: int = 0) -> list[tuple[str, bytes]]:
        """Return (channel, mark) of those that were marked more than `age_s` ago.

        The oldest come first; `skip` of them are left out.
        """
        call = Call(SETTLED, [keys.chat_pending()], [int(age_s * 1_000), limit, skip])
        found = raise_for_error((await self._client.run([call], timeout_s=_TIMEOUT_S))[0])
        return [(channel.decode(), mark) for channel, mark in zip(found[::2], found[1::2], strict=True)]

    async def oldest_s(self) -> float:
        """Age of the oldest mark, seconds; 0: there is none."""
        return await oldest_s(self._client, keys.chat_pending(), self._clock, _TIMEOUT_S)

    async def has_key(self, channel: str, epoch: str, user: str, key: str) -> bool:
        """Whether an idempotency key has a place in the log of this epoch."""
        (found,) = await self._run(["GET", keys.key(channel, user, key)])
        place = raise_for_error(found)
        return place is not None and place.startswith(epoch.encode() + b" ")

    async def wait_ms(self, channel: str, user: str, seconds: int, publication_id: bytes) -> int:
        """Return how long a user must wait; if not at all, begin the time until the next.

        Milliseconds. 0: the user may post now, or it is this very publication whose time runs.
        """
        name = keys.slow_mode(channel, user)
        before, left = await self._run(["SET", name, publication_id, "NX", "GET", "EX", seconds], ["TTL", name])
        if raise_for_error(before) in (None, publication_id):
            return 0
        return max(1, int(raise_for_error(left))) * 1_000

    async def _run(self, *commands: Sequence[str | bytes | int]) -> list[object]:
        return await self._client.execute([tuple(command) for command in commands], timeout_s=_TIMEOUT_S)
