"""Finds what a query asks for, over the blocks of many conversations.

Purpose. A search reads few items, and a number of them that is bounded, whatever it asks for.

Rules.

* The newest comes first. Of each conversation it is known how new what was not read yet can be. Those with the newest
  are read on, some at once, until a page is full of what is newer than all that is left.
* Of a conversation filters are read, and those blocks alone that may have what is asked for.
* 128 blocks are read for one question, and one more for each conversation; and 8 MiB of them. Then the answer says up
  to which time it is complete (`Hits.stopped_at`), and the next page goes on there.
* Blocks are read in a thread: a thousand documents take about a millisecond.

Example. 300 conversations, and a word that one of them had a year ago: three requests for heads, one for the filters of
each conversation, and one for a block.

Trade-offs. A beginning of a word alone asks for all blocks, as filters have whole words.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence

from services.persistence.chat.adapters.dynamodb.search.block import matches
from services.persistence.chat.adapters.dynamodb.search.bloom import Wanted
from services.persistence.chat.adapters.dynamodb.search.kept import Entry, Head
from services.persistence.chat.adapters.dynamodb.search.reading import Changed, Reader, again
from services.persistence.chat.index.ports import Asked, Hits, Place, Scope

MOST_BLOCKS = 128  # of one question, and one for each conversation
MOST_BYTES = 8 << 20  # of these blocks
_AT_ONCE = 16  # conversations that are read on at the same time


class _Walk:
    """Reads the blocks of one conversation, the newest first.

    `bound`: nothing that was not read is newer, Unix ms. `has_block`: the next step reads a block.
    """

    def __init__(self, reader: Reader, asked: Asked, wanted: Wanted, scope: Scope, head: Head) -> None:
        self._reader, self._asked, self._wanted, self._scope, self._head = reader, asked, wanted, scope, head
        self._upto = min(scope.position, head.indexed)
        self._entries: AsyncIterator[Entry] | None = None
        self._entry: Entry | None = None
        self.bytes = 0
        self.bound: int | None = head.newest if head.documents and self._is_open() else None
        self._limit_bound()

    @property
    def channel(self) -> str:
        """The conversation."""
        return self._scope.channel

    @property
    def has_block(self) -> bool:
        """Whether the next step reads a block."""
        return self._entry is not None

    async def step(self) -> list[Place]:
        """Go on to the next block that may have something, or read it."""
        return await again(self._step)

    async def _step(self) -> list[Place]:
        try:
            if self._entry is not None:
                return await self._read(self._entry)
            await self._go_on()
            return []
        except Changed:
            self._entries = self._entry = None
            self._head = await self._reader.head(self.channel)
            raise

    async def _go_on(self) -> None:
        """Find the next block."""
        asked = self._asked
        if self._entries is None:
            self._entries = self._reader.down(self.channel, self._head, self._upto)
        while self._is_open() and (entry := await anext(self._entries, None)) is not None:
            if entry.documents and asked.query.since is not None and entry.newest < asked.query.since:
                break
            is_too_new = asked.latest is not None and entry.oldest > asked.latest
            if entry.documents and not is_too_new and self._wanted.may_be_in(entry.bits):
                self._entry, self.bound = entry, entry.newest
                self._limit_bound()
                return
            self._upto = entry.first - 1
        self.bound = None

    async def _read(self, entry: Entry) -> list[Place]:
        """Return what is found in a block."""
        asked, scope = self._asked, self._scope
        data = await self._reader.block(self.channel, entry)
        self.bytes += len(data)
        found = await asyncio.to_thread(matches, data, asked.query, by_score=asked.by_score)
        self._upto, self._entry, self.bound = entry.first - 1, None, entry.oldest
        self._limit_bound()
        if not self._is_open():
            self.bound = None
        return [
            Place(-one.score, -one.time_ms, scope.channel, -one.offset)
            for one in found
            if scope.above < one.offset <= scope.position
            and (asked.latest is None or one.time_ms <= asked.latest)
            and (asked.query.since is None or one.time_ms >= asked.query.since)
        ]

    def _is_open(self) -> bool:
        return self._upto > max(self._head.base, self._scope.above)

    def _limit_bound(self) -> None:
        if self.bound is not None and self._asked.latest is not None:
            self.bound = min(self.bound, self._asked.latest)
        if self.bound is not None and self._asked.query.since is not None and self.bound < self._asked.query.since:
            self.bound = None


class Finder:
    """Answers questions to the index."""

    def __init__(self, reader: Reader, *, most_blocks: int = MOST_BLOCKS, most_bytes: int = MOST_BYTES) -> None:
        self._reader, self._most_blocks, self._most_bytes = reader, most_blocks, most_bytes

    async def find(self, asked: Asked) -> Hits:
        """Return what the documents say; see `SearchIndex`."""
        heads = await self._reader.heads({scope.channel for scope in asked.scopes})
        indexed = {channel: head.indexed for channel, head in heads.items()}
        wanted = Wanted.by(asked.query)
        walks = [_Walk(self._reader, asked, wanted, scope, heads[scope.channel]) for scope in asked.scopes]
        places, has_more, stopped_at = await self._found(asked, walks)
        if asked.by_score:
            places.sort()
            if asked.after is not None:
                places = places[bisect_left(places, asked.after) :]
                places = places[1:] if places and places[0] == asked.after else places
        return Hits(places, has_more, indexed, stopped_at)

    async def _found(self, asked: Asked, walks: Sequence[_Walk]) -> tuple[list[Place], bool, Place | None]:
        """Return the first places by time, if there are more, and where it stopped."""
        after = None if asked.by_score else asked.after
        waiting = [(-walk.bound, number) for number, walk in enumerate(walks) if walk.bound is not None]
        heapq.heapify(waiting)
        found: list[Place] = []  # by time, one more than wanted
        blocks = len(walks) + self._most_blocks
        while waiting:
            bound = -waiting[0][0]
            if len(found) > asked.most and found[-1].time_ms > bound:
                break
            if blocks <= 0 or sum(walk.bytes for walk in walks) >= self._most_bytes:
                stopped_at = Place(0.0, -bound, "", 0)
                found = [one for one in found if one.time_ms > bound]
                return found[: asked.most], True, None if len(found) > asked.most else stopped_at
            wave: list[int] = []
            while waiting and len(wave) < min(_AT_ONCE, blocks):
                wave.append(heapq.heappop(waiting)[1])
            blocks -= sum(walks[number].has_block for number in wave)
            for some in await asyncio.gather(*(walks[number].step() for number in wave)):
                found += [one for one in some if after is None or one > after]
            found = sorted(found, key=_by_time)[: asked.most + 1]
            for number in wave:
                walk_bound = walks[number].bound
                if walk_bound is not None:
                    heapq.heappush(waiting, (-walk_bound, number))
        return found[: asked.most], len(found) > asked.most, None


def _by_time(place: Place) -> tuple[int, str, int]:
    return place.age, place.channel, place.behind
