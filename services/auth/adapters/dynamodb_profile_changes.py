"""Which profiles were changed lately, on DynamoDB: notes in one partition."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from services.auth.adapters.dynamodb_table import AccountsTable, item_at
from services.auth.domain.user_ports import ProfileVersion
from services.shared.dynamodb.client import item_of, values_of
from services.shared.dynamodb.tables import EXPIRY

_NOTES = "profile_changes"
_AT_ONCE = 25  # notes that are removed at the same time
_KEPT_S = 3_600  # by time to live, where nobody has removed them before, seconds


class ProfileChangesTable(AccountsTable):
    """The part of `DynamoDbUsers` that notes changes of profiles."""

    async def profile_changes(self, since: float, limit: int) -> list[ProfileVersion]:
        notes = await self._notes("s >= :time", since, limit, ScanIndexForward=False)
        return [ProfileVersion(note["user_id"], int(note["version"])) for note in notes]

    async def forget_profile_changes(self, before: float, limit: int) -> None:
        notes = await self._notes("s < :time", before, limit)
        for start in range(0, len(notes), _AT_ONCE):  # one by one: auth needs no right to BatchWriteItem
            keys = [item_at((note["p"], note["s"])) for note in notes[start : start + _AT_ONCE]]
            await asyncio.gather(*(self._db.call("delete_item", TableName=self._table, Key=key) for key in keys))

    def _note_of_change(self, user_id: str, version: int, now: float) -> dict[str, Any]:
        """Return the write that notes a change, for the transaction of the change."""
        digest = hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()
        values = {"user_id": user_id, "version": version, EXPIRY: int(now) + _KEPT_S}
        return {"Put": {"TableName": self._table, "Item": item_at((_NOTES, f"{_time(now)}#{digest}"), values)}}

    async def _notes(self, which: str, time: float, limit: int, **options: Any) -> list[dict[str, Any]]:
        query = self._db.query(
            TableName=self._table,
            KeyConditionExpression=f"p = :p AND {which}",
            ExpressionAttributeValues=item_of({":p": _NOTES, ":time": _time(time)}),
            ConsistentRead=True,
            Limit=limit,
            **options,
        )
        found: list[dict[str, Any]] = []
        async for item in query:
            found.append(values_of(item))
            if len(found) == limit:  # before the next page is asked for
                break
        return found


def _time(time: float) -> str:
    """Return how the sort key of a note of this time begins.

    Texts are ordered as the times are.
    """
    return f"{max(0, int(time * 1_000)):015d}"
