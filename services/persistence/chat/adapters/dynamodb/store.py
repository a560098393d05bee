"""`ChatStore` on DynamoDB: any number of replicas share it without a lock.

Purpose. Keep what became of conversations, so that no reader takes a half written change for the whole, and every
change is conditional on the position that its writer has seen. docs/storage.md describes the items.

Rules.

* The head of a conversation has its position, and a `token` that every write renews. All other items of a conversation
  are written in transactions that also check the head. So a writer that was slow, or was cut off and comes back, can
  write nothing once somebody else has gone on.
* A change of up to 100 items is one transaction. `load` reads the head by a transaction before and after its query, and
  begins again if another token is there: a query alone may see one half of a transaction.
* Larger: overlays go first. They carry the position that they are as of, and an older one never replaces a newer one;
  a newer one that is there is left. Then comes the transaction with the head. If it never comes, readers of before see
  overlays that are newer than the position, and know that from the documents.
* More people than fit beside the head: they go into a journal, up to 3 MB in items of their own, written in the
  transaction with the head. That is the moment of the change. Then the journal is carried out, 99 items at a time, and
  removed. Whoever meets a journal, by `load` or `apply`, carries it out first; doing it twice does no harm.
* Dropping takes the position from the head first, so that nobody reads any more, and the head itself last. Whoever
  meets such a head finishes the drop.
* A mark names each bucket of overlays that may lie above the position. So a drop finds all overlays.

Example. A has position 40 with 300 overlays up to 90. After 99 of them it dies. B, at 40 too, writes up to 60 in one
transaction: its overlays of 60 replace those of A. The rest of A's are as of 90: whoever reads one catches up with the
log to 90. If A was only slow, its next transaction finds the head at 60, and its change is refused.

Trade-offs. A transaction costs twice the units of single writes. A page of overlays costs one request and no read of
the head. User ids above 1,000 bytes are kept by their digest. Lists of users lag behind a journal, for as long as it
takes to carry it out.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from services.persistence.adapters.dynamodb.operation import DEADLINE_S, operation
from services.persistence.chat.adapters.dynamodb import items as items
from services.persistence.chat.adapters.dynamodb.devices import DynamoDbDeviceStore
from services.persistence.chat.adapters.dynamodb.finishing import TRANSACTION_BYTES, TRANSACTION_WRITES, Finisher
from services.persistence.chat.adapters.dynamodb.search.index import DynamoDbSearchIndex
from services.persistence.chat.adapters.dynamodb.table import IS_NEW, ChatTable, Write
from services.persistence.chat.adapters.dynamodb.users import as_journal, user_writes
from services.persistence.chat.index.ports import SearchIndex
from services.persistence.chat.ports import Changes, Loaded
from services.shared.dynamodb.client import DynamoDb

LONG_DEADLINE_S = 8.0  # longest `load` and `apply`: they may have a journal to carry out
_BESIDE = 3  # writes beside those of users and overlays: the head, and the old and new name in the directory


class DynamoDbChatStore:
    """`ChatStore` in a DynamoDB table, which must exist.

    Methods without a docstring are described in `ChatStore`.
    """

    def __init__(
        self,
        db: DynamoDb,
        table: str,
        *,
        deadline_s: float = DEADLINE_S,
        long_deadline_s: float = LONG_DEADLINE_S,
        has_search: bool = False,
    ) -> None:
        """Take the client, which whoever made it closes; makes no request yet.

        Args:
            db: The client.
            table: Name of the table.
            deadline_s: Longest operation.
            long_deadline_s: Longest `load` and `apply`; a `drop` takes as long as it takes.
            has_search: Whether there is an index of messages; without, no item of it is read or written.
        """
        self._table = ChatTable(db, table)
        self._deadline_s, self._long_deadline_s = deadline_s, long_deadline_s
        self._finisher = Finisher(self._table)
        self.devices = DynamoDbDeviceStore(db, table, deadline_s=deadline_s)
        self.search: SearchIndex | None = None
        if has_search:
            self.search = DynamoDbSearchIndex(db, table, deadline_s=deadline_s, long_deadline_s=long_deadline_s)

    async def load(self, channel: str) -> Loaded | None:
        table, key = self._table, items.head_key(channel)
        async with operation("chat_load", self._long_deadline_s):
            while True:
                (head,) = await table.snapshot(key)
                if head is None:
                    return None
                if await self._finisher.finish(channel, head):
                    continue
                people: dict[str, bytes] = {}
                async for item in table.items(key[0]):  # a user who is only listed has no document
                    document = items.unpacked(item)
                    if document is not None and item["s"].startswith(items.PEOPLE):
                        people[items.user_of(item)] = document
                (after,) = await table.snapshot(key)
                if after is not None and after["token"] == head["token"]:
                    return Loaded(int(head["position"]), items.unpacked(head) or b"", people)

    async def overlays(self, channel: str, offsets: Collection[int]) -> dict[int, bytes]:
        keys = [items.overlay_key(channel, offset) for offset in dict.fromkeys(offsets)]
        async with operation("chat_overlays", self._deadline_s):
            return _overlays(await self._table.get_many(keys))

    async def overlays_between(self, channel: str, first: int, last: int) -> dict[int, bytes]:
        found: list[dict[str, Any]] = []
        low, high = items.sort_of(first), items.sort_of(last)
        async with operation("chat_overlays", self._deadline_s):
            for bucket in range(items.bucket_of(first), items.bucket_of(last) + 1) if first <= last else ():
                partition = items.overlays_of(channel, bucket)
                found += [item async for item in self._table.items(partition, low=low, high=high)]
            return _overlays(found)

    async def apply(self, channel: str, expected: int | None, changes: Changes) -> bool:
        table = self._table
        async with operation("chat_apply", self._long_deadline_s):
            head = _head(channel, changes)
            beside = user_writes(table, channel, changes.people, changes.listed)
            journal: Sequence[bytes] = ()
            if not _fit(beside):
                journal = as_journal(changes.people, changes.listed)
                beside = [
                    table.put(items.journal_key(channel, number), {"doc": part}) for number, part in enumerate(journal)
                ]
            overlays = self._overlays(channel, changes.overlays, changes.position)
            if _fit([*beside, *overlays]):
                beside += overlays
            elif not await self._write_ahead(channel, expected, changes):
                return False
            head |= {"journal": len(journal)} if journal else {}
            return await self._write_head(channel, expected, head, beside)

    async def conversations_of(self, user: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        async with operation("chat_list", self._deadline_s):
            async for item in self._table.items(items.list_of(user), above=f"c#{after}", limit=limit):
                found.append((item["s"].removeprefix("c#"), items.unpacked(item) or b""))
                if len(found) == limit:  # before the next page is asked for
                    break
        return found

    async def directory(self, namespace: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, str]]:
        name, _, channel = after.rpartition(" ")
        begin = items.directory_sort(prefix)
        above = items.directory_key(name, channel)[1] if after else ""
        found: list[tuple[str, str]] = []
        async with operation("chat_list", self._deadline_s):
            async for item in self._table.items(
                items.directory_of(namespace), low=begin, above=above if above > begin else "", limit=limit
            ):
                if not item["s"].startswith(begin):
                    break
                if item["name"].startswith(prefix):
                    found.append((item["name"], item["channel"]))
                if len(found) == limit:  # before the next page is asked for
                    break
        return found

    async def drop(self, channel: str, seen: Loaded | None = None) -> None:
        await self._finisher.drop(channel, seen)

    def _overlays(
        self, channel: str, overlays: Mapping[int, bytes], as_of: int, *, above: int | None = None, when: str = ""
    ) -> list[Write]:
        """Return puts of overlays, and of marks before them.

        Buckets above that of the offset `above`, `as_of` if it is not given, get marks.
        """
        table, written = self._table, {"as_of": as_of}
        last = items.bucket_of(as_of if above is None else above)
        buckets = {bucket for bucket in map(items.bucket_of, overlays) if bucket > last}
        marks = [table.put(items.ahead_key(channel, bucket), {}) for bucket in sorted(buckets)]
        using = written if when else {}
        return marks + [
            table.put(items.overlay_key(channel, offset), written | items.packed(document), when, **using)
            for offset, document in overlays.items()
        ]

    async def _write_ahead(self, channel: str, expected: int | None, changes: Changes) -> bool:
        """Write overlays before the head; return whether the head was at `expected`.

        A newer overlay that is there stays.
        """
        table = self._table
        when, using = _at(expected)
        check = table.telling(table.check(items.head_key(channel), when, **using))
        is_older = "attribute_not_exists(#as_of) OR #as_of <= :as_of"
        writes = self._overlays(channel, changes.overlays, changes.position, above=expected or 0, when=is_older)
        for part in items.chunks(writes, TRANSACTION_WRITES - 1, TRANSACTION_BYTES):
            while part:
                failed = await table.transact([check, *part])
                if failed is None:
                    break
                if 0 not in failed:
                    part = [write for index, write in enumerate(part, 1) if index not in failed]
                elif not await self._finisher.finish(channel, failed[0]):
                    return False
        return True

    async def _write_head(
        self, channel: str, expected: int | None, head: Mapping[str, Any], beside: Sequence[Write]
    ) -> bool:
        """Write the head and what goes with it; return whether it was at `expected`."""
        table, key, name = self._table, items.head_key(channel), head.get("directory")
        before = name if expected is not None else None  # the name until now: most probably the same
        while True:
            when, using = _at(expected)
            if expected is not None:
                when += " AND " + ("attribute_not_exists(#directory)" if before is None else "#directory = :before")
                using |= {"before": before} if before is not None else {}
            writes = [table.telling(table.put(key, head, when, **using)), *self._renamed(channel, before, name)]
            failed = await table.transact([*writes, *beside])
            there = (failed or {}).get(0, {})
            if failed is None or there.get("token") == head["token"]:  # maybe by an attempt whose response was lost
                await self._finisher.finish(channel, head)
                return True
            if await self._finisher.finish(channel, there):
                continue
            if there.get("position") != expected:
                return False
            before = there.get("directory")

    def _renamed(self, channel: str, before: str | None, name: str | None) -> list[Write]:
        """Return the writes of the directory for another name."""
        writes: list[Write] = []
        if before is not None and before != name:
            writes.append(self._table.delete(items.directory_key(before, channel)))
        if name is not None and before != name:
            writes.append(self._table.put(items.directory_key(name, channel), {"name": name, "channel": channel}))
        return writes


def _head(channel: str, changes: Changes) -> dict[str, Any]:
    """Return the attributes of the head.

    Raises:
        TooLarge: the document is, or the key in the directory.
    """
    head: dict[str, Any] = {"position": changes.position, "token": uuid.uuid4().hex, **items.packed(changes.head)}
    if changes.directory is not None:
        items.directory_key(changes.directory, channel)
        head["directory"] = changes.directory
    return head


def _at(expected: int | None) -> tuple[str, dict[str, Any]]:
    """Condition that a head is at a position, and has nothing to finish."""
    if expected is None:
        return IS_NEW, {}
    return "#position = :expected AND attribute_not_exists(#journal)", {"expected": expected}


def _fit(writes: Sequence[Write]) -> bool:
    """Whether writes fit into one transaction with the head."""
    return len(writes) + _BESIDE <= TRANSACTION_WRITES and sum(map(items.size_of, writes)) <= TRANSACTION_BYTES


def _overlays(found: Sequence[Mapping[str, Any]]) -> dict[int, bytes]:
    return {int(item["s"]): items.unpacked(item) or b"" for item in found}
