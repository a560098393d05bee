"""`MarkerStore` in the chat table; docs/storage.md describes the items.

A write takes the place of what is there if it is not less in any part, which is nearly always so: one request. Else it
is merged with what is there, and written on condition that nobody changed that meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from services.persistence.adapters.dynamodb.operation import DEADLINE_S, operation
from services.persistence.chat.adapters.dynamodb import items as items
from services.persistence.chat.adapters.dynamodb.table import IS_NEW, ChatTable
from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.record import Record
from services.shared.dynamodb.client import DynamoDb

_AT_ONCE = 16  # requests
_IS_LESS = (
    f"{IS_NEW} OR (#epoch = :epoch AND #delivered <= :delivered"
    " AND (#generation < :generation OR (#generation = :generation AND #offset <= :offset))"
    " AND (#version < :version OR (#version = :version AND #settings = :settings)))"
)
_IS_AS_READ = " AND ".join(f"#{name} = :was_{name}" for name in Record._fields)


class DynamoDbMarkerStore:
    """`MarkerStore` in a DynamoDB table, which must exist.

    Methods without a docstring are described in `MarkerStore`.
    """

    def __init__(self, db: DynamoDb, table: str, *, deadline_s: float = DEADLINE_S) -> None:
        """Take the client, which whoever made it closes; makes no request yet."""
        self._table, self._deadline_s = ChatTable(db, table), deadline_s

    async def load(self, wanted: Collection[Of]) -> dict[Of, Record]:
        by_key = {items.marker_key(*of): of for of in wanted}
        async with operation("markers_load", self._deadline_s):
            found = await self._table.get_many(list(by_key))
        return {by_key[one["p"], one["s"]]: _record(one) for one in found}

    async def merge(self, records: Sequence[tuple[Of, Record]]) -> None:
        for start in range(0, len(records), _AT_ONCE):
            some = records[start : start + _AT_ONCE]
            for failure in await asyncio.gather(*(self._merge(*one) for one in some), return_exceptions=True):
                if failure is not None:
                    raise failure

    async def of_user(self, user: str, after: str, limit: int) -> Sequence[tuple[str, Record]]:
        found: list[tuple[str, Record]] = []
        async with operation("markers_load", self._deadline_s):
            above = items.marker_key(user, after)[1]
            async for item in self._table.items(items.markers_of(user), above=above, limit=limit):
                found.append((item["s"].removeprefix("c#"), _record(item)))
                if len(found) == limit:  # before the next page is asked for
                    break
        return found

    async def forget(self, wanted: Collection[Of]) -> None:
        async with operation("markers_forget", self._deadline_s):
            await self._table.remove([items.marker_key(*of) for of in dict.fromkeys(wanted)])

    async def _merge(self, of: Of, record: Record) -> None:
        """Merge one record."""
        key = items.marker_key(*of)
        async with operation("markers_merge", self._deadline_s):
            condition, using = _IS_LESS, record._asdict()
            while (there := await self._table.put_alone(key, record._asdict(), condition, **using)) is not None:
                if not there:  # it was forgotten in between
                    condition, using = IS_NEW, {}
                    continue
                kept = _record(there)
                record = kept.merged(record)
                if record == kept:
                    return
                condition, using = _IS_AS_READ, {f"was_{name}": value for name, value in kept._asdict().items()}


def _record(item: Mapping[str, Any]) -> Record:
    return Record(
        int(item["generation"]),
        int(item["offset"]),
        int(item["delivered"]),
        item["epoch"],
        int(item["version"]),
        item["settings"],
    )
