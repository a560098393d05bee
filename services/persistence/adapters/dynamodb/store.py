"""`LogStore` on DynamoDB: any number of replicas share it without lock or leader.

Purpose. Keep the order of a channel's log although several replicas may write it at the same time, with one write
request per item of up to 100 publications.

Rules. docs/storage.md describes the items.

* The log of a channel is a chain of items. An item holds 1 to 100 consecutive publications under the offset of its
  first one, and the next item begins where it ends. Items do not change, except that a removal empties them
  and that an erasure replaces publications in them.
* An item is put on the condition that nothing is at its place. So of two replicas that believe in the same top, one
  gets the place. The other gets the item that is there: with the same ids it goes on above it, otherwise it reports a
  conflict.
* The top is the end of the chain, so no number can disagree with it. The channel's item has the epoch and a hint where
  the chain ends.
* Reads are strongly consistent.
* An operation ends after 2 s, and after 8 s where all callers share it (`open`, `recent_keys`). Finishing a removal has
  no limit.
* Emptied items stay for 7 days, so that nobody with an old top gets their place.

Example. Replicas A and B believe that the top is 7. A puts an item with 8 and 9. The put of B at 8 is refused, and its
response has the item of A. The ids differ: B reports a conflict, Redis is advanced to 9, and B's publication gets 10.

Trade-offs. No channel waits for another, and one that is throttled is throttled alone (`apart`); in return every
channel costs requests of its own. A read may bring up to 99 publications too many at either end. See
docs/decisions/0008.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from services.persistence.adapters.dynamodb import erasing, queued, removal
from services.persistence.adapters.dynamodb.chain import Chains, Channel
from services.persistence.adapters.dynamodb.items import BUCKET_OFFSETS, HEARTBEAT_KEY, channel_key, has_counts
from services.persistence.adapters.dynamodb.operation import DEADLINE_S, operation
from services.persistence.adapters.dynamodb.retained import RetainedChannels
from services.persistence.adapters.dynamodb.writer import ChainWriter
from services.persistence.domain.ports import (
    MAX_BYTES,
    ChannelState,
    CountedRow,
    Extent,
    Heartbeat,
    KnownKey,
    Removal,
    Row,
    StoredAt,
    Written,
)
from services.persistence.metrics import STORE_SECONDS
from services.shared.dynamodb.client import ConditionFailed, DynamoDb, values_of
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import new_epoch
from services.shared.hotlog.keys import unpair
from services.shared.incarnation.calls import Known
from services.shared.namespaces import Namespaces
from thalamus.persistence.v1.storage_pb2 import StoredRow

_MARK_S = 5.0  # how long the mark of a restore is taken for the present one, seconds
SHARED_DEADLINE_S = 8.0  # longest operation of those that go on for later callers when one gives up
_KEYS_ITEMS = 500  # items of one request for keys; DynamoDB ends it at 1 MB
_SKEW_S = 5.0  # largest difference of the clocks of replicas, seconds: by so much the times of a channel may fall


class DynamoDbLogStore:
    """`LogStore` in a DynamoDB table, which must exist.

    Methods without a docstring are described in `LogStore`.
    """

    apart = True

    def __init__(
        self,
        db: DynamoDb,
        table: str,
        *,
        bucket_offsets: int = BUCKET_OFFSETS,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        deadline_s: float = DEADLINE_S,
        shared_deadline_s: float = SHARED_DEADLINE_S,
    ) -> None:
        """Create it; makes no request yet.

        Args:
            db: The client.
            table: Name of the table.
            bucket_offsets: Offsets of one partition key; must never change once something is stored.
            clock: Unix seconds.
            monotonic: Seconds that only grow.
            deadline_s: Longest operation.
            shared_deadline_s: Longest `open` and `recent_keys`, which serve all callers of a comparison.
        """
        self._db, self._table, self._clock, self._monotonic = db, table, clock, monotonic
        self._deadline_s, self._shared_deadline_s = deadline_s, shared_deadline_s
        self._chains = Chains(db, table, bucket_offsets)
        self._writer = ChainWriter(self._chains, clock)
        self._retained = RetainedChannels(self._chains, clock, self._operation)
        self._kept = Heartbeat(0, 0)  # numbers that the table is known to have
        self._restored = ""  # mark as read last; all epochs end with it
        self._restored_until = 0.0  # until when it need not be read again, by the monotonic clock

    async def close(self) -> None:
        """Close the client."""
        await self._db.close()

    async def open(self, channel: str) -> ChannelState:
        async with self._operation("open", self._shared_deadline_s):
            if self._monotonic() >= self._restored_until:  # a worker sends no heartbeats
                await self._read_heartbeat()
            restored = self._restored
            found = await self._chains.channel(channel)
            if found is None:
                await self._make(channel)
                found = await self._channel(channel)
            top, counts = await self._chains.end(channel, found.bucket)
            n, mv = counts or await self._chains.counts(channel, found, top)
            return ChannelState(found.epoch + restored, top, found.removed, n, mv, found.erasures, found.queued_in)

    async def has_begun(self, channel: str) -> bool:
        async with self._operation("has_begun"):
            return await self._chains.channel(channel) is not None

    async def channels(self, cursor: str) -> tuple[list[str], str]:
        async with self._operation("channels"):
            return await self._chains.channels(cursor)

    async def retain(self, channel: str) -> None:
        await self._retained.add(channel)

    async def note_retention(self, namespaces: Namespaces) -> None:
        await self._retained.forget_others(namespaces)

    async def retained(self, cursor: str, namespaces: Namespaces) -> tuple[list[str], str]:
        return await self._retained.page(cursor, namespaces)

    async def extent(self, channel: str) -> Extent:
        async with self._operation("extent"):
            found = await self._chains.channel(channel)
            return Extent(found.removed, await self._chains.top(channel, found.bucket)) if found else Extent(0, 0)

    async def stored_at(self, channel: str, offset: int) -> StoredAt | None:
        async with self._operation("stored_at"):
            return await self._chains.stored_at(channel, offset)

    async def first_since(self, channel: str, low: int, high: int, at: float) -> int | None:
        async with self._operation("first_since"):
            return await self._chains.first_since(channel, low, high, at)

    async def recent_keys(self, channel: str, within_s: float) -> list[KnownKey]:
        async with self._operation("recent_keys", self._shared_deadline_s):
            known: list[KnownKey] = []
            found = await self._chains.channel(channel)
            if found is None:
                return known
            now = self._clock()
            end = self._chains.end_of(found.bucket)
            async for first, at, keys in self._chains.keys_downward(channel, end, _KEYS_ITEMS):
                left_s = int(at + within_s - now)
                if left_s <= -_SKEW_S:
                    break
                if left_s <= 0:
                    continue
                for offset, pair in reversed([*enumerate(keys, first)]):
                    known.append(KnownKey(*unpair(pair), offset, min(left_s, int(within_s))))
            return known

    async def write(self, rows: Sequence[Row]) -> dict[str, Written | Unavailable]:
        by_channel: dict[str, list[Row]] = {}
        for row in rows:
            by_channel.setdefault(row.channel, []).append(row)
        async with asyncio.TaskGroup() as group:
            tasks = {channel: group.create_task(self._write(channel, mine)) for channel, mine in by_channel.items()}
        return {channel: task.result() for channel, task in tasks.items()}

    async def read(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[tuple[int, bytes]]:
        async with self._operation("read"):
            page, _ = await self._read(channel, since_offset, upto, limit, reverse, max_bytes)
            return [(offset, row.publication) for offset, row in page]

    async def read_counted(
        self, channel: str, *, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> list[CountedRow]:
        async with self._operation("read"):
            page, found = await self._read(channel, since_offset, upto, limit, reverse, max_bytes)
            rows: list[CountedRow] = []
            counts: tuple[int, int] | None = None
            for offset, row in page[::-1] if reverse else page:
                if has_counts(row):
                    counts = row.n, row.mv
                elif counts is None and found is not None:
                    counts = await self._chains.counts(channel, found, offset)
                rows.append(CountedRow(offset, row.publication, row.flags, *(counts or (0, 0))))
            return rows[::-1] if reverse else rows

    async def _read(
        self, channel: str, since_offset: int, upto: int, limit: int, reverse: bool, max_bytes: int
    ) -> tuple[list[tuple[int, StoredRow]], Channel | None]:
        """Return rows with their offsets, and the channel's item.

        Called within an operation.
        """
        high = min(since_offset - 1, upto) if reverse and since_offset else upto
        low = 1 if reverse else since_offset + 1
        page: list[tuple[int, StoredRow]] = []
        removed = -1
        while (found := await self._chains.channel(channel)) is not None and found.removed > removed:
            removed = found.removed
            end = min(high, self._chains.end_of(found.bucket))
            page, seen_dropped = await self._page(channel, max(low, removed + 1), end, limit, reverse, max_bytes)
            if not seen_dropped:
                break
        return page, found

    async def ids(self, channel: str, *, since_offset: int, upto: int, limit: int) -> list[tuple[int, bytes]]:
        async with self._operation("ids"):
            found = await self._chains.channel(channel)
            if found is None:
                return []
            page: list[tuple[int, bytes]] = []
            high = min(upto, self._chains.end_of(found.bucket))
            async for item in self._chains.upward(channel, since_offset + 1, high, limit):
                numbered = ((offset, row.id) for offset, row in enumerate(item.rows, item.first))
                page += [one for one in numbered if since_offset < one[0] <= high]
                if len(page) >= limit:
                    break
            return page[:limit]

    async def erase(self, channel: str, publications: Mapping[int, bytes]) -> int:
        async with self._operation("erase"):
            return await erasing.replace(self._chains, channel, publications)

    async def scrub(self) -> bool:
        return True  # DynamoDB overwrites items in place; its own backups are not ours to change

    @property
    def unscrubbed_since(self) -> float | None:
        return None

    async def note_queued(self, channel: str, generation: int) -> None:
        async with self._operation("note_queued"):
            await queued.note(self._chains, channel, generation)

    async def renew_epoch(self, channel: str, state: ChannelState, generation: int, *, forget: bool = False) -> None:
        async with self._operation("renew_epoch"):
            epoch = state.epoch.removesuffix(self._restored)
            forgotten = state.queued_in if forget else None
            await queued.renew_epoch(self._chains, channel, epoch, generation, forgotten)

    async def begin_removal(self, channel: str, upto: int) -> None:
        async with self._operation("remove"):
            await removal.hide(self._chains, channel, upto, self._clock())

    async def removals(self) -> list[Removal]:
        async with self._operation("removals"):
            return await removal.begun(self._chains, self._clock())

    async def finish_removal(self, begun: Removal) -> None:
        with STORE_SECONDS.labels("finish_removal").time():
            await removal.finish(self._chains, begun, self._clock)

    async def heartbeat(self) -> Heartbeat:
        async with self._operation("heartbeat"):
            return await self._read_heartbeat()

    async def _read_heartbeat(self) -> Heartbeat:
        """Return the heartbeat; called within an operation."""
        try:
            response = await self._db.call("get_item", TableName=self._table, Key=HEARTBEAT_KEY, ConsistentRead=True)
        except Unavailable:
            self._writer.forget()  # the table may come back as another one
            raise
        values = values_of(response.get("Item", {}))
        if "store" not in values:
            self._writer.forget()
            values = await self._name()
        self._restored, self._restored_until = values.get("restored", ""), self._monotonic() + _MARK_S
        return Heartbeat(
            int(values.get("counter", 0)), int(values.get("generation", 0)), values["store"], self._restored
        )

    async def keep_heartbeat(self, heartbeat: Heartbeat) -> None:
        async with self._operation("keep_heartbeat"):
            for name in ("counter", "generation"):
                value = getattr(heartbeat, name)
                if value > getattr(self._kept, name):
                    await self._keep(name, value)
                    self._kept = self._kept._replace(**{name: value})

    async def keep_orderly_end(self, heartbeat: Heartbeat, known: Known) -> None:
        await self.keep_heartbeat(heartbeat)
        async with self._operation("keep_orderly_end"):
            with contextlib.suppress(ConditionFailed):  # another replica has counted on
                await self._db.call(
                    "update_item",
                    TableName=self._table,
                    Key=HEARTBEAT_KEY,
                    UpdateExpression="SET #ending = :ending",
                    ConditionExpression="#counter = :counter",
                    ExpressionAttributeNames={"#counter": "counter", "#ending": "ending"},
                    ExpressionAttributeValues={
                        ":ending": {"S": " ".join(map(str, (heartbeat.counter, *known)))},
                        ":counter": {"N": str(heartbeat.counter)},
                    },
                )

    async def pop_orderly_end(self, heartbeat: Heartbeat) -> Known | None:
        async with self._operation("pop_orderly_end"):
            response = await self._db.call(
                "update_item",
                TableName=self._table,
                Key=HEARTBEAT_KEY,
                UpdateExpression="REMOVE #ending",
                ExpressionAttributeNames={"#ending": "ending"},
                ReturnValues="ALL_OLD",
            )
        words = str(values_of(response.get("Attributes", {})).get("ending", "")).split(" ")
        if len(words) != 4 or int(words[0]) != heartbeat.counter:
            return None
        return Known(*map(int, words[1:]))

    async def begin_new_epochs(self, seen: Heartbeat) -> None:
        async with self._operation("begin_new_epochs"):
            with contextlib.suppress(ConditionFailed):  # another replica did it
                await self._db.call(
                    "update_item",
                    TableName=self._table,
                    Key=HEARTBEAT_KEY,
                    UpdateExpression="SET restored = :new",
                    ConditionExpression="restored = :seen" if seen.restored else "attribute_not_exists(restored)",
                    ExpressionAttributeValues={
                        ":new": {"S": new_epoch()},
                        **({":seen": {"S": seen.restored}} if seen.restored else {}),
                    },
                )
        self._writer.forget()
        self._kept = Heartbeat(0, 0)
        await self.keep_heartbeat(seen)
        await self.heartbeat()  # reads the mark: what this process writes in former epochs is refused from here on

    async def _write(self, channel: str, rows: Sequence[Row]) -> Written | Unavailable:
        """Write rows of one channel; a failure is returned."""
        try:
            async with self._operation("write"):
                return await self._writer.write(channel, rows, self._restored)
        except Unavailable as error:
            return error

    async def _page(
        self, channel: str, low: int, high: int, limit: int, reverse: bool, max_bytes: int
    ) -> tuple[list[tuple[int, StoredRow]], bool]:
        """Return rows of low … high, and whether a removed one was met.

        In that case the page ends before it.
        """
        page: list[tuple[int, StoredRow]] = []
        chains = self._chains
        items = chains.downward(channel, high, low, limit) if reverse else chains.upward(channel, low, high, limit)
        async for item in items:
            if item.dropped:
                return page, True
            numbered = [*enumerate(item.rows, item.first)]
            for one in reversed(numbered) if reverse else numbered:
                if low <= one[0] <= high:
                    page.append(one)
                    max_bytes -= len(one[1].publication)
                    if max_bytes <= 0:
                        return page[:limit], False
            if len(page) >= limit:
                break
        return page[:limit], False

    async def _channel(self, channel: str) -> Channel:
        """Return the channel's item, which must exist.

        Raises:
            Unavailable: it does not.
        """
        found = await self._chains.channel(channel)
        if found is None:
            raise Unavailable(f"the item of channel {channel} is gone")
        return found

    async def _make(self, channel: str) -> None:
        """Put the item of a new channel, unless somebody did."""
        numbers = {name: {"N": "0"} for name in ("bucket", "removed", "cleared")}
        with contextlib.suppress(ConditionFailed):  # another replica was first, or our own response was lost
            await self._db.call(
                "put_item",
                TableName=self._table,
                Item={**channel_key(channel), "epoch": {"S": new_epoch()}, **numbers},
                ConditionExpression="attribute_not_exists(p)",
            )

    async def _name(self) -> dict[str, Any]:
        """Give a new table its name; return the heartbeat item."""
        response = await self._db.call(
            "update_item",
            TableName=self._table,
            Key=HEARTBEAT_KEY,
            UpdateExpression="SET #store = if_not_exists(#store, :store)",
            ExpressionAttributeNames={"#store": "store"},
            ExpressionAttributeValues={":store": {"S": new_epoch()}},
            ReturnValues="ALL_NEW",
        )
        return values_of(response["Attributes"])

    async def _keep(self, name: str, value: int) -> None:
        """Raise a number of the heartbeat item, unless it is as high already."""
        with contextlib.suppress(ConditionFailed):
            await self._db.call(
                "update_item",
                TableName=self._table,
                Key=HEARTBEAT_KEY,
                UpdateExpression="SET #name = :value",
                ConditionExpression="attribute_not_exists(#name) OR #name < :value",
                ExpressionAttributeNames={"#name": name},
                ExpressionAttributeValues={":value": {"N": str(value)}},
            )

    def _operation(self, name: str, deadline_s: float | None = None) -> AbstractAsyncContextManager[None]:
        """Context of an operation; see `operation`."""
        return operation(name, self._deadline_s if deadline_s is None else deadline_s)
