"""Erasing: other publications in batch items.

An item is written on the condition that it is as it was read. Its attribute `erased` counts how often that was done. So
of two erasers that read the same item one reads it again, and neither takes back what the other did. Nor does an eraser
bring back what a removal has emptied meanwhile. Whoever repeats the write of an item finds its place taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.persistence.adapters.dynamodb.chain import Chains
from services.persistence.adapters.dynamodb.items import BatchItem, rows_attribute
from services.shared.dynamodb.client import ConditionFailed, item_of
from services.shared.errors import Unavailable
from thalamus.persistence.v1.storage_pb2 import StoredRow

_ATTEMPTS = 8  # at one item: each that fails means that somebody else has erased something there


async def replace(chains: Chains, channel: str, publications: Mapping[int, bytes]) -> int:
    """Replace publications by offset; return how often the channel was erased from.

    Three requests and two per item, if all items are those that were read.

    Raises:
        Unavailable: any number of them may be replaced.
    """
    found = await chains.channel(channel)
    if found is None:
        return 0
    times = await chains.count_erasure(channel)
    last = chains.end_of(found.bucket)
    left = {offset for offset in publications if offset <= last}
    while left:
        left -= await _replace_around(chains, channel, min(left), publications)
    return times


async def _replace_around(chains: Chains, channel: str, offset: int, publications: Mapping[int, bytes]) -> set[int]:
    """Replace what is in the item that has this offset; return the item's offsets."""
    for _ in range(_ATTEMPTS):
        item = await _item_with(chains, channel, offset)
        if item is None or item.dropped:
            return {offset}
        rows = [_replaced(row, publications.get(place)) for place, row in enumerate(item.rows, item.first)]
        if rows == list(item.rows) or await _put(chains, channel, item, rows):
            return set(range(item.first, item.last + 1))
    raise Unavailable("too many erase the same publications")


async def _item_with(chains: Chains, channel: str, offset: int) -> BatchItem | None:
    async for item in chains.downward(channel, offset, offset, 1):
        return item
    return None


def _replaced(row: StoredRow, publication: bytes | None) -> StoredRow:
    """Return the row with another publication; None: with its own."""
    if publication is None:
        return row
    made = StoredRow()
    made.CopyFrom(row)  # with fields that a later version has put there
    made.publication = publication
    return made


async def _put(chains: Chains, channel: str, item: BatchItem, rows: list[StoredRow]) -> bool:
    """Put rows into an item, if it still is as it was read; return whether."""
    seen = "erased = :seen" if item.erased else "attribute_not_exists(erased)"
    values = {":rows": rows_attribute(rows), ":next": item.erased + 1}
    if item.erased:
        values[":seen"] = item.erased
    try:
        await chains.db.call(
            "update_item",
            TableName=chains.table,
            Key=item_of({"p": chains.partition_of(channel, item.first), "s": item.first}),
            UpdateExpression="SET #rows = :rows, erased = :next",
            ConditionExpression=f"attribute_exists(p) AND attribute_not_exists(dropped) AND {seen}",
            ExpressionAttributeNames={"#rows": "rows"},
            ExpressionAttributeValues=item_of(values),
        )
    except ConditionFailed:
        return False
    return True
