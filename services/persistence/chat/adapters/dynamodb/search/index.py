"""`SearchIndex` in the chat table of DynamoDB: sealed blocks.

Purpose. DynamoDB bills each item that is written. An item for each word would cost a dozen writes for a message.

Rules.

* About a hundred messages of a conversation become a block (`block.py`): one item, compressed. Beside it is an item
  with its Bloom filter (`bloom.py`), so that a search reads few blocks. Ten blocks become one, of 1,000 messages.
* Messages that are in no block yet are read from the log, as everything is that is not indexed.
* A block belongs to one conversation, and its key says to which. A search reads the blocks of the asker's conversations
  and no others.
* The head of a conversation's index has `indexed`. Blocks stand in one row from its `base` up to there, without a gap.
  All is written in transactions with the head, on the condition that it is as it was read (`writing.py`). Readers check
  that what they read fits together (`reading.py`).
* An edit or a deletion has its block written anew, without the old words, before the mark of the event goes. A block
  without messages goes.
* No item has more than 350 KB: a block that is larger has several.

Example. 10,000 messages of twelve words are ten blocks of about 30 KB, with filters of 3 KB. A search reads the head
and all filters by two requests, and one more for each block that has the words.

Trade-offs. A deletion in an old block writes about 30 KB. A transaction costs twice the units of plain writes.
Conversations that nobody uses are not looked for, as that would mean to read the whole table: they are indexed when
somebody writes there, or a search had to leave them out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from services.persistence.adapters.dynamodb.operation import operation
from services.persistence.chat.adapters.dynamodb.search.block import offsets_with, unpacked
from services.persistence.chat.adapters.dynamodb.search.bloom import Wanted
from services.persistence.chat.adapters.dynamodb.search.finding import MOST_BLOCKS, MOST_BYTES, Finder
from services.persistence.chat.adapters.dynamodb.search.kept import Entry
from services.persistence.chat.adapters.dynamodb.search.reading import Reader, again
from services.persistence.chat.adapters.dynamodb.search.writing import Writer
from services.persistence.chat.adapters.dynamodb.table import ChatTable
from services.persistence.chat.index.ports import Asked, Hits, Update
from services.shared.dynamodb.client import DynamoDb


class DynamoDbSearchIndex:
    """`SearchIndex` in a DynamoDB table, which must exist.

    Methods without a docstring are described in `SearchIndex`.
    """

    rows_at_once = 100
    gone_at_once = 256
    logs_at_once = 16

    def __init__(
        self,
        db: DynamoDb,
        table: str,
        *,
        deadline_s: float,
        long_deadline_s: float,
        most_blocks: int = MOST_BLOCKS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Take the client, which whoever made it closes; makes no request yet.

        Args:
            db: The client.
            table: Name of the table.
            deadline_s: Longest read.
            long_deadline_s: Longest write; there may be many requests.
            most_blocks: That are read for one question, beside one for each conversation.
            most_bytes: Of these.
        """
        self._deadline_s, self._long_deadline_s = deadline_s, long_deadline_s
        requests = ChatTable(db, table)
        self._reader = Reader(requests)
        self._writer = Writer(requests, self._reader)
        self._finder = Finder(self._reader, most_blocks=most_blocks, most_bytes=most_bytes)

    async def indexed(self, channels: Collection[str]) -> dict[str, int]:
        async with operation("search_indexed", self._deadline_s):
            return {channel: head.indexed for channel, head in (await self._reader.heads(channels)).items()}

    async def apply(self, updates: Sequence[Update]) -> list[bool]:
        async with operation("search_apply", self._long_deadline_s):
            return [*await asyncio.gather(*map(self._writer.apply, updates))]

    async def find(self, asked: Asked) -> Hits:
        async with operation("search_find", self._deadline_s):
            return await self._finder.find(asked)

    async def offsets_with(self, channel: str, tag: str, above: int, upto: int, most: int) -> list[int]:
        wanted = Wanted([[tag]])

        async def found_in(entry: Entry) -> list[int]:
            if not wanted.may_be_in(entry.bits):
                return []
            return await asyncio.to_thread(offsets_with, await self._reader.block(channel, entry), tag)

        return await self._offsets(channel, above, upto, most, found_in)

    async def offsets_upto(self, channel: str, upto: int, most: int) -> list[int]:
        async def found_in(entry: Entry) -> list[int]:
            return sorted(await asyncio.to_thread(unpacked, await self._reader.block(channel, entry)))

        return await self._offsets(channel, 0, upto, most, found_in)

    async def behind(self, after: str, most: int) -> tuple[list[str], str]:
        return [], ""

    async def scrub(self) -> None: ...

    async def _offsets(
        self, channel: str, above: int, upto: int, most: int, found_in: Callable[[Entry], Awaitable[list[int]]]
    ) -> list[int]:
        """Return the first offsets that are found in blocks."""

        async def attempt() -> list[int]:
            head = await self._reader.head(channel)
            found: list[int] = []
            async for entry in self._reader.up(channel, head, above + 1, upto):
                if entry.documents:
                    found += [offset for offset in await found_in(entry) if above < offset <= upto]
                if len(found) >= most:
                    break
            return found[:most]

        async with operation("search_offsets", self._deadline_s):
            return await again(attempt)
