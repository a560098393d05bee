"""Writes to a channel's chain.

An item is put where nothing is; if something is there, its ids are compared with ours.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from services.persistence.adapters.dynamodb.chain import Chains
from services.persistence.adapters.dynamodb.items import (
    MAX_ROW_BYTES,
    BatchItem,
    first_item,
    from_attributes,
    packed,
    row_bytes,
    to_attributes,
)
from services.persistence.domain.ports import Row, Written
from services.persistence.metrics import COMMITS
from services.shared.dynamodb.client import ConditionFailed
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS

logger = logging.getLogger(__name__)

TOP_TTL_S = 60.0  # far below the 7 days of emptied items: nobody believes that a taken place is free
MAX_TOPS = 100_000  # channels


class Tops:
    """Tops of chains, as this process saw them last; bounded in age and number.

    If there are too many, the longest unused goes.
    """

    def __init__(self, *, ttl_s: float = TOP_TTL_S, most: int = MAX_TOPS) -> None:
        self._ttl_s, self._most = ttl_s, most
        self._tops: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def get(self, channel: str, now: float) -> int | None:
        """Return the top, if it was seen within the last 60 s."""
        found = self._tops.get(channel)
        return found[0] if found is not None and now - found[1] < self._ttl_s else None

    def put(self, channel: str, top: int, now: float) -> None:
        """Note a top that was seen now."""
        self._tops[channel] = (top, now)
        self._tops.move_to_end(channel)
        if len(self._tops) > self._most:
            self._tops.popitem(last=False)

    def drop(self, channel: str) -> None:
        """Forget a top that may have changed."""
        self._tops.pop(channel, None)


class ChainWriter:
    """Writes rows of channels. Several writers and processes may write one channel."""

    def __init__(self, chains: Chains, clock: Callable[[], float]) -> None:
        self._chains, self._clock = chains, clock
        self.tops = Tops()

    async def write(self, channel: str, rows: Sequence[Row]) -> Written:
        """Store consecutive rows of one channel.

        A row that is there already with the same id is a success.

        Raises:
            Unavailable: any number of the first rows may be stored.
        """
        now = time.monotonic()
        top = self.tops.get(channel, now)
        self.tops.drop(channel)  # put back if all goes well
        if top is None or rows[0].offset > top + 1:
            top = await self._read_top(channel)
        if top is None:
            return Written(0, True)
        written = await self._append(channel, rows, top)
        if not written.conflict:  # after a conflict it may be wrong
            self.tops.put(channel, written.top, now)
        return written

    def forget(self) -> None:
        """Forget all tops: the table may be another one now."""
        self.tops = Tops()

    async def _append(self, channel: str, rows: Sequence[Row], top: int) -> Written:
        """Write rows, given the top that the chain is believed to have."""
        if rows[0].offset > top + 1 or rows[-1].offset - rows[0].offset != len(rows) - 1:
            logger.critical("a hole in the log", extra={"channel": channel, "top": top, "next": rows[0].offset})
            return Written(top, True)
        first = rows[0].offset
        if first <= top and await self._conflicts(channel, rows[: top + 1 - first]):
            return Written(top, True)
        while left := rows[max(0, top + 1 - first) :]:
            mine = first_item(left, self._chains.bucket_offsets)
            theirs = await self._put(channel, mine)
            if theirs is None:
                top = mine[-1].offset
            elif any(there.id != row.publication_id for there, row in zip(theirs.rows, left, strict=False)):
                return Written(top, True)
            else:  # the same rows in other portions, or our own put whose response was lost
                top = theirs.last
        return Written(top, False)

    async def _put(self, channel: str, rows: Sequence[Row]) -> BatchItem | None:
        """Put an item with these rows; return the item that is there already, if any.

        Raises:
            Unavailable: DynamoDB does not answer, or a row is too large.
        """
        chains, first = self._chains, rows[0].offset
        if any(row_bytes(row) > MAX_ROW_BYTES for row in rows):
            logger.error("a publication is too large for DynamoDB", extra={"channel": channel, "offset": first})
            raise Unavailable("a publication is too large for DynamoDB")
        if first > 1 and (first - 1) % chains.bucket_offsets == 0:
            await chains.raise_number(channel, "bucket", chains.bucket_of(first))
        begins = next((row.offset for row in rows if row.flags and _begins_counting(row)), None)
        if begins is not None:
            await chains.begin_counting(channel, begins)
        try:
            await chains.db.call(
                "put_item",
                TableName=chains.table,
                Item=to_attributes(chains.partition_of(channel, first), packed(rows, self._clock())),
                ConditionExpression="attribute_not_exists(p)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ConditionFailed as failed:
            return from_attributes(failed.item)
        COMMITS.inc()
        return None

    async def _conflicts(self, channel: str, rows: Sequence[Row]) -> bool:
        """Whether an offset has another publication, or one that can't be compared."""
        there: dict[int, bytes] = {}
        async for item in self._chains.upward(channel, rows[0].offset, rows[-1].offset):
            there |= {item.first + index: row.id for index, row in enumerate(item.rows)}
        return any(there.get(row.offset) != row.publication_id for row in rows)

    async def _read_top(self, channel: str) -> int | None:
        """Read the top; None: nobody has opened the channel."""
        found = await self._chains.channel(channel)
        return None if found is None else await self._chains.top(channel, found.bucket)


def _begins_counting(row: Row) -> bool:
    """Whether a row with flags may be the first one of its channel."""
    counts, changes = bool(row.flags & COUNTS), bool(row.flags & CHANGES_MEMBERSHIP)
    return row.n == counts and row.mv == (row.offset if changes else 0)
