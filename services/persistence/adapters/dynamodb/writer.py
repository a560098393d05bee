"""Writes to a channel's chain.

An item is put where nothing is; if something is there, its ids are compared with ours.

Rows with an epoch are put in a transaction that also looks whether the channel's item has that epoch. It costs twice as
much as a put, so only channels of durability `queued` have it: what they acknowledged early must not lose its place to
a late write. The mark of a restore, which is the end of an epoch, is compared with what this process read last.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.persistence.adapters.dynamodb.chain import Chains
from services.persistence.adapters.dynamodb.items import (
    MAX_ROW_BYTES,
    BatchItem,
    channel_key,
    first_item,
    from_attributes,
    packed,
    row_bytes,
    to_attributes,
)
from services.persistence.domain.ports import Row, Written
from services.persistence.metrics import COMMITS
from services.shared.dynamodb.client import ConditionFailed, item_of
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS

logger = logging.getLogger(__name__)

TOP_TTL_S = 60.0  # far below the 7 days of emptied items: nobody believes that a taken place is free
MAX_TOPS = 100_000  # channels


class _EpochIsOver(Exception):
    """The channel has another epoch than the rows."""


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

    async def write(self, channel: str, rows: Sequence[Row], restored: str = "") -> Written:
        """Store consecutive rows of one channel.

        A row that is there already with the same id is a success. `restored`: the mark of the last restore.

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
        written = await self._append(channel, rows, top, restored)
        if not written.conflict:  # after a conflict it may be wrong
            self.tops.put(channel, written.top, now)
        return written

    def forget(self) -> None:
        """Forget all tops: the table may be another one now."""
        self.tops = Tops()

    async def _append(self, channel: str, rows: Sequence[Row], top: int, restored: str) -> Written:
        """Write rows, given the top that the chain is believed to have."""
        if rows[0].offset > top + 1 or rows[-1].offset - rows[0].offset != len(rows) - 1:
            logger.critical("a hole in the log", extra={"channel": channel, "top": top, "next": rows[0].offset})
            return Written(top, True)
        first = rows[0].offset
        if first <= top and await self._conflicts(channel, rows[: top + 1 - first]):
            return Written(top, True)
        while left := rows[max(0, top + 1 - first) :]:
            mine = first_item(left, self._chains.bucket_offsets)
            try:
                theirs = await self._put(channel, mine, restored)
            except _EpochIsOver:
                return Written(top, True, is_stale=True)
            if theirs is None:
                top = mine[-1].offset
            elif any(there.id != row.publication_id for there, row in zip(theirs.rows, left, strict=False)):
                return Written(top, True)
            else:  # the same rows in other portions, or our own put whose response was lost
                top = theirs.last
        return Written(top, False)

    async def _put(self, channel: str, rows: Sequence[Row], restored: str) -> BatchItem | None:
        """Put an item with these rows; return the item that is there already, if any.

        Raises:
            Unavailable: DynamoDB does not answer, or a row is too large.
            _EpochIsOver: the channel has another epoch than the rows; nothing was put.
        """
        chains, first, epoch = self._chains, rows[0].offset, rows[0].epoch
        if epoch and not epoch.endswith(restored):
            raise _EpochIsOver
        if any(row_bytes(row) > MAX_ROW_BYTES for row in rows):
            logger.error("a publication is too large for DynamoDB", extra={"channel": channel, "offset": first})
            raise Unavailable("a publication is too large for DynamoDB")
        if first > 1 and (first - 1) % chains.bucket_offsets == 0:
            await chains.raise_number(channel, "bucket", chains.bucket_of(first))
        begins = next((row.offset for row in rows if row.flags and _begins_counting(row)), None)
        if begins is not None:
            await chains.begin_counting(channel, begins)
        put = {
            "TableName": chains.table,
            "Item": to_attributes(chains.partition_of(channel, first), packed(rows, self._clock())),
            "ConditionExpression": "attribute_not_exists(p)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        try:
            if epoch:
                await self._put_in_epoch(channel, put, epoch.removesuffix(restored))
            else:
                await chains.db.call("put_item", **put)
        except ConditionFailed as failed:
            there = failed.parts.get(0) if epoch else failed.item
            if not there:
                raise _EpochIsOver from None
            return from_attributes(there)
        COMMITS.inc()
        return None

    async def _put_in_epoch(self, channel: str, put: Mapping[str, Any], epoch: str) -> None:
        """Put an item if the channel has this epoch. Raises as `DynamoDb.call`."""
        check = {
            "TableName": self._chains.table,
            "Key": channel_key(channel),
            "ConditionExpression": "epoch = :epoch",
            "ExpressionAttributeValues": item_of({":epoch": epoch}),
        }
        # With the token DynamoDB drops an attempt that arrives once more, late.
        await self._chains.db.call(
            "transact_write_items",
            TransactItems=[{"Put": put}, {"ConditionCheck": check}],
            ClientRequestToken=str(uuid.uuid4()),
        )

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
