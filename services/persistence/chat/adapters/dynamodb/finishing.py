"""What is left to do once a head is written: its journal, or a drop.

Any process can do it, and several at once. Each transaction checks that the head still asks for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from services.persistence.chat.adapters.dynamodb.items import (
    AHEAD,
    PEOPLE,
    bucket_of,
    chunks,
    directory_key,
    head_key,
    journal_key,
    listed_key,
    overlays_of,
    unpacked,
    user_of,
)
from services.persistence.chat.adapters.dynamodb.table import IS_NEW, ChatTable, Write
from services.persistence.chat.adapters.dynamodb.users import from_journal, user_writes
from services.persistence.chat.ports import Loaded
from services.shared.errors import Unavailable

TRANSACTION_WRITES = 100
TRANSACTION_BYTES = 3_500_000  # DynamoDB takes 4 MB; the rest is for keys and names
_HAS_JOURNAL = "#token = :token AND attribute_exists(#journal)"
_IS_DROPPED = "#token = :token AND attribute_exists(#dropped)"


class Finisher:
    """Carries out journals and drops."""

    def __init__(self, table: ChatTable) -> None:
        self._table = table

    async def finish(self, channel: str, head: Mapping[str, Any]) -> bool:
        """Do what a head asks for; return whether it asked for anything.

        Raises:
            Unavailable: the rest is left for whoever meets the head next.
        """
        if "journal" in head:
            await self._carry_out(channel, head)
        elif "dropped" in head:
            await self._clear(channel, head)
        else:
            return False
        return True

    async def drop(self, channel: str, seen: Loaded | None = None) -> None:
        """Drop a conversation; also what is left of one that has no head.

        `seen`: only if that is still what is kept.
        """
        key = head_key(channel)
        while True:
            (head,) = await self._table.snapshot(key)
            if head is not None and await self.finish(channel, head):
                if "dropped" in head:
                    return
                continue
            if seen is not None and (head is None or (int(head["position"]), unpacked(head)) != seen[:2]):
                return
            if head is None and not await self._has_items(channel):
                return
            dropped = {"dropped": True, "token": uuid.uuid4().hex, "upto": (head or {}).get("position", 0)}
            if head and "directory" in head:
                dropped["directory"] = head["directory"]
            when, using = ("#token = :seen", {"seen": head["token"]}) if head else (IS_NEW, {})
            if await self._table.transact([self._table.put(key, dropped, when, **using)]) is None:
                await self._clear(channel, dropped)
                return

    async def _carry_out(self, channel: str, head: Mapping[str, Any]) -> None:
        """Write what the journal says, then remove it."""
        table, key, token = self._table, head_key(channel), head["token"]
        names = [journal_key(channel, number) for number in range(int(head["journal"]))]
        now, *parts = await table.snapshot(key, *names)
        if now is None or now["token"] != token or "journal" not in now:
            return
        if None in parts:
            raise Unavailable(f"a part of the journal of {channel} is missing")
        people, listed = from_journal([part["doc"] for part in parts if part])
        if await self._checked(
            table.check(key, _HAS_JOURNAL, token=token), user_writes(table, channel, people, listed)
        ):
            done = table.update(key, "REMOVE #journal", _HAS_JOURNAL, token=token)
            await table.transact([done, *map(table.delete, names)])

    async def _clear(self, channel: str, head: Mapping[str, Any]) -> None:
        """Delete all of a dropped conversation, its head last."""
        table, key, token = self._table, head_key(channel), head["token"]
        check = table.check(key, _IS_DROPPED, token=token)
        buckets = set(range(bucket_of(int(head["upto"])) + 1))
        marks, writes = [], []
        async for item in table.items(key[0]):
            if item["s"].startswith(AHEAD):
                buckets.add(int(item["s"].removeprefix(AHEAD)))
                marks.append(table.delete((item["p"], item["s"])))
            elif item["s"].startswith(PEOPLE):
                if "listed" in item:  # before the item that says so
                    writes.append(table.delete(listed_key(user_of(item), channel)))
                writes.append(table.delete((item["p"], item["s"])))
        if "directory" in head:
            writes.append(table.delete(directory_key(head["directory"], channel)))
        if not await self._checked(check, writes):
            return
        for bucket in sorted(buckets):
            keys = [one async for one in table.items(overlays_of(channel, bucket), keys_only=True)]
            if not await self._checked(check, [table.delete((one["p"], one["s"])) for one in keys]):
                return
        if await self._checked(check, marks):
            await table.transact([table.delete(key, _IS_DROPPED, token=token)])

    async def _checked(self, check: Write, writes: Sequence[Write]) -> bool:
        """Write in portions, as long as the check holds; return whether it did."""
        for part in chunks(writes, TRANSACTION_WRITES - 1, TRANSACTION_BYTES):
            if await self._table.transact([check, *part]) is not None:
                return False
        return True

    async def _has_items(self, channel: str) -> bool:
        async for _ in self._table.items(head_key(channel)[0], limit=1):
            return True
        return False
