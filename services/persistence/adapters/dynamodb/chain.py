"""Access to the chain of items that holds a channel's log in DynamoDB.

An item has up to 100 publications with consecutive offsets; the next item begins at the offset after them. All items of
a bucket, a fixed range of offsets, share a partition key. Reads are strongly consistent. See docs/storage.md.

The items of the chain are only read here; `writer.py`, `removal.py` and `erasing.py` write them. Of the channel's own
item, numbers are raised here.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from services.persistence.adapters.dynamodb.items import (
    BUCKET_OFFSETS,
    ITEM_ROWS,
    BatchItem,
    channel_key,
    counts_of,
    from_attributes,
    has_counts,
    keys_of,
    partition,
)
from services.persistence.domain.ports import StoredAt
from services.shared.dynamodb.client import ConditionFailed, DynamoDb, values_of
from services.shared.errors import Unavailable

_SCANNED_AT_ONCE = 1_000  # items of one Scan, which ends at 1 MB anyway
_CHANNEL = "c#"  # how the key of a channel's item begins


class Channel(NamedTuple):
    """The channel's own item; its numbers only grow.

    `epoch` changes where Redis lost what was not stored.
    """

    epoch: str
    bucket: int  # the last bucket begun, which may have no item yet
    removed: int  # publications up to here are hidden from readers
    cleared: int  # items up to here are emptied
    counts_from: int  # no row below this offset has flags; 0: no row at all
    erasures: int  # how often something was erased
    queued_in: int  # generation since which Redis may have more than the store; 0: it never had


class Chains:
    """All chains of a table. `bucket_offsets` must not change once anything is stored."""

    def __init__(self, db: DynamoDb, table: str, bucket_offsets: int = BUCKET_OFFSETS) -> None:
        self.db, self.table, self.bucket_offsets = db, table, bucket_offsets

    def bucket_of(self, offset: int) -> int:
        """Number of the bucket that has this offset."""
        return (offset - 1) // self.bucket_offsets

    def end_of(self, bucket: int) -> int:
        """Last offset that a bucket can have."""
        return (bucket + 1) * self.bucket_offsets

    def partition_of(self, channel: str, offset: int) -> str:
        """Partition key of the item that begins at this offset."""
        return partition(channel, self.bucket_of(offset))

    async def channel(self, channel: str) -> Channel | None:
        """Return the channel's item; None: nobody has opened the channel. One request."""
        response = await self.db.call("get_item", TableName=self.table, Key=channel_key(channel), ConsistentRead=True)
        if "Item" not in response:
            return None
        values = values_of(response["Item"])
        return Channel(values["epoch"], *(int(values.get(name, 0)) for name in Channel._fields[1:]))

    async def channels(self, cursor: str) -> tuple[list[str], str]:
        """Return the channels among the next items of the table, and where to go on.

        One request, which needs the right to Scan.
        """
        response = await self.db.call(
            "scan",
            TableName=self.table,
            Limit=_SCANNED_AT_ONCE,
            FilterExpression="begins_with(p, :channel)",
            ProjectionExpression="p",
            ExpressionAttributeValues={":channel": {"S": _CHANNEL}},
            **({"ExclusiveStartKey": json.loads(cursor)} if cursor else {}),
        )
        found = [item["p"]["S"].removeprefix(_CHANNEL) for item in response.get("Items", [])]
        last = response.get("LastEvaluatedKey")
        return found, json.dumps(last) if last else ""

    async def raise_number(self, channel: str, name: str, value: int) -> None:
        """Set a number of the channel's item, unless it is as high already. One request."""
        with contextlib.suppress(ConditionFailed):
            await self.db.call(
                "update_item",
                TableName=self.table,
                Key=channel_key(channel),
                UpdateExpression="SET #name = :value",
                ConditionExpression="#name < :value",
                ExpressionAttributeNames={"#name": name},
                ExpressionAttributeValues={":value": {"N": str(value)}},
            )

    async def begin_counting(self, channel: str, offset: int) -> None:
        """Note in the channel's item that no row below the offset has flags.

        One request. It stays as it is if it names a lower offset.
        """
        with contextlib.suppress(ConditionFailed):
            await self.db.call(
                "update_item",
                TableName=self.table,
                Key=channel_key(channel),
                UpdateExpression="SET counts_from = :offset",
                ConditionExpression="attribute_not_exists(counts_from) OR counts_from > :offset",
                ExpressionAttributeValues={":offset": {"N": str(offset)}},
            )

    async def count_erasure(self, channel: str) -> int:
        """Raise the number of erasures in the channel's item; return it. One request.

        A request that is repeated after a lost response may count twice.
        """
        response = await self.db.call(
            "update_item",
            TableName=self.table,
            Key=channel_key(channel),
            UpdateExpression="ADD erasures :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
            ReturnValues="UPDATED_NEW",
        )
        return int(values_of(response["Attributes"])["erasures"])

    async def counts(self, channel: str, known: Channel, offset: int) -> tuple[int, int]:
        """Return `n` and `mv` as of an offset, from the rows below it.

        No request if nothing below has flags; else one per 1 MiB of items down to the last that says it. That is the
        first one, unless a version that does not count wrote what is above it.
        """
        if not 0 < known.counts_from <= offset:
            return 0, 0
        for bucket in range(self.bucket_of(offset), self.bucket_of(known.counts_from) - 1, -1):
            low, high = self._bounds(bucket, known.counts_from - ITEM_ROWS + 1, offset)
            async for item in self.db.query(
                TableName=self.table,
                KeyConditionExpression="p = :p AND s BETWEEN :low AND :high",
                ExpressionAttributeValues={
                    ":p": {"S": partition(channel, bucket)},
                    ":low": {"N": str(low)},
                    ":high": {"N": str(high)},
                },
                ScanIndexForward=False,
                ConsistentRead=True,
            ):
                found = from_attributes(item)
                for index in range(min(offset, found.last) - found.first, -1, -1):
                    if has_counts(found.rows[index]):
                        return found.rows[index].n, found.rows[index].mv
        return 0, 0

    async def top(self, channel: str, bucket: int) -> int:
        """Return the last offset of the chain; see `end`."""
        return (await self.end(channel, bucket))[0]

    async def end(self, channel: str, bucket: int) -> tuple[int, tuple[int, int] | None]:
        """Return the last offset of the chain, and its `n` and `mv`.

        The latter are None if the last item does not say them. `bucket` is that of the channel's item.

        One request; two if that bucket has no item yet.

        Raises:
            Unavailable: DynamoDB does not answer, or neither this bucket nor the one before has an item.
        """
        for candidate in (bucket, bucket - 1):
            if candidate < 0:
                return 0, None
            response = await self.db.call(
                "query",
                TableName=self.table,
                KeyConditionExpression="p = :p",
                ProjectionExpression="s, n, counted, mv",
                ExpressionAttributeValues={":p": {"S": partition(channel, candidate)}},
                ScanIndexForward=False,
                Limit=1,
                ConsistentRead=True,
            )
            for item in response["Items"]:
                values = values_of(item)
                return int(values["s"] + values["n"]) - 1, counts_of(values)
        raise Unavailable(f"the log of {channel} has no end: items of buckets {bucket - 1} and {bucket} are missing")

    async def stored_at(self, channel: str, offset: int) -> StoredAt | None:
        """Return when the item that has an offset was written. One request.

        None: there is no such item, or it is emptied.
        """
        low, _ = self._bounds(self.bucket_of(offset), offset - ITEM_ROWS + 1, offset)
        response = await self.db.call(
            "query",
            TableName=self.table,
            KeyConditionExpression="p = :p AND s BETWEEN :low AND :high",
            ProjectionExpression="s, n, #at, dropped",
            ExpressionAttributeNames={"#at": "at"},
            ExpressionAttributeValues={
                ":p": {"S": self.partition_of(channel, offset)},
                ":low": {"N": str(low)},
                ":high": {"N": str(offset)},
            },
            ScanIndexForward=False,
            Limit=1,
            ConsistentRead=True,
        )
        for values in map(values_of, response["Items"]):
            first, last = int(values["s"]), int(values["s"] + values["n"]) - 1
            if last >= offset and not values.get("dropped", False):
                return StoredAt(first, last, float(values["at"]))
        return None

    async def first_since(self, channel: str, low: int, high: int, at: float) -> int | None:
        """Return the first of these offsets that was written at a time or later.

        A request for each MiB of items and each bucket.
        """
        for bucket in range(self.bucket_of(low), self.bucket_of(high) + 1):
            first, last = self._bounds(bucket, low - ITEM_ROWS + 1, high)
            async for item in self.db.query(
                TableName=self.table,
                KeyConditionExpression="p = :p AND s BETWEEN :low AND :high",
                ProjectionExpression="s, n, #at",
                ExpressionAttributeNames={"#at": "at"},
                ExpressionAttributeValues={
                    ":p": {"S": partition(channel, bucket)},
                    ":low": {"N": str(first)},
                    ":high": {"N": str(last)},
                },
                ConsistentRead=True,
            ):
                values = values_of(item)
                if float(values["at"]) >= at and int(values["s"] + values["n"]) > low:
                    return max(low, int(values["s"]))
        return None

    async def upward(self, channel: str, low: int, high: int, expected: int = 0) -> AsyncIterator[BatchItem]:
        """Yield the items with any of the offsets low … high, ascending.

        `expected`: number of publications that the caller is likely to read. It bounds the items of one request, and
        does not end the iteration. 0: as many as DynamoDB returns.
        """
        if high < low:
            return
        for bucket in range(self.bucket_of(low), self.bucket_of(high) + 1):
            bounds = self._bounds(bucket, low - ITEM_ROWS + 1, high)
            async for item in self._query(
                channel, bucket, bounds, forward=True, limit=expected and expected + ITEM_ROWS - 1
            ):
                if item.last >= low:
                    yield item

    async def downward(self, channel: str, high: int, low: int, expected: int = 0) -> AsyncIterator[BatchItem]:
        """Yield the same items as `upward`, descending."""
        if high < low:
            return
        for bucket in range(self.bucket_of(high), self.bucket_of(low) - 1, -1):
            bounds = self._bounds(bucket, low - ITEM_ROWS + 1, high)
            async for item in self._query(channel, bucket, bounds, forward=False, limit=expected):
                if item.last < low:
                    return
                yield item

    async def keys_downward(
        self, channel: str, high: int, page_items: int
    ) -> AsyncIterator[tuple[int, float, Sequence[str]]]:
        """Yield (first offset, time, idempotency keys) of items, from an offset downwards.

        The time is when the item was written, in Unix seconds. `page_items`: most items of one request.
        """
        for bucket in range(self.bucket_of(high), -1, -1):
            async for item in self.db.query(
                TableName=self.table,
                KeyConditionExpression="p = :p",
                ProjectionExpression="s, #at, #keys",
                ExpressionAttributeNames={"#at": "at", "#keys": "keys"},
                ExpressionAttributeValues={":p": {"S": partition(channel, bucket)}},
                ScanIndexForward=False,
                ConsistentRead=True,
                Limit=page_items,
            ):
                values = values_of(item)
                yield int(values["s"]), float(values["at"]), keys_of(values)

    def _bounds(self, bucket: int, low: int, high: int) -> tuple[int, int]:
        """The part of low … high that lies in the bucket."""
        first = bucket * self.bucket_offsets + 1
        return max(low, first), min(high, first + self.bucket_offsets - 1)

    async def _query(
        self, channel: str, bucket: int, bounds: tuple[int, int], *, forward: bool, limit: int
    ) -> AsyncIterator[BatchItem]:
        """Yield the items of a bucket whose first offset is within the bounds.

        `limit`: most items of one request; 0: as many as DynamoDB returns.
        """
        arguments: dict[str, Any] = {"Limit": limit} if limit else {}
        async for item in self.db.query(
            TableName=self.table,
            KeyConditionExpression="p = :p AND s BETWEEN :low AND :high",
            ExpressionAttributeValues={
                ":p": {"S": partition(channel, bucket)},
                ":low": {"N": str(bounds[0])},
                ":high": {"N": str(bounds[1])},
            },
            ScanIndexForward=forward,
            ConsistentRead=True,
            **arguments,
        ):
            yield from_attributes(item)
