"""Removing a channel's history: hidden first, then emptied; places stay taken."""

from __future__ import annotations

from collections.abc import Callable

from services.persistence.adapters.dynamodb_chain import Chains
from services.persistence.adapters.dynamodb_items import ITEM_ROWS, BatchItem, to_attributes, without_content

TOMBSTONE_S = 7 * 86_400
_AT_ONCE = 25  # items between two writes


async def remove(chains: Chains, channel: str, upto: int, clock: Callable[[], float]) -> None:
    """Hide everything up to the offset, then empty the items that hold nothing else; repeating it finishes it.

    What is left of an item may go after 7 days, but that of the last one stays: the chain's top is read from it.

    Raises:
        Unavailable: it may be hidden already, and in part emptied.
    """
    found = await chains.channel(channel)
    if found is None or upto <= 0:
        return
    top = await chains.top(channel, found.bucket)
    upto = min(upto, top)
    if upto <= 0:
        return
    await chains.raise_number(channel, "removed", upto)
    work: list[BatchItem] = []
    async for item in chains.upward(channel, found.cleared + 1, upto, limit=ITEM_ROWS):
        if item.last > upto:
            break
        work.append(item)
        if len(work) == _AT_ONCE:
            await _empty(chains, channel, work, top, clock())
            work = []
    if work:
        await _empty(chains, channel, work, top, clock())


async def _empty(chains: Chains, channel: str, items: list[BatchItem], top: int, now: float) -> None:
    """Overwrite them, then say how far that is done; `top` is the chain's at some time since the removal began."""
    puts = []
    for item in items:
        expires_at = int(now) + TOMBSTONE_S if item.last < top else None
        attributes = to_attributes(
            chains.partition_of(channel, item.first), without_content(item), expires_at=expires_at
        )
        puts.append({"PutRequest": {"Item": attributes}})
    await chains.db.write_all(chains.table, puts)
    cleared = max((item.last for item in items if item.last < top), default=0)
    if cleared:
        await chains.raise_number(channel, "cleared", cleared)
