"""Requests to the chat table: parts of transactions, and reads.

Every name of an attribute in an expression is written `#name`: DynamoDB reserves hundreds of words.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from services.persistence.chat.adapters.dynamodb.items import Key
from services.shared.dynamodb.budget import retry_backoff
from services.shared.dynamodb.client import ConditionFailed, DynamoDb, item_of, values_of

Write = Mapping[str, Any]

_GET_AT_ONCE = 100  # items of one BatchGetItem
_NAME = re.compile(r"#(\w+)")
IS_NEW = "attribute_not_exists(#p)"


class ChatTable:
    """The table. Reads are strongly consistent."""

    def __init__(self, db: DynamoDb, name: str) -> None:
        """Take the client; makes no request."""
        self._db, self._name = db, name

    def put(self, key: Key, values: Mapping[str, Any], when: str = "", **using: Any) -> Write:
        """Return a put; `using` has the values of the condition `when`, by name."""
        return {"Put": {"TableName": self._name, "Item": _item(key, values), **_condition(when, using)}}

    def update(self, key: Key, change: str, when: str = "", **using: Any) -> Write:
        """Return an update."""
        expression = {"UpdateExpression": change}
        return {"Update": {**self._at(key), **expression, **_condition(when, using, change)}}

    def delete(self, key: Key, when: str = "", **using: Any) -> Write:
        """Return a delete."""
        return {"Delete": {**self._at(key), **_condition(when, using)}}

    def check(self, key: Key, when: str, **using: Any) -> Write:
        """Return a part that writes nothing, but must hold."""
        return {"ConditionCheck": {**self._at(key), **_condition(when, using)}}

    def telling(self, write: Write) -> Write:
        """Return a write that tells what is there if its condition does not hold."""
        ((kind, part),) = write.items()
        return {kind: {**part, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}}

    async def transact(self, writes: Sequence[Write]) -> dict[int, dict[str, Any]] | None:
        """Do all of up to 100 writes; return None if they were done.

        If conditions do not hold, nothing is done, and the result says where: index of a write → what is there, if the
        write is `telling`.
        """
        try:
            # With the token DynamoDB drops an attempt that arrives late, after somebody else changed what it wrote.
            token = str(uuid.uuid4())
            await self._db.call("transact_write_items", TransactItems=list(writes), ClientRequestToken=token)
        except ConditionFailed as failed:
            return {index: values_of(item) for index, item in failed.parts.items()}
        return None

    async def put_alone(self, key: Key, values: Mapping[str, Any], when: str, **using: Any) -> dict[str, Any] | None:
        """Put one item; return None if it was put, else what is there ({}: nothing).

        What is there may be the item itself, if the response to an earlier try was lost.
        """
        put = {"TableName": self._name, "Item": _item(key, values), **_condition(when, using)}
        try:
            await self._db.call("put_item", ReturnValuesOnConditionCheckFailure="ALL_OLD", **put)
        except ConditionFailed as failed:
            return values_of(failed.item)
        return None

    async def remove(self, keys: Sequence[Key]) -> None:
        """Delete any number of items, whatever they are."""
        await self._db.write_all(self._name, [{"DeleteRequest": {"Key": _item(key, {})}} for key in keys])

    async def snapshot(self, *keys: Key) -> list[dict[str, Any] | None]:
        """Return items as they are at one moment, None where there is none.

        No transaction is half visible in it, unlike in a query.
        """
        gets = [{"Get": self._at(key)} for key in keys]
        response = await self._db.call("transact_get_items", TransactItems=gets)
        return [values_of(one["Item"]) if one.get("Item") else None for one in response["Responses"]]

    async def items(
        self,
        partition: str,
        *,
        low: str = "",
        above: str = "",
        high: str = "",
        limit: int = 0,
        keys_only: bool = False,
        reverse: bool = False,
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield items of a partition by sort key.

        Args:
            partition: Its key.
            low: First sort key, included; "": from the first.
            above: Sort key after which it begins, in place of `low`.
            high: Last sort key, included, with `low`.
            limit: Items of one request; 0: as many as fit into 1 MB.
            keys_only: Return nothing but the keys.
            reverse: By descending sort key.
        """
        condition, using = "#p = :p", {"p": partition}
        if high:
            condition, using = f"{condition} AND #s BETWEEN :low AND :high", {**using, "low": low, "high": high}
        elif above or low:
            condition += " AND #s > :low" if above else " AND #s >= :low"
            using["low"] = above or low
        project = {"ProjectionExpression": "#p, #s"} if keys_only else {}
        query = self._db.query(
            TableName=self._name,
            KeyConditionExpression=condition,
            ConsistentRead=True,
            **_names_and_values(using, condition, *project.values()),
            **project,
            **({"ScanIndexForward": False} if reverse else {}),
            **({"Limit": limit} if limit else {}),
        )
        async for item in query:
            yield values_of(item)

    async def get_many(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Return those items that there are, in any order."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(keys), _GET_AT_ONCE):
            some = [_item(key, {}) for key in keys[start : start + _GET_AT_ONCE]]
            asked: dict[str, Any] = {self._name: {"Keys": some, "ConsistentRead": True}}
            pauses = retry_backoff()
            while asked:
                response = await self._db.call("batch_get_item", RequestItems=asked)
                found += map(values_of, response["Responses"].get(self._name, []))
                asked = response.get("UnprocessedKeys") or {}
                if asked:
                    await asyncio.sleep(pauses.next_s())
        return found

    def _at(self, key: Key) -> dict[str, Any]:
        return {"TableName": self._name, "Key": _item(key, {})}


def _item(key: Key, values: Mapping[str, Any]) -> dict[str, Any]:
    return item_of({"p": key[0], "s": key[1], **values})


def _condition(when: str, using: Mapping[str, Any], *expressions: str) -> dict[str, Any]:
    """Condition of a write, with the names and values of all its expressions."""
    made = _names_and_values(using, when, *expressions)
    return made | {"ConditionExpression": when} if when else made


def _names_and_values(using: Mapping[str, Any], *expressions: str) -> dict[str, Any]:
    names = {f"#{name}": name for expression in expressions for name in _NAME.findall(expression)}
    made: dict[str, Any] = {"ExpressionAttributeNames": names} if names else {}
    if using:
        made["ExpressionAttributeValues"] = item_of({f":{name}": value for name, value in using.items()})
    return made
