"""Writes blocks: seals new ones, writes changed ones anew, and merges.

Every change is one transaction with the head, on the condition that nobody else has written the head since it was
read. A change that is too large for one transaction is several, and `indexed` moves with the last one: documents may be
newer than it says, never older. A writer that dies in between leaves nothing half.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from services.persistence.chat.adapters.dynamodb.items import portions, size_of
from services.persistence.chat.adapters.dynamodb.search.block import packed, unpacked
from services.persistence.chat.adapters.dynamodb.search.bloom import filter_of
from services.persistence.chat.adapters.dynamodb.search.kept import (
    Entry,
    Head,
    Open,
    block_key,
    filter_key,
    filter_values,
    head_key,
    head_values,
    new_token,
)
from services.persistence.chat.adapters.dynamodb.search.reading import Changed, Reader, again
from services.persistence.chat.adapters.dynamodb.table import IS_NEW, ChatTable, Write
from services.persistence.chat.index.ports import Document, Update
from services.shared.errors import Unavailable

_MERGED = 10  # blocks that become one
_MERGED_COUNT = 1_000  # documents that are enough for it
_FULL = 500  # documents of a block that is merged no more
_MERGED_BYTES = 160_000  # of blocks that are merged; larger ones stay as they are
_WRITES = 90  # of a transaction, which takes 100
_BYTES = 2_500_000  # of a transaction, which takes 4 MB; one block more is added to it
_IS = "#token = :was"


class _Made:
    """A block as it is to be written, and its items."""

    def __init__(self, first: int, last: int, documents: Mapping[int, Document], token: str) -> None:
        data = packed(documents) if documents else b""
        times = [document.time_ms for document in documents.values()]
        self.parts = portions(data)
        self.size = len(data)
        bits = filter_of(documents.values()) if documents else b""
        self.entry = Entry(
            first, last, len(documents), min(times, default=0), max(times, default=0), len(self.parts), token, bits
        )


class Writer:
    """Writes the index of conversations."""

    def __init__(self, table: ChatTable, reader: Reader) -> None:
        self._table, self._reader = table, reader

    async def apply(self, update: Update) -> bool:
        """Write an update; return whether the position was as expected.

        Raises:
            Unavailable: others write all the time.
        """

        async def attempt() -> _Change | None:
            head = await self._reader.head(update.channel)
            if head.indexed != update.expected:
                return None
            change = _Change(self._table, self._reader, update.channel, head)
            await change.write(update)
            return change

        done = await again(attempt)
        if done is None:
            return False
        if done.may_merge():
            with contextlib.suppress(Changed, Unavailable):  # whoever seals the next block does it
                await done.merge()
        return True


class _Change:
    """What one update does; raises `Changed` if the head is not what it was."""

    def __init__(self, table: ChatTable, reader: Reader, channel: str, head: Head) -> None:
        self._table, self._reader, self._channel = table, reader, channel
        self.head = head
        self._begin()

    def _begin(self) -> None:
        """Begin a transaction."""
        self._token = new_token()
        self._next = self.head
        self._wrote: list[int] = []
        self._writes: list[Write] = []
        self._size = 0

    async def write(self, update: Update) -> None:
        """Write all of an update."""
        head = self.head
        below = {offset: one for offset, one in update.documents.items() if one is not None and offset <= head.base}
        if below:
            first = min(below)
            self._next = self._next._replace(base=first - 1)
            await self._put(first, head.base, below, None)
        await self._change({at: one for at, one in update.documents.items() if head.base < at <= head.indexed})
        if update.indexed > head.indexed:
            new = {at: one for at, one in update.documents.items() if one is not None and at > head.indexed}
            if new or self._next.base != self._next.indexed:
                made = await self._put(head.indexed + 1, update.indexed, new, None)
                blocks = (*self._next.open, Open(made.entry.first, made.entry.documents, made.size))
                if sum(one.size for one in blocks) > _MERGED_BYTES:
                    blocks = blocks[-1:]
                self._next = self._next._replace(open=blocks)
            else:
                self._next = self._next._replace(base=update.indexed)
            self._next = self._next._replace(indexed=update.indexed)
        if self._next != self.head or self._writes:
            await self._commit()

    async def _change(self, documents: Mapping[int, Document | None]) -> None:
        """Write the blocks anew that have these documents."""
        left = sorted(documents)
        while left:
            entry = await self._reader.covering(self._channel, self.head, left[0])
            mine = [offset for offset in left if offset <= entry.last]
            left = left[len(mine) :]
            kept = await self._documents(entry)
            now = {**kept, **{offset: documents[offset] for offset in mine}}
            there = {offset: one for offset, one in now.items() if one is not None}
            if _same(kept, there):
                continue
            if self._writes and (len(self._writes) + entry.parts >= _WRITES or self._size > _BYTES):
                await self._commit()
            if there or entry.first != self._next.base + 1:
                await self._put(entry.first, entry.last, there, entry)
            else:
                self._remove_first(entry)
                while self._next.base < self.head.indexed and len(self._writes) < _WRITES:
                    entry = await self._reader.covering(self._channel, self.head, self._next.base + 1)
                    if entry.documents or (left and left[0] <= entry.last):
                        break
                    self._remove_first(entry)

    def may_merge(self) -> bool:
        """Whether there is enough to merge."""
        blocks = self.head.open
        return len(blocks) > 1 and (len(blocks) >= _MERGED or sum(one.documents for one in blocks) >= _MERGED_COUNT)

    async def merge(self) -> None:
        """Make the open blocks one."""
        first, channel = self.head.open[0].first, self._channel
        entries = [one async for one in self._reader.up(channel, self.head, first, self.head.indexed)]
        if entries[0].first != first:
            raise Changed
        documents: dict[int, Document] = {}
        for entry in entries:
            documents |= await self._documents(entry)
        made = await self._put(first, entries[-1].last, documents, entries[0])
        self._next = self._next._replace(documents=self.head.documents)
        for entry in entries[1:]:
            self._remove(entry, is_counted=False)
        is_full = made.entry.documents >= _FULL
        self._next = self._next._replace(open=() if is_full else (Open(first, made.entry.documents, made.size),))
        await self._commit()

    async def _documents(self, entry: Entry) -> dict[int, Document]:
        if not entry.parts:
            return {}
        return await asyncio.to_thread(unpacked, await self._reader.block(self._channel, entry))

    # Parts of the transaction.

    async def _put(self, first: int, last: int, documents: Mapping[int, Document], before: Entry | None) -> _Made:
        """Write a block in place of the one that was there."""
        made = await asyncio.to_thread(_Made, first, last, documents, self._token)
        entry = made.entry
        when, using = (IS_NEW, {}) if before is None else (_IS, {"was": before.token})
        self._add(self._table.put(filter_key(self._channel, first), filter_values(entry), when, **using))
        for part, data in enumerate(made.parts):
            values = {"token": self._token, "data": data}
            self._add(self._table.put(block_key(self._channel, first, part), values))
        for part in range(entry.parts, before.parts if before else 0):
            self._add(self._table.delete(block_key(self._channel, first, part)))
        self._wrote.append(first)
        self._next = self._next._replace(
            documents=self._next.documents + entry.documents - (before.documents if before else 0),
            newest=max(self._next.newest, entry.newest),
        )
        return made

    def _remove_first(self, entry: Entry) -> None:
        """Delete the first block, which has no documents any more."""
        self._remove(entry)
        blocks = tuple(one for one in self._next.open if one.first != entry.first)
        self._next = self._next._replace(base=entry.last, open=blocks)

    def _remove(self, entry: Entry, *, is_counted: bool = True) -> None:
        self._add(self._table.delete(filter_key(self._channel, entry.first), _IS, was=entry.token))
        for part in range(entry.parts):
            self._add(self._table.delete(block_key(self._channel, entry.first, part)))
        if is_counted:
            self._next = self._next._replace(documents=self._next.documents - entry.documents)

    def _add(self, write: Write) -> None:
        self._writes.append(write)
        self._size += size_of(write)

    async def _commit(self) -> None:
        """Do it all.

        Raises:
            Changed: nothing was done, as somebody else wrote.
        """
        head = self._next._replace(token=self._token, wrote=tuple(self._wrote))
        when, using = (_IS, {"was": self.head.token}) if self.head.token else (IS_NEW, {})
        put = self._table.telling(self._table.put(head_key(self._channel), head_values(head), when, **using))
        failed = await self._table.transact([put, *self._writes])
        if failed is not None and failed.get(0, {}).get("token") != self._token:
            raise Changed  # with this token it was an earlier try, whose response was lost
        self.head = head
        self._begin()


def _same(some: Mapping[int, Document], others: Mapping[int, Document]) -> bool:
    return _plain(some) == _plain(others)


def _plain(documents: Mapping[int, Document]) -> dict[int, tuple[Any, ...]]:
    """Return documents so that they can be compared: tags have no order."""
    return {offset: (one.time_ms, list(one.atoms), set(one.tags)) for offset, one in documents.items()}
