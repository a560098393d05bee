"""`GrantStore` on DynamoDB, in the table of `DynamoDbAccounts`.

A grant is an item `grants#<user>`, `<operation>#<channel>`. A call changes its items in one transaction, whose token
keeps an attempt that arrives late from undoing what came after it.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from services.auth.domain.ports import GrantRow
from services.shared.dynamodb.client import DynamoDb, item_of, values_of
from services.shared.dynamodb.tables import EXPIRY


class DynamoDbGrants:
    """The store. Several processes may share the table."""

    def __init__(self, db: DynamoDb, table: str) -> None:
        self._db, self._table = db, table

    async def give(self, user: str, rows: Sequence[GrantRow]) -> None:
        await self._change([{"Put": {"TableName": self._table, "Item": _item(user, row)}} for row in rows])

    async def take(self, user: str, rows: Sequence[GrantRow]) -> None:
        await self._change(
            [{"Delete": {"TableName": self._table, "Key": item_of(_key(user, row))}} for row in rows],
        )

    async def of(self, user: str) -> list[GrantRow]:
        query = self._db.query(
            TableName=self._table,
            KeyConditionExpression="p = :p",
            ExpressionAttributeValues=item_of({":p": f"grants#{user}"}),
            ConsistentRead=True,
        )
        rows = [_row(values_of(item)) async for item in query]
        return sorted(rows)

    async def _change(self, writes: Sequence[dict[str, Any]]) -> None:
        if writes:
            token = str(uuid.uuid4())
            await self._db.call("transact_write_items", TransactItems=list(writes), ClientRequestToken=token)


def _key(user: str, row: GrantRow) -> dict[str, Any]:
    return {"p": f"grants#{user}", "s": f"{row.operation}#{row.channel}"}


def _item(user: str, row: GrantRow) -> dict[str, Any]:
    """Return the item of a grant. DynamoDB removes it some time after its expiry."""
    values = _key(user, row)
    if row.expires_at:
        values |= {"until": Decimal(repr(row.expires_at)), EXPIRY: math.ceil(row.expires_at)}
    return item_of(values)


def _row(values: dict[str, Any]) -> GrantRow:
    operation, _, channel = values["s"].partition("#")
    return GrantRow(channel, operation, float(values.get("until", 0)))
