"""Durability `queued` in the channel's own item.

The item says since when Redis may have more than the store.
"""

from __future__ import annotations

import contextlib

from services.persistence.adapters.dynamodb.chain import Chains
from services.persistence.adapters.dynamodb.items import channel_key
from services.shared.dynamodb.client import ConditionFailed, item_of
from services.shared.hotlog.hotlog import new_epoch


async def note(chains: Chains, channel: str, generation: int) -> None:
    """Raise `queued_in` of the channel's item, which must exist. One request."""
    with contextlib.suppress(ConditionFailed):
        await chains.db.call(
            "update_item",
            TableName=chains.table,
            Key=channel_key(channel),
            UpdateExpression="SET queued_in = :generation",
            ConditionExpression="attribute_exists(p) AND (attribute_not_exists(queued_in) OR queued_in < :generation)",
            ExpressionAttributeValues=item_of({":generation": generation}),
        )


async def renew_epoch(chains: Chains, channel: str, epoch: str, generation: int, forgotten: int | None = None) -> None:
    """Replace the epoch of the channel's item, if it is still this one. One request.

    Not if `queued_in` is of a later generation. `forgotten`: `queued_in` becomes 0, if it is this one, else nothing is
    done.
    """
    noted = generation if forgotten is None else 0
    least, most = (0, generation) if forgotten is None else (forgotten, min(forgotten, generation))
    is_noted = "queued_in BETWEEN :least AND :most"
    if not least:
        is_noted = f"(attribute_not_exists(queued_in) OR {is_noted})"
    values = {":new": new_epoch(), ":old": epoch, ":noted": noted, ":least": least, ":most": most}
    with contextlib.suppress(ConditionFailed):
        await chains.db.call(
            "update_item",
            TableName=chains.table,
            Key=channel_key(channel),
            UpdateExpression="SET epoch = :new, queued_in = :noted",
            ConditionExpression=f"epoch = :old AND {is_noted}",
            ExpressionAttributeValues=item_of(values),
        )
