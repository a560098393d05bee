"""Reads of the index of a conversation that fit together.

A query may see one half of a transaction. So what is read is checked: blocks follow each other without a gap, those
that the head's transaction wrote have its token, and a block has the token of its filter. If not, `Changed` is raised,
and who reads begins again with the head.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import TypeVar

from services.persistence.chat.adapters.dynamodb.search.kept import (
    Entry,
    Head,
    block_key,
    entry_of,
    filter_key,
    head_key,
    head_of,
    partition_of,
)
from services.persistence.chat.adapters.dynamodb.table import ChatTable
from services.shared.errors import Unavailable

PAGE = 40  # filters of one request: of 40,000 messages, mostly
_HEADS_AT_ONCE = 100  # of one request
_TRIES = 6
_PAUSE_S = 0.02  # before the second try; then longer
T = TypeVar("T")


class Changed(Exception):
    """What was read does not fit together, as somebody writes at the same time."""


class Reader:
    """Reads items of the index."""

    def __init__(self, table: ChatTable) -> None:
        self._table = table

    async def heads(self, channels: Collection[str]) -> dict[str, Head]:
        """Return heads; an empty one for conversations that have none."""
        found = {channel: Head() for channel in channels}
        named = {head_key(channel)[0]: channel for channel in found}
        keys = [head_key(channel) for channel in found]
        parts = [keys[start : start + _HEADS_AT_ONCE] for start in range(0, len(keys), _HEADS_AT_ONCE)]
        for items in await asyncio.gather(*(self._table.get_many(part) for part in parts)):
            found |= {named[item["p"]]: head_of(item) for item in items}
        return found

    async def head(self, channel: str) -> Head:
        """Return the head of one conversation."""
        return (await self.heads([channel]))[channel]

    async def down(self, channel: str, head: Head, upto: int, limit: int = PAGE) -> AsyncGenerator[Entry, None]:
        """Yield the blocks from the one with the offset `upto` downwards.

        `limit`: filters of one request.
        """
        wanted = upto
        if wanted <= head.base:
            return
        async for entry in self._entries(channel, head, 0, upto, limit, reverse=True):
            if not entry.first <= wanted <= entry.last or (wanted != upto and wanted != entry.last):
                raise Changed
            yield entry
            wanted = entry.first - 1
            if wanted <= head.base:
                break
        if wanted != head.base:
            raise Changed

    async def up(self, channel: str, head: Head, since: int, upto: int) -> AsyncIterator[Entry]:
        """Yield the blocks that have offsets from `since` up to `upto`."""
        since, upto = max(since, head.base + 1), min(upto, head.indexed)
        if since > upto:
            return
        entry = await self.covering(channel, head, since)
        yield entry
        wanted = entry.last + 1
        if wanted > upto:
            return
        async for entry in self._entries(channel, head, wanted, upto, PAGE, reverse=False):
            if entry.first != wanted:
                raise Changed
            yield entry
            wanted = entry.last + 1
        if wanted <= upto:
            raise Changed

    async def covering(self, channel: str, head: Head, offset: int) -> Entry:
        """Return the block that has an offset above the base, up to `indexed`."""
        async with aclosing(self.down(channel, head, offset, 1)) as entries:
            return await anext(entries)

    async def block(self, channel: str, entry: Entry) -> bytes:
        """Return the bytes of a block."""
        keys = [block_key(channel, entry.first, part) for part in range(entry.parts)]
        items = {(item["p"], item["s"]): item for item in await self._table.get_many(keys)}
        if any(key not in items or items[key]["token"] != entry.token for key in keys):
            raise Changed
        return b"".join([items[key]["data"] for key in keys])

    async def _entries(
        self, channel: str, head: Head, low: int, high: int, limit: int, *, reverse: bool
    ) -> AsyncIterator[Entry]:
        first, last = filter_key(channel, low)[1], filter_key(channel, high)[1]
        items = self._table.items(partition_of(channel), low=first, high=last, limit=limit, reverse=reverse)
        async for item in items:
            entry = entry_of(item)
            if entry.first in head.wrote and entry.token != head.token:
                raise Changed
            yield entry


async def again(attempt: Callable[[], Awaitable[T]]) -> T:
    """Attempt something until what it reads fits together.

    Raises:
        Unavailable: somebody writes all the time.
    """
    for number in range(_TRIES):
        try:
            return await attempt()
        except Changed:
            await asyncio.sleep(_PAUSE_S * number)
    raise Unavailable("the index of the conversation changes all the time")
