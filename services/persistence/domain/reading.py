"""Reads pages of a log, from the store and from Redis.

The store lacks what was acknowledged before it was stored (`early.py`), usually some milliseconds of publications.
Redis is read first: what it does not have any more then, the store has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict, TypeVar, Unpack

from services.persistence.domain.ports import MAX_BYTES, ChannelState, CountedRow, HotLog, LogStore
from services.shared.errors import Unavailable
from services.shared.hotlog.entries import Entry

_ENTRIES, _BYTES = 256, 1 << 20  # of one reply of Redis


class Bounds(TypedDict):
    """Bounds of a read; see `LogStore.read`."""

    since_offset: int
    limit: int
    reverse: bool
    max_bytes: NotRequired[int]


_Row = TypeVar("_Row", tuple[int, bytes], CountedRow)


async def read(
    hot: HotLog, store: LogStore, channel: str, top: ChannelState, **bounds: Unpack[Bounds]
) -> list[tuple[int, bytes]]:
    """Return (offset, publication) up to a readable top; see `LogStore.read`."""
    others = await _unstored(hot, channel, top, **bounds)
    found = await store.read(channel, upto=top.top, **bounds)
    return merged(found, [(row.offset, row.publication) for row in others], **bounds) if others else found


async def read_counted(
    hot: HotLog, store: LogStore, channel: str, top: ChannelState, **bounds: Unpack[Bounds]
) -> list[CountedRow]:
    """As `read`, with what the log has counted up to each publication."""
    others = await _unstored(hot, channel, top, **bounds)
    found = await store.read_counted(channel, upto=top.top, **bounds)
    return merged(found, others, **bounds) if others else found


def below(top: ChannelState, upto: int | None) -> ChannelState:
    """Return a readable top, or what is left of it up to an offset.

    Raises:
        Unavailable: the offset is above the top.
    """
    if upto is None:
        return top
    if upto > top.top:
        raise Unavailable("what was readable there is lost")
    return top._replace(top=upto, behind=max(0, top.behind - (top.top - upto)))


async def _unstored(hot: HotLog, channel: str, top: ChannelState, **bounds: Unpack[Bounds]) -> list[CountedRow]:
    """Return what of a page may not be stored, up to the top, oldest first.

    It is read in several replies, none of which is large.
    """
    limit, left, reverse = bounds["limit"], bounds.get("max_bytes", MAX_BYTES), bounds["reverse"]
    at = min(bounds["since_offset"] or top.top + 1, top.top + 1) if reverse else bounds["since_offset"]
    entries: list[Entry] = []
    if not top.behind or (reverse and at <= top.top - top.behind + 1) or (at >= top.top and not reverse):
        return []
    while len(entries) < limit and left > 0:
        most = min(limit - len(entries), _ENTRIES)
        (found,) = await hot.unstored([channel], most, max_bytes=min(left, _BYTES), since_offset=at, reverse=reverse)
        if found is None or found.epoch != top.epoch or not found.entries:
            break
        entries += [entry for entry in found.entries if entry.offset <= top.top]
        at = found.entries[-1].offset
        left -= sum(len(entry.publication) for entry in found.entries)
        if at >= top.top and not reverse:
            break
    rows = [CountedRow(one.offset, one.publication, one.flags, one.n, one.mv) for one in entries]
    return rows[::-1] if reverse else rows


def merged(stored: Sequence[_Row], others: Sequence[_Row], **bounds: Unpack[Bounds]) -> list[_Row]:
    """Return one page of rows of the store, and of those that it lacks.

    `others` are ascending. The bounds are those of the read.
    """
    since_offset, limit, max_bytes = bounds["since_offset"], bounds["limit"], bounds.get("max_bytes", MAX_BYTES)
    if bounds["reverse"]:
        page = [row for row in reversed(others) if not since_offset or row[0] < since_offset]
        lowest = page[-1][0] if page else None
        page += [row for row in stored if lowest is None or row[0] < lowest]
    else:
        page = list(stored)
        for row in others:
            if row[0] > since_offset and (not page or row[0] == page[-1][0] + 1):
                page.append(row)
    for index, row in enumerate(page[:limit]):
        max_bytes -= len(row[1])
        if max_bytes <= 0:
            return page[: index + 1]
    return page[:limit]
