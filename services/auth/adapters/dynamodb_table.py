"""Requests to the accounts table in DynamoDB, and the keys of its items."""

from __future__ import annotations

import string
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from services.shared.dynamodb.client import ConditionFailed, DynamoDb, item_of, values_of
from services.shared.errors import Unavailable

_VERSION = ("version", "-")
_MAX_KEY_BYTES = 1_024  # longest sort key; a longer one was never written, and asking for it is an error
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # lower case as SQLite's NOCASE does it

Key = tuple[str, str]


class AccountsTable:
    """Base of the stores on the table. Several processes may share it."""

    def __init__(self, db: DynamoDb, table: str) -> None:
        """Take the client; makes no request."""
        self._db, self._table = db, table

    async def _get(self, key: Key) -> dict[str, Any] | None:
        """Return an item by a strongly consistent read; None if it does not exist."""
        if not all(1 <= len(part.encode()) <= _MAX_KEY_BYTES for part in key):
            return None
        response = await self._db.call("get_item", TableName=self._table, Key=item_at(key), ConsistentRead=True)
        return values_of(response["Item"]) if "Item" in response else None

    async def _all(self, partition: str) -> list[dict[str, Any]]:
        query = self._db.query(
            TableName=self._table,
            KeyConditionExpression="p = :p",
            ExpressionAttributeValues=item_of({":p": partition}),
            ConsistentRead=True,
        )
        return [values_of(item) async for item in query]

    async def _update(self, key: Key, update: str, values: Mapping[str, Any], *, when: str) -> dict[str, Any] | None:
        """Update an item and return it as it is afterwards; None if `when` does not hold."""
        try:
            response = await self._db.call(
                "update_item",
                TableName=self._table,
                Key=item_at(key),
                UpdateExpression=update,
                ConditionExpression=when,
                ExpressionAttributeValues=item_of(values),
                ReturnValues="ALL_NEW",
            )
        except ConditionFailed:
            return None
        return values_of(response["Attributes"])

    def _new(self, key: Key, values: Mapping[str, Any], *, mark: str) -> dict[str, Any]:
        """Return a put that fails if another item is there.

        An item with the same `mark` was written by an earlier attempt of this call, and is replaced.
        """
        return {
            "Put": {
                "TableName": self._table,
                "Item": item_at(key, values),
                "ConditionExpression": "attribute_not_exists(p) OR #mark = :mark",
                "ExpressionAttributeNames": {"#mark": mark},
                "ExpressionAttributeValues": item_of({":mark": values[mark]}),
            }
        }

    async def _change_keys(self, *writes: Mapping[str, Any]) -> None:
        """Write, and raise the version in the same transaction."""
        try:
            await self._transact_and_tell(*writes)
        except ConditionFailed as error:
            raise Unavailable("the account store has another key of that id") from error

    async def _version(self) -> int:
        found = await self._get(_VERSION)
        return int(found["changes"]) if found else 0

    async def _transact_and_tell(self, *writes: Mapping[str, Any]) -> None:
        """Write, and raise the version, by which every replica learns of it.

        Raises:
            ConditionFailed: a condition of a write does not hold; nothing was written.
        """
        raise_version = {
            "TableName": self._table,
            "Key": item_at(_VERSION),
            "UpdateExpression": "ADD changes :one",
            "ExpressionAttributeValues": item_of({":one": 1}),
        }
        await self._transact(*writes, {"Update": raise_version})

    async def _transact(self, *writes: Mapping[str, Any]) -> None:
        # With the token DynamoDB drops an attempt that arrives late, after somebody else changed what this one wrote.
        await self._db.call("transact_write_items", TransactItems=list(writes), ClientRequestToken=str(uuid.uuid4()))


def user_key(user_id: str) -> Key:
    """Return the key of a user with a password; the id was made by auth."""
    return (f"user#{user_id}", "-")


def name_key(username: str) -> Key:
    """Return the key of a name."""
    return (f"name#{username.translate(_ASCII_LOWER)}", "-")


def family_key(family: str) -> Key:
    """Return the key of a session."""
    return (f"family#{family}", "-")


def item_at(key: Key, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the key attributes and the values as a DynamoDB item."""
    return item_of({"p": key[0], "s": key[1], **(values or {})})


def number(value: float) -> Decimal:
    """Return a number that reads back as the same float: DynamoDB keeps 38 digits."""
    return Decimal(repr(value))
