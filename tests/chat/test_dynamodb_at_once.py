"""Several writers and readers of a conversation in DynamoDB.

Their requests come in any order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
from services.persistence.chat.ports import Changes, Loaded
from services.shared.dynamodb.client import DynamoDb, item_of
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from tests.support.chat_dynamodb import (
    CHANNEL,
    assert_same,
    changes,
    crowd,
    kept,
    model_of,
    store_of,
)
from tests.support.chat_dynamodb import db as db
from tests.support.chat_dynamodb import store as store
from tests.support.chat_store import MemoryChatStore
from tests.support.dynamodb_dying import Dying
from tests.support.dynamodb_tables import PATIENCE_S
from tests.support.full import sized


class Steered(DynamoDb):
    """Each of its requests waits until it is let through."""

    def __init__(self, settings: DynamoDbSettings) -> None:
        super().__init__(settings, deadline_s=PATIENCE_S)
        self.waiting: list[asyncio.Future[None]] = []

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(mine)
        await mine
        return await super().call(op, **arguments)

    def step(self) -> None:
        self.waiting.pop(0).set_result(None)


async def in_any_order(chance: random.Random, works: dict[asyncio.Task[Any], Steered]) -> None:
    """Let the requests of works through one after another, in a random order."""
    while not all(work.done() for work in works):
        await asyncio.sleep(0.002)
        ready = [db for db in works.values() if db.waiting]
        if ready:
            chance.choice(ready).step()


class Events:
    """A log of which every change is a part: each event touches a message, or a user."""

    def __init__(self, chance: random.Random, count: int) -> None:
        kinds = ["touch"] * chance.choice([1, 5]) + ["user"] * chance.choice([1, 5])
        self._kinds = [chance.choice(kinds) for _ in range(count)]
        self._numbers = [chance.randrange(1, 400) for _ in range(count)]
        self._comes = [chance.random() < 0.8 for _ in range(count)]

    def between(self, expected: int | None, position: int) -> Changes:
        """What the events above `expected` up to `position` change."""
        people: dict[str, bytes | None] = {}
        overlays: dict[int, bytes] = {}
        for offset in range((expected or 0) + 1, position + 1):
            number = self._numbers[offset]
            if self._kinds[offset] == "touch":
                overlays[number] = b"by %d" % offset
            else:
                people[f"user {number}"] = b"by %d" % offset if self._comes[offset] else None
        return changes(position, people=people, listed=people, overlays=overlays, directory=f"name {position // 100}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(sized(3, 8)))
async def test_of_large_changes_at_once_one_is_written_and_the_others_do_no_harm(
    settings: DynamoDbSettings, store: DynamoDbChatStore, seed: int
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    events = Events(chance, 1_200)
    position: int | None = None
    model = MemoryChatStore()
    for _ in range(2):
        asked = [events.between(position, (position or 0) + chance.choice([3, 150, 400])) for _ in range(3)]
        clients = [Steered(settings) for _ in range(4)]
        stores = [store_of(client, settings) for client in clients]
        before = await store.load(CHANNEL)
        works: dict[asyncio.Task[Any], Steered] = {
            asyncio.ensure_future(one.apply(CHANNEL, position, change)): client
            for one, change, client in zip(stores[:3], asked, clients[:3], strict=True)
        }
        loads: list[Loaded | None] = []

        async def read_on(reader: DynamoDbChatStore = stores[3], found: list[Loaded | None] = loads) -> None:
            for _ in range(4):
                found.append(await reader.load(CHANNEL))

        works[asyncio.ensure_future(read_on())] = clients[3]
        await in_any_order(chance, works)
        outcome = [work.result() for work in works][:3]
        assert outcome.count(True) == 1
        won = asked[outcome.index(True)]
        assert await model.apply(CHANNEL, position, won)
        after = await model.load(CHANNEL)
        assert await store.load(CHANNEL) == after
        assert all(one in (before, after) for one in loads)
        right = await model.overlays_between(CHANNEL, 1, 1_000)
        found = await store.overlays_between(CHANNEL, 1, 1_000)
        for offset in range(1, 1_000):
            newer = [one.overlays[offset] for one in asked if offset in one.overlays and one.position > won.position]
            assert found.get(offset) in [right.get(offset), *newer]
        furthest = max(one.position for one in asked) + 3
        following = events.between(won.position, furthest)
        assert await store.apply(CHANNEL, won.position, following)
        assert await model.apply(CHANNEL, won.position, following)
        await assert_same(store, model, 400)
        position = furthest
        for client in clients:
            await client.close()


class Meddling(DynamoDb):
    """Does something at a query: before it, and when it was answered."""

    def __init__(self, settings: DynamoDbSettings) -> None:
        super().__init__(settings, deadline_s=PATIENCE_S)
        self.before: list[Callable[[], Awaitable[object]]] = []
        self.after: list[Callable[[], Awaitable[object]]] = []

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        if op == "query" and self.before:
            await self.before.pop(0)()
        found = await super().call(op, **arguments)
        if op == "query" and self.after:
            await self.after.pop(0)()
        return found


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_load_gives_one_position_whatever_its_query_sees(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore, when: str
) -> None:
    large = {f"user {number}": random.Random(number).randbytes(9_000) for number in range(160)}
    assert await store.apply(CHANNEL, None, changes(1, people=dict([*large.items()][:80])))
    assert await store.apply(CHANNEL, 1, changes(2, people=dict([*large.items()][80:])))
    meddling = Meddling(settings)
    change = changes(3, people={"user 0": b"new", "user 99": None, "zoe": b"new"})
    # Its items are more than 1 MB. So `user 0` is in the first answer, and what comes after them in the second.
    getattr(meddling, when).append(lambda: store.apply(CHANNEL, 2, change))
    loaded = await store_of(meddling, settings).load(CHANNEL)
    assert not getattr(meddling, when)
    wanted: dict[str, bytes] = {**large, "user 0": b"new", "zoe": b"new"}
    del wanted["user 99"]
    assert loaded == Loaded(3, b"3", wanted)
    await meddling.close()


async def test_half_of_a_transaction_that_a_query_saw_is_not_taken_for_the_whole(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore
) -> None:
    """DynamoDB isolates transactions from queries item by item.

    The emulator does not, so the halves are put one by one.
    """
    assert await store.apply(CHANNEL, None, changes(1, people={"ann": b"1", "eve": b"1"}))
    assert await store.apply("conv:o.other", None, changes(2, people={"ann": b"2"}))
    there = await kept(db, settings)
    meddling = Meddling(settings)
    name = settings.chat_table

    async def first_half() -> None:
        await db.call(
            "put_item", TableName=name, Item=item_of({**there["c#conv:o.other", "m#ann"], "p": f"c#{CHANNEL}"})
        )

    async def second_half() -> None:
        await db.call("delete_item", TableName=name, Key=item_of({"p": f"c#{CHANNEL}", "s": "m#eve"}))
        await db.call("put_item", TableName=name, Item=item_of({**there["c#conv:o.other", "-"], "p": f"c#{CHANNEL}"}))

    meddling.before, meddling.after = [first_half], [second_half]
    loaded = await store_of(meddling, settings).load(CHANNEL)
    assert loaded == Loaded(2, b"2", {"ann": b"2"})
    await meddling.close()


async def test_a_writer_that_was_slow_writes_nothing_once_somebody_has_gone_on(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore
) -> None:
    assert await store.apply(CHANNEL, None, changes(1))
    slow = Steered(settings)
    large = changes(50, people=crowd(3, "slow"), overlays=dict.fromkeys(range(1, 251), b"slow"))
    work = asyncio.ensure_future(store_of(slow, settings).apply(CHANNEL, 1, large))
    while not slow.waiting:
        await asyncio.sleep(0.001)
    slow.step()
    while not slow.waiting:
        await asyncio.sleep(0.001)
    assert await store.apply(CHANNEL, 1, changes(20, overlays={1: b"20", 200: b"20"}))
    slow.step()
    assert await work is False
    found = await store.overlays_between(CHANNEL, 1, 1_000)
    assert (found[1], found[200]) == (b"20", b"20")
    assert found[2] == b"slow", "newer than the position"
    assert len(found) == 100
    await store.drop(CHANNEL)
    assert await kept(db, settings) == {}, "also what lay ahead"
    await slow.close()


async def step(slow: Steered) -> None:
    """Let the next request through, and wait until there is another one."""
    while not slow.waiting:
        await asyncio.sleep(0.001)
    slow.step()


@pytest.mark.parametrize("steps", [2, 3, 4])
async def test_a_drop_that_was_slow_deletes_nothing_of_what_was_written_again(
    settings: DynamoDbSettings, store: DynamoDbChatStore, steps: int
) -> None:
    whole = changes(9, people=crowd(120, "a"), listed=crowd(3, "a"), overlays=dict.fromkeys(range(1, 9), b"a"))
    assert await store.apply(CHANNEL, None, whole)
    slow = Steered(settings)
    work = asyncio.ensure_future(store_of(slow, settings).drop(CHANNEL))
    for _ in range(steps):  # its read, its mark, its query, its first deletes
        await step(slow)
    while not slow.waiting:
        await asyncio.sleep(0.001)
    await store.drop(CHANNEL)
    assert await store.apply(CHANNEL, None, whole)
    while not work.done():
        if slow.waiting:
            slow.step()
        await asyncio.sleep(0.001)
    await assert_same(store, await model_of((None, whole)), 120)
    await slow.close()


@pytest.mark.parametrize("steps", [2, 3])
async def test_a_journal_that_is_carried_out_late_replaces_nothing_newer(
    settings: DynamoDbSettings, store: DynamoDbChatStore, steps: int
) -> None:
    assert await store.apply(CHANNEL, None, changes(1))
    slow = Steered(settings)
    large = changes(9, people=crowd(150, "slow"), listed=crowd(150, "slow"))
    work = asyncio.ensure_future(store_of(slow, settings).apply(CHANNEL, 1, large))
    for _ in range(steps):  # its head, its read of the journal, its first users
        await step(slow)
    while not slow.waiting:
        await asyncio.sleep(0.001)
    assert await store.load(CHANNEL) == Loaded(9, b"9", crowd(150, "slow"))
    newer = changes(10, people=crowd(90, "newer", 60), listed=dict.fromkeys(crowd(150, "")))
    assert await store.apply(CHANNEL, 9, newer)
    while not work.done():
        if slow.waiting:
            slow.step()
        await asyncio.sleep(0.001)
    assert await work, "it was written, and somebody carried it out"
    await assert_same(store, await model_of((None, changes(1)), (1, large), (9, newer)), 150)
    await slow.close()


async def test_a_change_upon_a_journal_carries_it_out_first(
    settings: DynamoDbSettings, store: DynamoDbChatStore
) -> None:
    large = changes(9, people=crowd(150, "cut off"), listed=crowd(150, "cut off"))
    dying = Dying(settings, 2, False, deadline_s=PATIENCE_S)
    with pytest.raises(Unavailable):
        await store_of(dying, settings).apply(CHANNEL, None, large)
    newer = changes(10, people=crowd(3, "newer", 1))
    assert await store.apply(CHANNEL, 9, newer)
    await assert_same(store, await model_of((None, large), (9, newer)), 150)
    await dying.close()


async def test_an_older_overlay_never_replaces_a_newer_one_that_lies_ahead(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore
) -> None:
    dying = Dying(settings, 3, False, deadline_s=PATIENCE_S)
    ahead = changes(90, overlays=dict.fromkeys(range(1, 301), b"90"))
    with pytest.raises(Unavailable):
        await store_of(dying, settings).apply(CHANNEL, None, ahead)
    assert await store.apply(CHANNEL, None, changes(60, overlays=dict.fromkeys(range(50, 350), b"60")))
    found = await store.overlays_between(CHANNEL, 1, 1_000)
    assert [*found.values()] == [b"90"] * 197 + [b"60"] * 152
    assert await store.load(CHANNEL) == Loaded(60, b"60", {})
    assert await store.apply(CHANNEL, 60, changes(95, overlays=dict.fromkeys(range(1, 350), b"95")))
    assert set((await store.overlays_between(CHANNEL, 1, 1_000)).values()) == {b"95"}
    await dying.close()
