"""Writing to a channel's chain: each item is put where nothing is, or what is there is compared with it."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from services.persistence.adapters.dynamodb.chain import Chains
from services.persistence.adapters.dynamodb.items import (
    MAX_ROW_BYTES,
    BatchItem,
    from_attributes,
    packed,
    row_bytes,
    take,
    to_attributes,
)
from services.persistence.domain.ports import Row, Written
from services.persistence.metrics import COMMITS
from services.shared.dynamodb.client import ConditionFailed
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

TOP_TTL_S = 60.0  # far below the days that a tombstone stays: a place once taken is never believed to be free
MAX_TOPS = 100_000


class Tops:
    """Where chains ended when this process saw them last; the longest unused go first."""

    def __init__(self, *, ttl_s: float = TOP_TTL_S, most: int = MAX_TOPS) -> None:
        self._ttl_s, self._most = ttl_s, most
        self._tops: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def get(self, channel: str, now: float) -> int | None:
        """The top, if it was seen within the last 60 s."""
        found = self._tops.get(channel)
        return found[0] if found is not None and now - found[1] < self._ttl_s else None

    def put(self, channel: str, top: int, now: float) -> None:
        """It was seen now."""
        self._tops[channel] = (top, now)
        self._tops.move_to_end(channel)
        if len(self._tops) > self._most:
            self._tops.popitem(last=False)

    def drop(self, channel: str) -> None:
        """It may be another."""
        self._tops.pop(channel, None)


class ChainWriter:
    """Writes rows of one channel at a time; several writers, here and elsewhere, may be at the same channel."""

    def __init__(self, chains: Chains, clock: Callable[[], float]) -> None:
        self._chains, self._clock = chains, clock
        self.tops = Tops()

    async def write(self, channel: str, rows: Sequence[Row]) -> Written:
        """Store consecutive rows; those that are there with the same id are success.

        Raises:
            Unavailable: unknown how many of them are stored, from the first on.
        """
        now = time.monotonic()
        top = self.tops.get(channel, now)
        self.tops.drop(channel)  # until all went well
        if top is None or rows[0].offset > top + 1:
            top = await self._read_top(channel)
        if top is None:
            return Written(0, True)
        written = await self._append(channel, rows, top)
        if not written.conflict:  # else what is believed may be wrong
            self.tops.put(channel, written.top, now)
        return written

    def forget(self) -> None:
        """The table may be another one now."""
        self.tops = Tops()

    async def _append(self, channel: str, rows: Sequence[Row], top: int) -> Written:
        if rows[0].offset > top + 1 or rows[-1].offset - rows[0].offset != len(rows) - 1:
            logger.critical("a hole in the log", extra={"channel": channel, "top": top, "next": rows[0].offset})
            return Written(top, True)
        first = rows[0].offset
        if first <= top and await self._conflicts(channel, rows[: top + 1 - first]):
            return Written(top, True)
        while left := rows[max(0, top + 1 - first) :]:
            mine = take(left, self._chains.bucket_offsets)
            theirs = await self._put(channel, mine)
            if theirs is None:
                top = mine[-1].offset
            elif any(there.id != row.publication_id for there, row in zip(theirs.rows, left, strict=False)):
                return Written(top, True)
            else:  # the same in other portions, or our own put whose answer was lost
                top = theirs.last
        return Written(top, False)

    async def _put(self, channel: str, rows: Sequence[Row]) -> BatchItem | None:
        """Take the place above the top for these; what is there already, if anything is."""
        chains, first = self._chains, rows[0].offset
        if any(row_bytes(row) > MAX_ROW_BYTES for row in rows):
            logger.error("a publication is too large for DynamoDB", extra={"channel": channel, "offset": first})
            raise Unavailable("a publication is too large for DynamoDB")
        if first > 1 and (first - 1) % chains.bucket_offsets == 0:
            await chains.raise_number(channel, "bucket", chains.bucket_of(first))
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
        """Whether any of these places is taken by another publication, or by one that can't be told any more."""
        there: dict[int, bytes] = {}
        async for item in self._chains.upward(channel, rows[0].offset, rows[-1].offset):
            there |= {item.first + index: row.id for index, row in enumerate(item.rows)}
        return any(there.get(row.offset) != row.publication_id for row in rows)

    async def _read_top(self, channel: str) -> int | None:
        """None: nobody has opened the channel."""
        found = await self._chains.channel(channel)
        return None if found is None else await self._chains.top(channel, found.bucket)
