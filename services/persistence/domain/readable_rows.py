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

from collections.abc import Sequence

from services.persistence.domain.log import Log
from services.persistence.domain.ports import MAX_BYTES, ChannelState, CountedRow, LogStore
from services.shared.errors import Unavailable

_Row = tuple[int, bytes] | CountedRow


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

    async def read(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[tuple[int, bytes]]:
        """Return (offset, publication); see `LogStore.read`."""
        found = await self._store.read(
            channel, since_offset=since_offset, upto=upto, limit=limit, reverse=reverse, max_bytes=max_bytes
        )
        if _is_whole(found, since_offset, upto, limit, reverse, max_bytes):
            return found
        found, top = await self._log.read(
            channel, since_offset=since_offset, upto=upto, limit=limit, reverse=reverse, max_bytes=max_bytes
        )
        _check(found, top, since_offset, upto, limit, reverse, max_bytes)
        return found

    async def read_counted(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[CountedRow]:
        """As `read`, with what the log has counted up to each publication."""
        found = await self._store.read_counted(
            channel, since_offset=since_offset, upto=upto, limit=limit, reverse=reverse, max_bytes=max_bytes
        )
        if _is_whole(found, since_offset, upto, limit, reverse, max_bytes):
            return found
        found, top = await self._log.read_counted(
            channel, since_offset=since_offset, upto=upto, limit=limit, reverse=reverse, max_bytes=max_bytes
        )
        _check(found, top, since_offset, upto, limit, reverse, max_bytes)
        return found


def _check(
    found: Sequence[_Row],
    top: ChannelState,
    since_offset: int,
    upto: int,
    limit: int,
    reverse: bool,
    max_bytes: int,
) -> None:
    """Raise `Unavailable` if a page lacks what was not removed.

    The log has changed meanwhile.
    """
    if _is_whole(found, since_offset, upto, limit, reverse, max_bytes):
        return
    newest = min(upto, since_offset - 1) if reverse and since_offset else upto
    if found or newest > top.top - top.behind:
        raise Unavailable("the log changes, or has lost its end")


def _is_whole(
    found: Sequence[_Row],
    since_offset: int,
    upto: int,
    limit: int,
    reverse: bool,
    max_bytes: int,
) -> bool:
    """Whether the store has returned all that was asked for.

    That is, up to the end that is further along the log.
    """
    if reverse:
        newest = min(upto, since_offset - 1) if since_offset else upto
        return newest < 1 or (bool(found) and found[0][0] == newest)
    if upto <= since_offset:
        return True
    return bool(found) and (
        found[-1][0] == upto or len(found) >= limit or sum(len(row[1]) for row in found) >= max_bytes
    )
