"""Removal of history: hidden at once, emptied when its keys no longer count.

The offsets stay taken, so that nobody who believes in an old top gets them again; see docs/storage.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from services.persistence.adapters.dynamodb.chain import Chains
from services.persistence.adapters.dynamodb.items import (
    ITEM_ROWS,
    REMOVALS,
    BatchItem,
    to_attributes,
    without_content,
)
from services.persistence.domain.ports import Removal
from services.shared.dynamodb.client import item_of, values_of
from services.shared.hotlog.hotlog import KEY_TTL_S

TOMBSTONE_S = 7 * 86_400  # seconds for which an emptied item keeps its place taken
_AT_ONCE = 25  # items of one write
_BEGUN_AT_ONCE = 100  # removals that one call returns
_IDS_PER_MS = 1_000_000  # removals that begin in one millisecond differ by a random part below this


async def hide(chains: Chains, channel: str, upto: int, now: float) -> None:
    """Note a removal, then hide publications up to the offset from readers.

    In this order any replica can continue from the note if this process dies.

    Raises:
        Unavailable: it may be noted, and it may be hidden.
    """
    found = await chains.channel(channel)
    if found is None:
        return
    upto = min(upto, await chains.top(channel, found.bucket))
    if upto <= found.removed:
        return
    note = {"s": int(now * 1_000) * _IDS_PER_MS + secrets.randbelow(_IDS_PER_MS), "channel": channel, "upto": upto}
    await chains.db.call("put_item", TableName=chains.table, Item=item_of({"p": REMOVALS, **note}))
    await chains.raise_number(channel, "removed", upto)


async def begun(chains: Chains, now: float) -> list[Removal]:
    """Return the oldest removals that are not finished. One request."""
    response = await chains.db.call(
        "query",
        TableName=chains.table,
        KeyConditionExpression="p = :p",
        ExpressionAttributeValues=item_of({":p": REMOVALS}),
        ConsistentRead=True,
        Limit=_BEGUN_AT_ONCE,
    )
    return [_from_note(values_of(item), now) for item in response["Items"]]


def _from_note(note: dict[str, Any], now: float) -> Removal:
    """Convert the note of a removal, as Python values."""
    number = int(note["s"])
    is_due = number / _IDS_PER_MS / 1_000 + KEY_TTL_S <= now
    return Removal(number, note["channel"], int(note["upto"]), is_due)


async def finish(chains: Chains, removal: Removal, clock: Callable[[], float]) -> None:
    """Empty the items that a removal covers entirely, then delete its note.

    A repetition goes on where the last attempt ended. An emptied item may expire after 7 days, but not the last item of
    the chain: the top is read from it.

    Raises:
        Unavailable: only a part is emptied.
    """
    channel, upto = removal.channel, removal.upto
    await chains.raise_number(channel, "removed", upto)  # the process that noted it may have died before this
    found = await chains.channel(channel)
    if found is not None:
        top = await chains.top(channel, found.bucket)
        work: list[BatchItem] = []
        async for item in chains.upward(channel, found.cleared + 1, upto, expected=ITEM_ROWS):
            if item.last > upto:
                break
            work.append(item)
            if len(work) == _AT_ONCE:
                await _empty(chains, channel, work, top, clock())
                work = []
        if work:
            await _empty(chains, channel, work, top, clock())
    key = item_of({"p": REMOVALS, "s": removal.number})
    await chains.db.call("delete_item", TableName=chains.table, Key=key)


async def _empty(chains: Chains, channel: str, items: list[BatchItem], top: int, now: float) -> None:
    """Empty these items, then note how far that is done.

    `top` is that of the chain at some time since the removal began.
    """
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
