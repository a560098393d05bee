"""Counts the units that requests to DynamoDB are paid by.

A write unit is 1 KB of an item that is written, a strongly consistent read unit 4 KB of what is read, each rounded up;
in a transaction it is twice as many. The size of an item is that of its names and values as DynamoDB counts it. So the
figures need no DynamoDB that counts, only one that stores: here moto's server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.shared.dynamodb.client import DEADLINE_S, DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings

_WRITE_UNIT = 1_024  # bytes
_READ_UNIT = 4_096
_FREE = ("describe_table", "create_table", "describe_time_to_live", "update_time_to_live")


@dataclass(slots=True)
class Units:
    """What was consumed."""

    writes: float = 0
    reads: float = 0
    requests: int = 0


class MeteredDynamoDb(DynamoDb):
    """The client of the services, which also counts what its requests are paid by."""

    units: Units

    def __init__(self, settings: DynamoDbSettings, *, deadline_s: float = DEADLINE_S) -> None:
        super().__init__(settings, deadline_s=deadline_s)
        self.begin()
        self._sizes: dict[str, int] = {}  # of items that transactions wrote, by key

    def begin(self) -> Units:
        """Count anew; return what is counted from now on."""
        self.units = Units()
        return self.units

    def _once(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        response = super()._once(op, arguments)
        if op in _FREE:
            return response
        self.units.requests += 1
        if op == "put_item":
            self.units.writes += _rounded(item_bytes(arguments["Item"]), _WRITE_UNIT)
        elif op == "update_item":
            self.units.writes += _rounded(item_bytes(self._item(arguments)), _WRITE_UNIT)
        elif op == "get_item" and arguments.get("ConsistentRead"):
            self.units.reads += _rounded(item_bytes(response.get("Item", {})), _READ_UNIT)
        elif op == "query" and arguments.get("ConsistentRead"):
            self.units.reads += _rounded(sum(map(item_bytes, self._whole(arguments, response))), _READ_UNIT)
        elif op == "batch_get_item":
            found = [item for items in response["Responses"].values() for item in items]
            asked = sum(len(table["Keys"]) for table in arguments["RequestItems"].values())
            self.units.reads += sum(_rounded(item_bytes(item), _READ_UNIT) for item in found) + asked - len(found)
        elif op == "transact_write_items":
            self.units.writes += sum(map(self._in_transaction, arguments["TransactItems"]))
        else:
            raise NotImplementedError(f"the units of {op} are not counted here")
        return response

    def _in_transaction(self, part: Mapping[str, Any]) -> float:
        """Return the units of a put or a delete: those of the larger item, old or new."""
        ((kind, write),) = part.items()
        item = {"Put": "Item", "Delete": "Key"}[kind]
        key = str([write["TableName"], *(write[item][name] for name in ("p", "s"))])
        size = item_bytes(write["Item"]) if kind == "Put" else 0
        before, self._sizes[key] = self._sizes.get(key, 0), size
        return 2 * _rounded(max(size, before), _WRITE_UNIT)

    def _whole(self, arguments: Mapping[str, Any], response: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the items with all attributes: those left out are paid for, too."""
        items: list[dict[str, Any]] = response["Items"]
        if "ProjectionExpression" in arguments:
            whole = {key: value for key, value in arguments.items() if key != "ProjectionExpression"}
            condition = whole["KeyConditionExpression"]
            names = {key: name for key, name in whole.pop("ExpressionAttributeNames", {}).items() if key in condition}
            items = super()._once("query", {**whole, **({"ExpressionAttributeNames": names} if names else {})})["Items"]
        return items

    def _item(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Read the whole item of an update, which is not counted."""
        found = super()._once("get_item", {key: arguments[key] for key in ("TableName", "Key")})
        item: dict[str, Any] = found["Item"]
        return item


def item_bytes(item: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the size of an item in bytes, as it is paid for.

    Raises:
        NotImplementedError: it has a list, a map or a set; the log has none.
    """
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "S":
        return len(content.encode())
    if kind == "B":
        return len(content)
    if kind == "N":  # two digits a byte, and one
        return (len(content.lstrip("-").replace(".", "")) + 1) // 2 + 1
    if kind in ("BOOL", "NULL"):
        return 1
    raise NotImplementedError(f"the size of {kind} is not counted here")


def _rounded(size: int, unit: int) -> int:
    """Return how many units; at least one, also if nothing was found."""
    return max(1, -(-size // unit))
