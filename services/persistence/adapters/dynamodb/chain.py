"""Reading a channel's chain of items; every read is strongly consistent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from services.persistence.adapters.dynamodb.items import (
    BUCKET_OFFSETS,
    ITEM_ROWS,
    BatchItem,
    channel_key,
    from_attributes,
    keys_of,
    partition,
)
from services.shared.dynamodb.client import ConditionFailed, DynamoDb, values_of
from services.shared.errors import Unavailable


class Channel(NamedTuple):
    """The channel's own item; its numbers only grow."""

    epoch: str
    bucket: int  # last one begun; its first item may be missing yet
    removed: int  # readers see only what is above
    cleared: int  # items up to here need no more work of a removal


class Chains:
    """All chains of the table. `bucket_offsets` can't be changed once something is stored."""

    def __init__(self, db: DynamoDb, table: str, bucket_offsets: int = BUCKET_OFFSETS) -> None:
        self.db, self.table, self.bucket_offsets = db, table, bucket_offsets

    def bucket_of(self, offset: int) -> int:
        """The bucket that has this offset."""
        return (offset - 1) // self.bucket_offsets

    def end_of(self, bucket: int) -> int:
        """The last offset that a bucket may have."""
        return (bucket + 1) * self.bucket_offsets

    def partition_of(self, channel: str, offset: int) -> str:
        """Partition key of the item that begins there."""
        return partition(channel, self.bucket_of(offset))

    async def channel(self, channel: str) -> Channel | None:
        """Its item; None: nobody has opened it. One request."""
        answer = await self.db.call("get_item", TableName=self.table, Key=channel_key(channel), ConsistentRead=True)
        if "Item" not in answer:
            return None
        values = values_of(answer["Item"])
        return Channel(values["epoch"], *(int(values.get(name, 0)) for name in ("bucket", "removed", "cleared")))

    async def raise_number(self, channel: str, name: str, value: int) -> None:
        """Set a number of the channel's item, unless it is as high already. One request."""
        try:
            await self.db.call(
                "update_item",
                TableName=self.table,
                Key=channel_key(channel),
                UpdateExpression="SET #name = :value",
                ConditionExpression="#name < :value",
                ExpressionAttributeNames={"#name": name},
                ExpressionAttributeValues={":value": {"N": str(value)}},
            )
        except ConditionFailed:
            pass

    async def top(self, channel: str, bucket: int) -> int:
        """Where the chain ends, if `bucket` is the channel item's. One request, two where that bucket is only begun.

        Raises:
            Unavailable: DynamoDB does not answer, or the end of the chain is not where it must be.
        """
        for candidate in (bucket, bucket - 1):
            if candidate < 0:
                return 0
            answer = await self.db.call(
                "query",
                TableName=self.table,
                KeyConditionExpression="p = :p",
                ProjectionExpression="s, n",
                ExpressionAttributeValues={":p": {"S": partition(channel, candidate)}},
                ScanIndexForward=False,
                Limit=1,
                ConsistentRead=True,
            )
            for item in answer["Items"]:
                values = values_of(item)
                return int(values["s"] + values["n"]) - 1
        raise Unavailable(f"the log of {channel} has no end: items of buckets {bucket - 1} and {bucket} are missing")

    async def upward(self, channel: str, low: int, high: int, limit: int = 0) -> AsyncIterator[BatchItem]:
        """Items that hold any of the offsets low … high, ascending; `limit`: the caller needs that many rows."""
        if high < low:
            return
        for bucket in range(self.bucket_of(low), self.bucket_of(high) + 1):
            bounds = self._bounds(bucket, low - ITEM_ROWS + 1, high)
            async for item in self._query(channel, bucket, bounds, forward=True, limit=limit and limit + ITEM_ROWS - 1):
                if item.last >= low:
                    yield item

    async def downward(self, channel: str, high: int, low: int, limit: int = 0) -> AsyncIterator[BatchItem]:
        """The same, descending."""
        if high < low:
            return
        for bucket in range(self.bucket_of(high), self.bucket_of(low) - 1, -1):
            bounds = self._bounds(bucket, low - ITEM_ROWS + 1, high)
            async for item in self._query(channel, bucket, bounds, forward=False, limit=limit):
                if item.last < low:
                    return
                yield item

    async def keys_downward(
        self, channel: str, high: int, limit: int
    ) -> AsyncIterator[tuple[int, float, Sequence[str]]]:
        """First offset, time and keys of items at and below an offset, descending; `limit` items in one request."""
        for bucket in range(self.bucket_of(high), -1, -1):
            async for item in self.db.query(
                TableName=self.table,
                KeyConditionExpression="p = :p",
                ProjectionExpression="s, #at, #keys",
                ExpressionAttributeNames={"#at": "at", "#keys": "keys"},
                ExpressionAttributeValues={":p": {"S": partition(channel, bucket)}},
                ScanIndexForward=False,
                ConsistentRead=True,
                Limit=limit,
            ):
                values = values_of(item)
                yield int(values["s"]), float(values["at"]), keys_of(values)

    def _bounds(self, bucket: int, low: int, high: int) -> tuple[int, int]:
        first = bucket * self.bucket_offsets + 1
        return max(low, first), min(high, first + self.bucket_offsets - 1)

    async def _query(
        self, channel: str, bucket: int, bounds: tuple[int, int], *, forward: bool, limit: int
    ) -> AsyncIterator[BatchItem]:
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
