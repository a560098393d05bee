"""`DeviceStore` in the chat table of DynamoDB; docs/storage.md has its items."""

from __future__ import annotations

from collections.abc import Collection

from services.persistence.adapters.dynamodb.operation import DEADLINE_S, operation
from services.persistence.chat.adapters.dynamodb import items as items
from services.persistence.chat.adapters.dynamodb.table import IS_NEW, ChatTable
from services.persistence.chat.devices.ports import Kept
from services.shared.dynamodb.client import DynamoDb


class DynamoDbDeviceStore:
    """`DeviceStore` in a DynamoDB table, which must exist.

    Methods are described in `DeviceStore`.
    """

    def __init__(self, db: DynamoDb, table: str, *, deadline_s: float = DEADLINE_S) -> None:
        """Take the client; makes no request."""
        self._table, self._deadline_s = ChatTable(db, table), deadline_s

    async def devices(self, users: Collection[str]) -> dict[str, Kept]:
        keys = [items.devices_key(user) for user in dict.fromkeys(users)]
        async with operation("devices_read", self._deadline_s):
            found = await self._table.get_many(keys)
        return {item["user"]: Kept(item["version"], items.unpacked(item) or b"") for item in found}

    async def set_devices(self, user: str, expected: str, kept: Kept | None) -> bool:
        key, table = items.devices_key(user), self._table
        when, using = ("#version = :expected", {"expected": expected}) if expected else (IS_NEW, {})
        if kept is None:
            write = table.delete(key, when, **using) if expected else table.check(key, when)
        else:
            values = {"user": user, "version": kept.version, **items.packed(kept.document)}
            write = table.put(key, values, when, **using)
        async with operation("devices_write", self._deadline_s):
            failed = await table.transact([table.telling(write)])
        if failed is None:
            return True
        there = failed.get(0, {})  # maybe by an attempt whose response was lost
        return there.get("version") == kept.version if kept is not None else expected != "" and not there

    async def owners(self, addresses: Collection[str]) -> dict[str, str]:
        keys = [items.owner_key(address) for address in dict.fromkeys(addresses)]
        async with operation("devices_read", self._deadline_s):
            found = await self._table.get_many(keys)
        return {item["p"].removeprefix(items.DEVICE): item["user"] for item in found}

    async def own(self, address: str, user: str) -> str | None:
        key, table = items.owner_key(address), self._table
        async with operation("devices_write", self._deadline_s):
            while True:
                (found,) = await table.snapshot(key)
                before: str | None = found["user"] if found else None
                when, using = ("#user = :before", {"before": before}) if found else (IS_NEW, {})
                if await table.transact([table.put(key, {"user": user}, when, **using)]) is None:
                    return before

    async def disown(self, address: str, user: str) -> None:
        key, table = items.owner_key(address), self._table
        async with operation("devices_write", self._deadline_s):
            await table.transact([table.delete(key, "#user = :user", user=user)])
