"""Rows of logs that are readable, whether the store has them or not.

Purpose. In a `queued` channel the newest rows are readable, and only Redis has them for a while. Whoever adds up a log
must not take what the store lacks for what was removed.

Rules.

* The store is asked first. If it has all that was asked for, that is the answer, and Redis is not asked: so reading a
  `stored` channel costs nothing more.
* If rows are missing at the end that is further along the log, they are not stored yet, or were removed. Then it is
  read once more, Redis before the store.
* A bound above the readable top names rows that are not there any more: Redis has lost them, and the log has another
  epoch. That is `Unavailable`, and no shorter page.

Example. The store has 1 to 7, Redis has 8 and 9. Rows above 5 up to 9: the store returns 6 and 7, so the log is asked,
which returns 6 to 9. Redis is lost: the same call fails, and its caller opens the log anew.

Trade-offs. What is not stored yet costs the store two reads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, Unpack

from services.persistence.domain.log import Log
from services.persistence.domain.ports import MAX_BYTES, ChannelState, CountedRow, LogStore
from services.persistence.domain.reading import Bounds
from services.shared.errors import Unavailable

_Row = TypeVar("_Row", tuple[int, bytes], CountedRow)


class _Bounds(Bounds):
    """Bounds of a page, of which the log has all up to `upto`."""

    upto: int


class ReadableRows:
    """Implements `Rows`.

    Every method raises `Unavailable` if Redis or the store does not answer.
    """

    def __init__(self, log: Log, store: LogStore) -> None:
        """Create it; `store` is that of the log."""
        self._log, self._store = log, store

    async def open(self, channel: str) -> ChannelState:
        """Return what the store knows of the channel."""
        return await self._store.open(channel)

    async def has_begun(self, channel: str) -> bool:
        """Whether the channel was ever opened."""
        return await self._store.has_begun(channel)

    async def channels(self, cursor: str) -> tuple[list[str], str]:
        """Return some channels; see `LogStore.channels`."""
        return await self._store.channels(cursor)

    async def read(self, channel: str, **bounds: Unpack[_Bounds]) -> list[tuple[int, bytes]]:
        """Return (offset, publication); see `LogStore.read`."""
        return await _whole(self._store.read, self._log.read, channel, **bounds)

    async def read_counted(self, channel: str, **bounds: Unpack[_Bounds]) -> list[CountedRow]:
        """As `read`, with what the log has counted up to each publication."""
        return await _whole(self._store.read_counted, self._log.read_counted, channel, **bounds)


async def _whole(
    of_store: Callable[..., Awaitable[list[_Row]]],
    of_log: Callable[..., Awaitable[tuple[list[_Row], ChannelState]]],
    channel: str,
    **bounds: Unpack[_Bounds],
) -> list[_Row]:
    """Return a page from the store, or if that has not all of it, from the log.

    Raises:
        Unavailable: the page lacks what was not removed. The log has changed meanwhile.
    """
    found = await of_store(channel, **bounds)
    if _is_whole(found, **bounds):
        return found
    found, top = await of_log(channel, **bounds)
    if not _is_whole(found, **bounds) and (found or _newest(**bounds) > top.top - top.behind):
        raise Unavailable("the log changes, or has lost its end")
    return found


def _newest(**bounds: Unpack[_Bounds]) -> int:
    """Return the highest offset that a page may have."""
    upto, since_offset = bounds["upto"], bounds["since_offset"]
    return min(upto, since_offset - 1) if bounds["reverse"] and since_offset else upto


def _is_whole(found: Sequence[_Row], **bounds: Unpack[_Bounds]) -> bool:
    """Whether a page has all that was asked for.

    That is, up to the end that is further along the log.
    """
    newest = _newest(**bounds)
    if bounds["reverse"]:
        return newest < 1 or (bool(found) and found[0][0] == newest)
    if newest <= bounds["since_offset"]:
        return True
    return bool(found) and (
        found[-1][0] == newest
        or len(found) >= bounds["limit"]
        or sum(len(row[1]) for row in found) >= bounds.get("max_bytes", MAX_BYTES)
    )
