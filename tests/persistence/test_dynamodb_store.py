"""The chain in DynamoDB: the table, what a removal leaves, what trouble costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from services.persistence.adapters.dynamodb import items as items
from services.persistence.adapters.dynamodb.chain import Chains
from services.persistence.adapters.dynamodb.removal import TOMBSTONE_S
from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.dynamodb.writer import TOP_TTL_S, Tops
from services.persistence.domain.ports import Row, Written
from services.persistence.queue.messages import encode
from services.persistence.queue.storing import store_messages
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb, item_of, values_of
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from tests.support.dynamodb import settings_of
from tests.support.dynamodb_dying import Dying
from tests.support.dynamodb_faults import DynamoDbFaults, Shares, dynamodb_faults
from tests.support.full import sized
from tests.support.retention import with_retention
from thalamus.persistence.v1.storage_pb2 import StoredRows

CHANNEL = "chat:chain"
NOW = 1_700_000_000
THIRTY_PERCENT = Shares(throttled=0.1, failed=0.1, lost=0.1, unprocessed=0.3)


def rows(first: int, last: int, *, channel: str = CHANNEL, size: int = 20) -> list[Row]:
    return [Row(channel, offset, os.urandom(16), os.urandom(size), f"1:u{offset}") for offset in range(first, last + 1)]


def pages(wanted: list[Row]) -> list[tuple[int, bytes]]:
    return [(row.offset, row.publication) for row in wanted]


@pytest.fixture
async def db(settings: DynamoDbSettings) -> AsyncIterator[DynamoDb]:
    made = DynamoDb(settings)
    yield made
    await made.close()


@pytest.fixture
async def store(db: DynamoDb, settings: DynamoDbSettings, faults: DynamoDbFaults) -> DynamoDbLogStore:
    made = store_of(db, settings, bucket_offsets=10)
    await made.open(CHANNEL)
    faults.requests.clear()
    return made


def store_of(db: DynamoDb, settings: DynamoDbSettings, bucket_offsets: int = 250) -> DynamoDbLogStore:
    return DynamoDbLogStore(
        db, settings.log_table, bucket_offsets=bucket_offsets, clock=lambda: float(NOW), monotonic=lambda: 0.0
    )


async def remove(store: DynamoDbLogStore, upto: int) -> None:
    """To the end of it."""
    await store.begin_removal(CHANNEL, upto)
    await finish_removals(store)


async def finish_removals(store: DynamoDbLogStore) -> None:
    for removal in await store.removals():
        await store.finish_removal(removal)


async def everything(store: DynamoDbLogStore, channel: str = CHANNEL) -> list[tuple[int, bytes]]:
    return await store.read(channel, since_offset=0, upto=1 << 20, limit=1 << 20, reverse=False)


async def table(db: DynamoDb, settings: DynamoDbSettings) -> dict[tuple[str, int], dict[str, Any]]:
    """All items of the log, by key."""
    found = (await db.call("scan", TableName=settings.log_table, ConsistentRead=True))["Items"]
    return {(values["p"], int(values["s"])): values for values in map(values_of, found)}


# How rows become items.


@pytest.mark.parametrize("seed", range(5))
def test_items_take_all_rows_in_order_within_their_limits(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    left = [
        Row(CHANNEL, offset, bytes(16), bytes(chance.choice([1, 2_000, 90_000, 380_000])), "k")
        for offset in range(chance.randint(1, 400), 900)
    ]
    wanted = [row.offset for row in left]
    taken: list[int] = []
    while left:
        part = items.first_item(left, 250)
        left = left[len(part) :]
        taken += [row.offset for row in part]
        attributes = items.to_attributes("p", items.packed(part, NOW))
        assert 1 <= len(part) <= items.ITEM_ROWS
        assert len({(row.offset - 1) // 250 for row in part}) == 1
        assert len(part) == 1 or len(attributes["rows"]["B"]) + len(attributes["keys"]["B"]) <= items.ITEM_BYTES
        assert items.from_attributes(attributes) == items.packed(part, NOW)
    assert taken == wanted


def test_the_largest_row_fits_into_an_item_whatever_its_channel_is_called() -> None:
    """By DynamoDB's arithmetic: at most 400 KiB in all.

    Bytes of names and values, at most 21 of a number.
    """
    longest_key, key = "l#" + "x" * 2_046, "4:user" + "k" * 300
    row = Row(CHANNEL, 10**15, bytes(16), bytes(items.MAX_APPEND_BYTES - len(key)), key)
    assert items.row_bytes(row) <= items.MAX_ROW_BYTES
    attributes = items.to_attributes(longest_key, items.packed([row], NOW), expires_at=NOW)
    size = sum(len(name) + 21 for name in attributes) + len(longest_key)
    size += sum(len(attributes[name]["B"]) for name in ("rows", "keys"))
    assert 395 * 1024 < size <= 400 * 1024


async def test_a_large_row_is_stored_and_read(db: DynamoDb, settings: DynamoDbSettings) -> None:
    """Moto counts bytes as base64, so it takes three quarters of what DynamoDB takes."""
    store = store_of(db, settings)
    await store.open(CHANNEL)
    large = rows(1, 2, size=304_000)
    assert (await store.write(large))[CHANNEL] == Written(2, False)
    assert await everything(store) == pages(large)


async def test_what_is_too_large_is_refused_and_the_rest_of_the_write_is_not(
    db: DynamoDb, settings: DynamoDbSettings
) -> None:
    store = store_of(db, settings)
    for channel in ("chat:large", "chat:small"):
        await store.open(channel)
    outcome = await store.write([*rows(1, 1, channel="chat:large", size=410_000), *rows(1, 2, channel="chat:small")])
    assert isinstance(outcome["chat:large"], Unavailable)
    assert outcome["chat:small"] == Written(2, False)


def test_a_top_is_believed_for_a_minute_and_the_longest_unused_goes_first() -> None:
    tops = Tops(most=2)
    for number, channel in enumerate(("a", "b", "a", "c")):
        tops.put(channel, number, now=0.0)
    assert [tops.get(channel, TOP_TTL_S - 1) for channel in "abc"] == [2, None, 3]
    assert tops.get("a", TOP_TTL_S) is None
    assert TOP_TTL_S * 1_000 < TOMBSTONE_S


# What operations cost: docs/storage.md says the same.


async def test_requests_of_each_operation(store: DynamoDbLogStore, faults: DynamoDbFaults) -> None:
    async def cost(work: Awaitable[object]) -> dict[str, int]:
        faults.requests.clear()
        await work
        return dict(faults.requests)

    first = rows(1, 9)
    assert await cost(store.write(first)) == {"GetItem": 1, "Query": 1, "PutItem": 1}  # the top is not known yet
    assert await cost(store.write(rows(10, 10))) == {"PutItem": 1}
    assert await cost(store.write(rows(11, 12))) == {"UpdateItem": 1, "PutItem": 1}  # a bucket begins
    assert await cost(store.write(first)) == {"Query": 1}  # a repetition
    assert await cost(store.open("chat:new")) == {"GetItem": 2, "PutItem": 1, "Query": 1}
    assert await cost(store.open(CHANNEL)) == {"GetItem": 1, "Query": 1}
    assert await cost(store.recent_keys(CHANNEL, 300)) == {"GetItem": 1, "Query": 2}  # two buckets
    read = store.read(CHANNEL, since_offset=2, upto=9, limit=5, reverse=False)
    assert await cost(read) == {"GetItem": 1, "Query": 1}
    assert await cost(store.begin_removal(CHANNEL, 10)) == {"GetItem": 1, "Query": 1, "PutItem": 1, "UpdateItem": 1}
    assert await cost(store.begin_removal(CHANNEL, 10)) == {"GetItem": 1, "Query": 1}
    (removal,) = await store.removals()
    finishing = {"GetItem": 1, "Query": 2, "UpdateItem": 2, "BatchWriteItem": 1, "DeleteItem": 1}
    assert await cost(store.finish_removal(removal)) == finishing
    assert await cost(store.removals()) == {"Query": 1}
    assert await cost(store.retain(CHANNEL)) == {"PutItem": 1}
    assert await cost(store.extent(CHANNEL)) == {"GetItem": 1, "Query": 1}
    assert await cost(store.stored_at(CHANNEL, 12)) == {"Query": 1}
    kept = with_retention(chat=(1, 0))
    assert await cost(store.retained("", kept)) == {
        "GetItem": 2,
        "Scan": 1,
        "PutItem": 3,
    }  # two channels, what was scanned
    counted = [one._replace(flags=1, n=number, mv=0) for number, one in enumerate(rows(13, 14), 1)]
    assert await cost(store.write(counted[:1])) == {"UpdateItem": 1, "PutItem": 1}  # the first row with flags
    assert await cost(store.write(counted[1:])) == {"PutItem": 1}
    assert await cost(store.open(CHANNEL)) == {"GetItem": 1, "Query": 1}
    read_counted = store.read_counted(CHANNEL, since_offset=11, upto=14, limit=5, reverse=False)
    assert await cost(read_counted) == {"GetItem": 1, "Query": 1}
    gone = {11: b"gone", 12: b"gone", 13: b"gone"}  # in two items
    assert await cost(store.erase(CHANNEL, gone)) == {"GetItem": 1, "Query": 2, "UpdateItem": 3}
    assert await cost(store.erase(CHANNEL, gone)) == {"GetItem": 1, "Query": 2, "UpdateItem": 1}  # a repetition
    heartbeat = await store.heartbeat()
    assert await cost(store.keep_heartbeat(heartbeat._replace(counter=1))) == {"UpdateItem": 1}
    assert await cost(store.heartbeat()) == {"GetItem": 1}


async def test_a_put_whose_answer_was_lost_costs_one_put_more_and_no_read(
    store: DynamoDbLogStore, faults: DynamoDbFaults
) -> None:
    await store.write(rows(1, 3))
    faults.requests.clear()
    mine, faults.shares = rows(4, 6), Shares(lost=1.0)
    writing = asyncio.create_task(store.write(mine))
    while not faults.faults["lost"]:
        await asyncio.sleep(0.001)
    faults.shares = Shares()
    assert (await writing)[CHANNEL] == Written(6, False)
    assert faults.requests.keys() == {"PutItem"}
    assert (await everything(store))[3:] == pages(mine)


# Removal.


async def test_a_removal_leaves_the_places_and_ids_for_a_week_and_the_last_item_for_ever(
    store: DynamoDbLogStore, db: DynamoDb, settings: DynamoDbSettings
) -> None:
    wanted = rows(1, 14)
    for first, last in ((1, 4), (5, 10), (11, 14)):
        await store.write(wanted[first - 1 : last])
    await remove(store, 14)
    found = await table(db, settings)
    chain = {s: found[f"l#{CHANNEL}#{bucket}", s] for bucket, s in ((0, 1), (0, 5), (1, 11))}
    assert {s: values.get("expires_at") for s, values in chain.items()} == {
        1: NOW + TOMBSTONE_S,
        5: NOW + TOMBSTONE_S,
        11: None,
    }
    left = [row for _, values in sorted(chain.items()) for row in StoredRows.FromString(values["rows"]).rows]
    assert [row.id for row in left] == [row.publication_id for row in wanted]
    assert not any(row.publication for row in left)
    assert not any("keys" in values for values in chain.values())
    assert await store.removals() == []
    assert [values["n"] for _, values in sorted(chain.items())] == [4, 6, 4]


async def test_what_was_removed_keeps_its_place(
    store: DynamoDbLogStore, db: DynamoDb, settings: DynamoDbSettings
) -> None:
    late = store_of(db, settings, bucket_offsets=10)
    wanted = rows(1, 12)
    await late.write(wanted[:3])  # it has seen no more
    await store.write(wanted)
    await remove(store, 12)
    assert (await late.write(rows(4, 5)))[CHANNEL] == Written(3, True)
    assert (await late.write(wanted))[CHANNEL] == Written(12, False)
    assert await everything(store) == []


async def test_once_the_service_took_what_expired_top_and_order_go_on(
    store: DynamoDbLogStore, db: DynamoDb, settings: DynamoDbSettings
) -> None:
    for first in range(1, 29, 4):
        await store.write(rows(first, first + 3))
    await remove(store, 28)
    expired = [key for key, values in (await table(db, settings)).items() if "expires_at" in values]
    assert len(expired) == 7  # 7 writes, one of them over an end of a bucket; the last item stays
    for p, s in expired:
        await db.call("delete_item", TableName=settings.log_table, Key={"p": {"S": p}, "s": {"N": str(s)}})
    fresh = store_of(db, settings, bucket_offsets=10)
    assert (await fresh.open(CHANNEL)).top == 28
    assert await everything(fresh) == []
    assert await fresh.read(CHANNEL, since_offset=0, upto=28, limit=5, reverse=True) == []
    assert await fresh.recent_keys(CHANNEL, 300) == []
    more = rows(29, 33)
    assert (await fresh.write(more))[CHANNEL] == Written(33, False)
    await remove(fresh, 30)
    assert await everything(fresh) == pages(more[2:])
    assert (await fresh.write(rows(1, 2)))[CHANNEL].conflict  # type: ignore[union-attr]  # nobody can tell any more


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.slow
async def test_a_removal_whose_process_dies_at_any_request_is_finished_or_was_not_begun(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbLogStore, at: int, carried_out: bool
) -> None:
    """Each request of a removal, by another process every time.

    The four of a removal, then each of those that empty it.
    """
    wanted = rows(1, 25)
    await store.write(wanted)
    dying = Dying(settings, at, carried_out)
    with pytest.raises(Unavailable, match="died"):
        await store_of(dying, settings, bucket_offsets=10).begin_removal(CHANNEL, 25)
    await dying.close()
    noted = await store.removals()
    assert len(noted) == (at == 4 or (at == 3 and carried_out))
    assert await everything(store) == ([] if at == 4 and carried_out else pages(wanted))
    number = 0
    while noted := await store.removals():
        number += 1
        dying = Dying(settings, number, carried_out)
        with contextlib.suppress(Unavailable):
            await store_of(dying, settings, bucket_offsets=10).finish_removal(noted[0])
        await dying.close()
    if number:
        assert await everything(store_of(db, settings, bucket_offsets=10)) == []
        assert all(values["dropped"] for key, values in (await table(db, settings)).items() if key[0].startswith("l#"))
        assert (await store.open(CHANNEL)).top == 25


async def test_an_eraser_that_read_before_others_wrote_takes_back_nothing_of_theirs(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbLogStore
) -> None:
    await store.write(rows(1, 10))
    await store.write(rows(11, 12))
    other = store_of(db, settings, 10)

    class Slow(DynamoDb):
        """Somebody else acts between each read of an item and what follows."""

        meanwhile: list[Callable[[], Awaitable[object]]]

        async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
            if (
                op == "update_item"
                and "rows" in arguments.get("ExpressionAttributeNames", {}).values()
                and self.meanwhile
            ):
                await self.meanwhile.pop(0)()
            return await super().call(op, **arguments)

    slow_db = Slow(settings)
    slow = store_of(slow_db, settings, 10)
    slow_db.meanwhile = [
        lambda: other.erase(CHANNEL, {2: b"by others"}),
        lambda: other.erase(CHANNEL, {3: b"by others"}),
    ]
    await slow.erase(CHANNEL, {1: b"gone"})
    assert (await everything(store))[:3] == [(1, b"gone"), (2, b"by others"), (3, b"by others")]

    await store.write(rows(13, 20))
    await store.write(rows(21, 22))

    async def empty() -> None:
        await other.begin_removal(CHANNEL, 20)
        await finish_removals(other)

    slow_db.meanwhile = [empty]
    await slow.erase(CHANNEL, {14: b"gone"})
    emptied = (await table(db, settings))[f"l#{CHANNEL}#1", 13]
    assert emptied["dropped"]
    assert {row.publication for row in StoredRows.FromString(emptied["rows"]).rows} == {b""}
    await store.write(rows(23, 24))

    async def expire() -> None:
        await db.call("delete_item", TableName=settings.log_table, Key=item_of({"p": f"l#{CHANNEL}#2", "s": 23}))

    slow_db.meanwhile = [expire]
    await slow.erase(CHANNEL, {24: b"gone"})
    assert (f"l#{CHANNEL}#2", 23) not in await table(db, settings), "an expired item does not come back"
    await slow_db.close()


async def test_c31_no_item_has_a_byte_of_what_was_erased(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbLogStore
) -> None:
    secret = b"planted:b1946ac92492d234"
    planted = [row._replace(publication=secret + row.publication) for row in rows(1, 12)]
    await store.write(planted)
    assert secret in repr(await table(db, settings)).encode()
    await store.erase(CHANNEL, {row.offset: b"gone" for row in planted})
    assert secret not in repr(await table(db, settings)).encode()


async def test_an_eraser_that_meets_others_again_and_again_gives_up(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbLogStore
) -> None:
    await store.write(rows(1, 2))
    other = store_of(db, settings, 10)
    numbers = iter(range(1_000))

    class Overtaken(DynamoDb):
        async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
            if op == "update_item" and "rows" in arguments.get("ExpressionAttributeNames", {}).values():
                await other.erase(CHANNEL, {2: str(next(numbers)).encode()})
            return await super().call(op, **arguments)

    overtaken = Overtaken(settings)
    with pytest.raises(Unavailable):
        await store_of(overtaken, settings, 10).erase(CHANNEL, {1: b"gone"})
    await overtaken.close()


async def test_keys_are_asked_for_without_their_publications(store: DynamoDbLogStore, faults: DynamoDbFaults) -> None:
    wanted = rows(1, 10, size=20_000)
    await store.write(wanted)
    faults.answered_bytes = 0
    known = await store.recent_keys(CHANNEL, 300)
    assert [(one.user, one.key, one.offset) for one in known] == [("u", str(n), n) for n in range(10, 0, -1)]
    assert faults.answered_bytes < 2_000


async def test_a_page_that_meets_a_removal_has_no_hole(
    store: DynamoDbLogStore, db: DynamoDb, settings: DynamoDbSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal happens between the look at what is removed and the query."""
    wanted = rows(1, 9)
    for row in wanted:
        await store.write([row])
    whole, other = Chains.channel, store_of(db, settings, bucket_offsets=10)
    once = iter([6])

    async def look_then_remove(chains: Chains, channel: str) -> Any:
        found = await whole(chains, channel)
        if (upto := next(once, None)) is not None:
            await remove(other, upto)
        return found

    monkeypatch.setattr(Chains, "channel", look_then_remove)
    assert await everything(store) == pages(wanted[6:])


async def test_a_chain_without_an_end_is_not_begun_anew(
    store: DynamoDbLogStore, db: DynamoDb, settings: DynamoDbSettings
) -> None:
    await store.write(rows(1, 12))
    for p, s in [key for key in await table(db, settings) if key[0].startswith("l#")]:
        await db.call("delete_item", TableName=settings.log_table, Key={"p": {"S": p}, "s": {"N": str(s)}})
    with pytest.raises(Unavailable, match="no end"):
        await store_of(db, settings, bucket_offsets=10).open(CHANNEL)


async def test_a_bucket_that_was_only_begun_does_not_hide_the_top(
    store: DynamoDbLogStore, db: DynamoDb, settings: DynamoDbSettings
) -> None:
    await store.write(rows(1, 10))
    await Chains(db, settings.log_table, 10).raise_number(CHANNEL, "bucket", 1)  # and then it died
    other = store_of(db, settings, bucket_offsets=10)
    assert (await other.open(CHANNEL)).top == 10
    assert (await other.write(rows(11, 12)))[CHANNEL] == Written(12, False)


# Trouble.


@pytest.mark.parametrize("seed", range(1, 1 + sized(1, 5)))
@pytest.mark.slow
async def test_with_thirty_percent_of_faults_all_that_is_acknowledged_is_stored_once_in_order(
    dynamodb: str, settings: DynamoDbSettings, seed: int
) -> None:
    print(f"seed {seed}")
    channels = [f"chat:{number}" for number in range(4)]

    async def load(address: str, prefix: str, shares: Shares) -> int:
        """Two replicas store what was numbered; return the requests.

        They store in portions that overlap, until all is acknowledged.
        """
        chance = random.Random(seed)
        with dynamodb_faults(address, seed=seed, shares=shares) as faults:
            own = settings_of(faults.address, prefix)
            dbs = [DynamoDb(own) for _ in range(2)]
            replicas = [store_of(db, own, bucket_offsets=30) for db in dbs]
            wanted = {channel: rows(1, 50, channel=channel) for channel in channels}
            acked = dict.fromkeys(channels, 0)

            async def until(work: Callable[[], Awaitable[Any]]) -> Any:
                while True:
                    try:
                        return await work()
                    except Unavailable:
                        pass

            for channel in channels:
                await until(lambda channel=channel: replicas[0].open(channel))  # type: ignore[misc]
            while min(acked.values()) < 50:
                portion = []
                for channel, top in acked.items():
                    first = max(1, top + 1 - chance.randint(0, 1) * chance.randint(0, 3))
                    portion += wanted[channel][first - 1 : top + chance.randint(1, 8)]
                for channel, outcome in (await chance.choice(replicas).write(portion)).items():
                    if isinstance(outcome, Written):
                        assert not outcome.conflict, channel
                        sent = [row.offset for row in portion if row.channel == channel]
                        acked[channel] = max(acked[channel], *sent)
            for channel in channels:
                found = await until(lambda channel=channel: everything(replicas[1], channel))  # type: ignore[misc]
                assert found == pages(wanted[channel])
            await until(lambda: replicas[0].begin_removal(channels[0], 40))
            await until(lambda: finish_removals(replicas[1]))
            assert await until(lambda: everything(replicas[1], channels[0])) == pages(wanted[channels[0]][40:])
            for db in dbs:
                await db.close()
            assert shares == Shares() or sum(faults.faults.values()) > 0.2 * faults.requests.total()
            return faults.requests.total()

    prefix = settings.table_prefix
    broken = await load(dynamodb, prefix, THIRTY_PERCENT)
    other = settings_of(dynamodb, f"{uuid.uuid4().hex}-")
    db = DynamoDb(other)
    await tables.create(db, other)
    await db.close()
    base = await load(dynamodb, other.table_prefix, Shares())
    print(f"{broken} requests, {base} without faults")
    assert broken <= 2 * base


async def test_an_operation_has_one_deadline_however_many_requests_it_takes(
    db: DynamoDb, settings: DynamoDbSettings, faults: DynamoDbFaults
) -> None:
    store = DynamoDbLogStore(db, settings.log_table, deadline_s=0.5, shared_deadline_s=0.5)
    await store.open(CHANNEL)
    await store.open("chat:fine")
    faults.delay_s = 0.2
    with pytest.raises(Unavailable, match="too slow"):
        await store.open("chat:new")  # four requests
    outcome = await store.write(rows(1, 1))  # three, but that the channel was opened
    assert isinstance(outcome[CHANNEL], Unavailable)
    faults.delay_s = 0.0
    more = rows(1, 2, channel="chat:fine")
    assert (await store.write(more))["chat:fine"] == Written(2, False)
    assert await everything(store, "chat:fine") == pages(more)


async def test_who_sends_no_heartbeats_notices_a_restore_within_seconds(
    db: DynamoDb, settings: DynamoDbSettings
) -> None:
    now = 0.0
    worker = DynamoDbLogStore(db, settings.log_table, monotonic=lambda: now)
    before = await worker.open(CHANNEL)
    other = DynamoDbLogStore(db, settings.log_table)
    await other.begin_new_epochs(await other.heartbeat())
    await other.heartbeat()
    now = 5.0
    assert (await worker.open(CHANNEL)).epoch == (await other.open(CHANNEL)).epoch != before.epoch


async def test_a_worker_drops_no_message_of_an_epoch_that_began_after_it_has_looked(
    db: DynamoDb, settings: DynamoDbSettings
) -> None:
    worker = DynamoDbLogStore(db, settings.log_table, monotonic=lambda: 0.0)
    await worker.open(CHANNEL)
    other = DynamoDbLogStore(db, settings.log_table)
    await other.begin_new_epochs(await other.heartbeat())
    await other.heartbeat()
    epoch = (await other.open(CHANNEL)).epoch
    made = rows(1, 3)
    assert await store_messages(worker, {"a": encode(epoch, made)}) == set()
    assert await everything(other) == pages(made)


async def test_what_goes_on_for_others_has_more_time(
    db: DynamoDb, settings: DynamoDbSettings, faults: DynamoDbFaults
) -> None:
    store = DynamoDbLogStore(db, settings.log_table, deadline_s=0.1)
    faults.delay_s = 0.2
    assert (await store.open("chat:slow")).top == 0
    assert await store.recent_keys("chat:slow", 60) == []


async def test_one_channel_that_fails_does_not_fail_the_others(store: DynamoDbLogStore, faults: DynamoDbFaults) -> None:
    await store.open("chat:fine")
    faults.refused = CHANNEL
    outcome = await store.write([*rows(1, 2), *rows(1, 2, channel="chat:fine")])
    assert isinstance(outcome[CHANNEL], Unavailable)
    assert outcome["chat:fine"] == Written(2, False)
    faults.refused = ""
    again = rows(1, 2)
    assert (await store.write(again))[CHANNEL] == Written(2, False)
    assert await everything(store) == pages(again)
