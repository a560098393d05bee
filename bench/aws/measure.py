"""Writes messages with the store of persistence, and counts their units."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bench.aws.units import MeteredDynamoDb, item_bytes
from services.persistence.adapters.dynamodb.items import BUCKET_OFFSETS
from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.domain.ports import Row
from services.shared.dynamodb import tables
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.hotlog.keys import pair

_SAMPLE = 200  # messages; a bucket begins after them, as after 10,000
_SEED = 1
_COUNTS = 1  # flag of a message of a conversation
_INDEX_BYTES = 100  # that DynamoDB adds to each item when it counts what it keeps
_PAGE = 100  # messages of a page of history


@dataclass(frozen=True, slots=True)
class Measured:
    """Units and bytes for one message, when so many are written at once.

    `page`: read units of a page of 100 of them.
    """

    at_once: int
    writes: float
    reads: float
    kept_bytes: float
    page: float


@dataclass(frozen=True, slots=True)
class Resting:
    """Units of a second of one replica of persistence when nothing is written."""

    writes: float
    reads: float


async def measure(settings: DynamoDbSettings, at_once: int, size: int, *, knows_top: bool = True) -> Measured:
    """Write messages of `size` bytes to a new channel, `at_once` at a time.

    `knows_top`: the process has written to the channel within the last minute; if not, it reads the top first.
    """
    db = MeteredDynamoDb(settings)
    try:
        await tables.create(db, settings)
        channel = f"conv:{at_once:03}{'k' if knows_top else 'n'}{size:06}"
        rows = _messages(channel, _SAMPLE + 2, size)
        store = DynamoDbLogStore(db, settings.log_table, bucket_offsets=_SAMPLE)
        db.begin()
        await store.open(channel)
        total = db.begin()
        for first in range(0, _SAMPLE, at_once):
            if not knows_top:
                store = DynamoDbLogStore(db, settings.log_table, bucket_offsets=_SAMPLE)
            await store.write(rows[first : min(first + at_once, _SAMPLE)])
        bucket = db.begin()
        await store.write(rows[_SAMPLE : _SAMPLE + 1])
        usual = db.begin()
        await store.write(rows[_SAMPLE + 1 :])
        writes = total.writes / _SAMPLE + (bucket.writes - usual.writes) / BUCKET_OFFSETS
        found = db.begin()
        page = await store.read(channel, since_offset=_PAGE, upto=_SAMPLE, limit=_PAGE, reverse=False)
        assert len(page) == _PAGE
        page_reads = found.reads
        kept = await _kept_bytes(db, settings, channel)
        return Measured(at_once, writes, total.reads / _SAMPLE, kept / _SAMPLE, page_reads)
    finally:
        await db.close()


async def rest(settings: DynamoDbSettings) -> Resting:
    """Return the units of a second, of ten in which nothing is published."""
    db = MeteredDynamoDb(settings)
    try:
        await tables.create(db, settings)
        store = DynamoDbLogStore(db, settings.log_table)
        db.begin()
        heartbeat = await store.heartbeat()
        total = db.begin()
        for second in range(10):
            await store.heartbeat()
            await store.keep_heartbeat(heartbeat._replace(counter=heartbeat.counter + 1 + second))
        await store.removals()
        return Resting(total.writes / 10, total.reads / 10)
    finally:
        await db.close()


async def _kept_bytes(db: MeteredDynamoDb, settings: DynamoDbSettings, channel: str) -> int:
    """Return the bytes of the first bucket, as DynamoDB counts what it keeps."""
    items = [
        item
        async for item in db.query(
            TableName=settings.log_table,
            KeyConditionExpression="p = :p",
            ExpressionAttributeValues={":p": {"S": f"l#{channel}#0"}},
            ConsistentRead=True,
        )
    ]
    return sum(item_bytes(item) + _INDEX_BYTES for item in items)


def _messages(channel: str, count: int, size: int) -> list[Row]:
    """Return messages of a conversation that has begun, with random bytes."""
    rng = random.Random(_SEED)
    return [
        Row(channel, offset, rng.randbytes(16), rng.randbytes(size), _key(offset, rng), _COUNTS, offset + 1, 1)
        for offset in range(1, count + 1)
    ]


def _key(offset: int, rng: random.Random) -> str:
    return pair(f"user-{offset % 10}", f"{rng.getrandbits(88):022x}")
