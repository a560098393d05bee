"""Conversations in DynamoDB: requests, trouble, sizes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.persistence.chat.adapters.dynamodb import items as items
from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
from services.persistence.chat.ports import Loaded, TooLarge
from services.shared.dynamodb.client import DynamoDb, item_of
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from tests.support.chat_dynamodb import (
    CHANNEL,
    assert_same,
    changes,
    crowd,
    kept,
    store_of,
)
from tests.support.chat_dynamodb import db as db
from tests.support.chat_dynamodb import store as store
from tests.support.chat_store import MemoryChatStore
from tests.support.dynamodb_faults import DynamoDbFaults, Shares
from tests.support.dynamodb_tables import PATIENCE_S
from tests.support.full import sized

SEEDS = [1, 2, 3][: sized(1, 3)]


# What it costs, as docs/storage.md says.


async def test_requests_of_each_operation(store: DynamoDbChatStore, faults: DynamoDbFaults) -> None:
    async def costs(work: Awaitable[object], **wanted: int) -> None:
        faults.requests.clear()
        result = await work
        assert dict(faults.requests) == wanted
        assert result is not False

    apply, write = store.apply, "TransactWriteItems"
    await costs(store.load(CHANNEL), TransactGetItems=1)
    await costs(
        apply(CHANNEL, None, changes(1, people=crowd(2, "a"), listed=crowd(2, "a"), directory="n")), **{write: 1}
    )
    await costs(apply(CHANNEL, 1, changes(2, overlays={1: b"edited"}, directory="n")), **{write: 1})
    await costs(apply(CHANNEL, 2, changes(3, people=crowd(1, "b"), listed=crowd(1, "b"), directory="n")), **{write: 1})
    await costs(apply(CHANNEL, 3, changes(4, directory="other")), **{write: 2})
    await costs(apply(CHANNEL, 4, changes(5, directory=None)), **{write: 2})
    await costs(store.load(CHANNEL), TransactGetItems=2, Query=1)
    await costs(apply(CHANNEL, 5, changes(6, overlays=dict.fromkeys(range(1, 98), b"1"))), **{write: 1})
    await costs(apply(CHANNEL, 6, changes(7, overlays=dict.fromkeys(range(1, 199), b"1"))), **{write: 3})
    await costs(apply(CHANNEL, 7, changes(8, people=crowd(97, "c"))), **{write: 1})
    # 130 items of users: with the journal, twice for the users, and without it.
    await costs(apply(CHANNEL, 8, changes(9, people=crowd(130, "d"))), **{write: 4}, TransactGetItems=1)
    await costs(store.overlays(CHANNEL, range(1, 101)), BatchGetItem=1)
    await costs(store.overlays(CHANNEL, range(1, 102)), BatchGetItem=2)
    await costs(store.overlays(CHANNEL, []))
    await costs(store.overlays_between(CHANNEL, 20, 70), Query=1)
    await costs(store.overlays_between(CHANNEL, 9_990, 10_010), Query=2)
    await costs(store.conversations_of("user 0", "", 50), Query=1)
    await costs(store.conversations_of("user 0", "", 1), Query=1)
    await costs(store.directory("conv", "", "", 50), Query=1)
    await costs(store.drop(CHANNEL), TransactGetItems=1, Query=2, **{write: 1 + 2 + 2 + 1})
    await costs(store.drop(CHANNEL), TransactGetItems=1, Query=1)


async def test_a_change_at_a_wrong_position_costs_one_request(store: DynamoDbChatStore, faults: DynamoDbFaults) -> None:
    assert await store.apply(CHANNEL, None, changes(1))
    large = changes(9, people=crowd(300, "x"), overlays=dict.fromkeys(range(1, 300), b"x"), directory="x")
    for expected in (None, 5):
        faults.requests.clear()
        assert not await store.apply(CHANNEL, expected, large)
        assert dict(faults.requests) == {"TransactWriteItems": 1}


async def test_every_read_is_strongly_consistent(settings: DynamoDbSettings) -> None:
    asked: list[tuple[str, Any]] = []

    class Watched(DynamoDb):
        async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
            asked.append((op, arguments))
            return await super().call(op, **arguments)

    db = Watched(settings, deadline_s=PATIENCE_S)
    store = store_of(db, settings)
    assert await store.apply(CHANNEL, None, changes(1, people=crowd(1, "a"), listed=crowd(1, "a"), directory="a"))
    await store.load(CHANNEL)
    await store.overlays(CHANNEL, [1])
    await store.overlays_between(CHANNEL, 1, 2)
    await store.conversations_of("user 0", "", 1)
    await store.directory("conv", "", "", 1)
    await store.drop(CHANNEL)
    reads = [arguments for op, arguments in asked if op == "query"]
    reads += [arguments["RequestItems"][settings.chat_table] for op, arguments in asked if op == "batch_get_item"]
    assert len(reads) == 7
    assert all(one["ConsistentRead"] is True for one in reads)
    others = {"transact_write_items", "transact_get_items"}  # those of transactions are by themselves
    assert {op for op, _ in asked} == {"query", "batch_get_item", *others}
    await db.close()


# Trouble.


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_with_lost_answers_and_throttling_each_change_is_written_once_or_refused(
    settings: DynamoDbSettings, store: DynamoDbChatStore, faults: DynamoDbFaults, seed: int
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    model = MemoryChatStore()
    faults.begin(seed, Shares(throttled=0.1, failed=0.1, lost=0.1, unprocessed=0.3))
    position: int | None = None
    for number in range(1, 25):
        change = changes(
            number,
            people=crowd(chance.choice([0, 2, 110]), str(number), chance.randrange(9)),
            listed=crowd(chance.choice([0, 2]), str(number)),
            overlays=dict.fromkeys(chance.sample(range(1, 200), chance.choice([0, 1, 120])), str(number).encode()),
            directory=chance.choice([None, "a", "b"]),
        )
        while True:
            try:
                assert await store.apply(CHANNEL, position, change), "nobody else writes"
                break
            except Unavailable:  # it may be written
                loaded = await eventually(lambda: store.load(CHANNEL))
                if loaded is not None and loaded.position == number:
                    break
        assert await model.apply(CHANNEL, position, change)
        position = number
        assert await eventually(lambda: store.overlays(CHANNEL, range(1, 200))) == await model.overlays(
            CHANNEL, range(1, 200)
        )
    assert faults.faults["lost"] > 5
    faults.shares = Shares()
    await assert_same(store, model)


async def eventually(work: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await work()
        except Unavailable:
            await asyncio.sleep(0.01)


async def test_what_is_throttled_or_refused_is_unavailable(store: DynamoDbChatStore, faults: DynamoDbFaults) -> None:
    assert await store.apply(CHANNEL, None, changes(1))
    for name in ("throttled", "refused"):
        setattr(faults, name, "thalamus" if name == "none" else "-chat")
        works: list[Awaitable[object]] = [
            store.load(CHANNEL),
            store.overlays(CHANNEL, [1]),
            store.overlays_between(CHANNEL, 1, 2),
            store.apply(CHANNEL, 1, changes(2)),
            store.conversations_of("ann", "", 1),
            store.directory("conv", "", "", 1),
            store.drop(CHANNEL),
        ]
        for found in await asyncio.gather(*works, return_exceptions=True):
            assert isinstance(found, Unavailable)
        setattr(faults, name, "")
    assert await store.load(CHANNEL) == Loaded(1, b"1", {})


# Sizes.


async def test_large_documents_are_compressed_and_small_ones_are_not(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore
) -> None:
    small, large = b'{"a":1}' * 146, b'{"a":1}' * 147
    assert (len(small), len(large)) == (1_022, 1_029)
    text = random.Random(1).randbytes(2_000)  # zlib makes it no smaller
    people = {"small": small, "large": large, "text": text}
    assert await store.apply(CHANNEL, None, changes(1, people=people, listed=people, overlays={1: large}, head=large))
    there = await kept(db, settings)
    assert there[f"c#{CHANNEL}", "m#small"]["doc"] == small
    assert there[f"c#{CHANNEL}", "m#text"]["doc"] == text
    for key in (
        (f"c#{CHANNEL}", "-"),
        (f"c#{CHANNEL}", "m#large"),
        ("u#large", f"c#{CHANNEL}"),
        (f"o#{CHANNEL}#0", "0" * 15 + "1"),
    ):
        assert "doc" not in there[key]
        assert len(there[key]["zip"]) < 100
    swapped = {"small": large, "large": small}
    assert await store.apply(CHANNEL, 1, changes(2, people=swapped))
    assert await store.load(CHANNEL) == Loaded(2, b"2", {**swapped, "text": text})
    assert await store.overlays(CHANNEL, [1]) == {1: large}


@pytest.mark.parametrize("what", ["head", "people", "listed", "overlays", "many people", "channel"])
async def test_what_no_item_can_hold_is_refused_and_nothing_of_it_is_written(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore, what: str
) -> None:
    chance = random.Random(1)
    large, channel = chance.randbytes(items.MAX_DOCUMENT_BYTES + 1), CHANNEL
    change = changes(1, people={"ann": b"1"}, listed={"ann": b"1"}, overlays=dict.fromkeys(range(1, 200), b"1"))
    if what == "head":
        change = change._replace(head=large)
    elif what == "overlays":
        change = change._replace(overlays={**change.overlays, 200: large})
    elif what == "many people":
        change = change._replace(people={f"user {number}": chance.randbytes(300_000) for number in range(13)})
    elif what == "channel":
        channel, change = f"conv:o.{'x' * 1_000}", change._replace(directory="n" * 20)
    else:
        change = change._replace(people={"ann": large}) if what == "people" else change._replace(listed={"ann": large})
    with pytest.raises(TooLarge, match=r"bytes"):
        await store.apply(channel, None, change)
    assert await kept(db, settings) == {}
    if what not in ("many people", "channel"):
        fits = large[:-1]
        assert await store.apply(CHANNEL, None, changes(1, head=fits, people={"a": fits}, overlays={1: fits, 2: fits}))
        assert await store.load(CHANNEL) == Loaded(1, fits, {"a": fits})


async def test_many_overlays_are_read_as_a_range(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore, faults: DynamoDbFaults
) -> None:
    count = sized(3_000, 10_000)  # the emulator takes some ms for each
    wanted = {offset: b'{"of":%d}' % offset + b" " * 900 for offset in range(8_001, 8_001 + count)}
    puts = []
    for offset, document in wanted.items():
        p, s = items.overlay_key(CHANNEL, offset)
        puts.append({"PutRequest": {"Item": item_of({"p": p, "s": s, "as_of": 1, "doc": document})}})
    await asyncio.gather(
        *(db.write_all(settings.chat_table, puts[start : start + 500]) for start in range(0, count, 500))
    )
    faults.requests.clear()
    found = await store.overlays_between(CHANNEL, 1, 20_000)
    assert [*found.items()] == [*wanted.items()]
    assert faults.requests["Query"] >= 3, "one page has 1 MB at most"
    assert [*await store.overlays_between(CHANNEL, 9_990, 10_010)] == [*range(9_990, 10_011)]


async def test_names_longer_than_a_key_are_found_by_any_part_of_them(store: DynamoDbChatStore) -> None:
    names = ["é" * 255, "é" * 256 + "a", "é" * 256 + "b", "é" * 900, "f"]
    for number, name in enumerate(names):
        assert await store.apply(f"conv:o.{number}", None, changes(1, directory=name))
    for prefix in ("", "é", "é" * 256, "é" * 256 + "b", "é" * 300, "é" * 901):
        pages: list[tuple[str, str]] = []
        after = ""
        while page := await store.directory("conv", prefix, after, 1):
            pages += page
            after = " ".join(page[-1])
        assert sorted(pages) == sorted((name, f"conv:o.{i}") for i, name in enumerate(names) if name.startswith(prefix))
