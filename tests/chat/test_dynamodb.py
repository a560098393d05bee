"""Conversations in DynamoDB: requests, crashes, slow writers, torn reads, sizes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from services.persistence.chat.adapters.dynamodb import items as items
from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
from services.persistence.chat.ports import Changes, Loaded, TooLarge
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb, item_of, values_of
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from tests.support.chat_store import MemoryChatStore
from tests.support.dynamodb import settings_of
from tests.support.dynamodb_dying import Dying
from tests.support.dynamodb_faults import DynamoDbFaults, Shares, dynamodb_faults
from tests.support.full import sized

CHANNEL = "conv:o.chat"
SEEDS = [1, 2, 3][: sized(1, 3)]
PATIENCE_S = 60.0  # the emulator shares a machine with other tests


def store_of(db: DynamoDb, settings: DynamoDbSettings) -> DynamoDbChatStore:
    return DynamoDbChatStore(db, settings.chat_table, deadline_s=PATIENCE_S, long_deadline_s=PATIENCE_S)


def changes(position: int, mark: str = "", **values: Any) -> Changes:
    made = Changes(position, (mark or str(position)).encode(), {}, {}, {})
    return made._replace(**values)


def crowd(count: int, mark: str, first: int = 0) -> dict[str, bytes]:
    return {f"user {number}": mark.encode() for number in range(first, first + count)}


@pytest.fixture
def faults(dynamodb: str) -> Iterator[DynamoDbFaults]:
    with dynamodb_faults(dynamodb, seed=1) as made:
        yield made


@pytest.fixture
async def settings(faults: DynamoDbFaults) -> DynamoDbSettings:
    settings = settings_of(faults.address, f"{uuid.uuid4().hex}-")
    db = DynamoDb(settings)
    await tables.create(db, settings)
    await db.close()
    faults.requests.clear()
    return settings


@pytest.fixture
async def db(settings: DynamoDbSettings) -> AsyncIterator[DynamoDb]:
    made = DynamoDb(settings, deadline_s=PATIENCE_S)
    yield made
    await made.close()


@pytest.fixture
def store(db: DynamoDb, settings: DynamoDbSettings) -> DynamoDbChatStore:
    return store_of(db, settings)


async def kept(db: DynamoDb, settings: DynamoDbSettings) -> dict[tuple[str, str], dict[str, Any]]:
    """All items of the table, by key."""
    found: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        response = await db.call("scan", TableName=settings.chat_table, ConsistentRead=True, **more)
        found += map(values_of, response["Items"])
        if "LastEvaluatedKey" not in response:
            return {(values["p"], values["s"]): values for values in found}
        more = {"ExclusiveStartKey": response["LastEvaluatedKey"]}


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


# Large changes, cut off at each of their requests.

BEFORE = changes(5, people=crowd(30, "before"), listed=crowd(30, "before"), overlays=dict.fromkeys(range(1, 21), b"5"))
LARGE = {
    "overlays": changes(9, people=crowd(2, "after"), overlays=dict.fromkeys(range(10, 130), b"9"), directory="after"),
    "people": changes(9, people=crowd(50, "after", 15), listed=crowd(50, "after", 15), overlays={1: b"9", 500: b"9"}),
    "both": changes(
        9,
        people={**crowd(70, "after", 15), **dict.fromkeys(crowd(15, ""))},
        listed=dict.fromkeys(crowd(15, "")),
        overlays=dict.fromkeys(range(9_950, 10_051), b"9"),
        directory="after",
    ),
}


async def model_of(*applied: tuple[int | None, Changes]) -> MemoryChatStore:
    model = MemoryChatStore()
    for expected, one in applied:
        assert await model.apply(CHANNEL, expected, one)
    return model


async def assert_same(store: DynamoDbChatStore, model: MemoryChatStore, users: int = 80) -> None:
    """All that the port can tell is the same."""
    assert await store.load(CHANNEL) == await model.load(CHANNEL)
    assert await store.overlays_between(CHANNEL, 1, 20_000) == await model.overlays_between(CHANNEL, 1, 20_000)
    for name in list(crowd(users, ""))[:: users // 5]:
        assert [*await store.conversations_of(name, "", 9)] == [*await model.conversations_of(name, "", 9)]
    assert [*await store.directory("conv", "", "", 9)] == [*await model.directory("conv", "", "", 9)]


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("is_new", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["both", *(pytest.param(one, marks=pytest.mark.full) for one in ("overlays", "people"))]
)
async def test_a_large_change_cut_off_at_any_request_is_all_there_or_not(
    db: DynamoDb, settings: DynamoDbSettings, kind: str, is_new: bool, carried_out: bool
) -> None:
    change = LARGE[kind]
    begun: list[tuple[int | None, Changes]] = [] if is_new else [(None, BEFORE)]
    expected = None if is_new else 5
    before, after = await model_of(*begun), await model_of(*begun, (expected, change))
    outcomes = set()
    for at in range(1, 20):
        name = f"{CHANNEL}-{at}"
        store = _Named(store_of(db, settings), name)
        for one in begun:
            assert await store.apply(CHANNEL, *one)
        dying = Dying(settings, at, carried_out, deadline_s=PATIENCE_S)
        with contextlib.suppress(Unavailable):
            await _Named(store_of(dying, settings), name).apply(CHANNEL, expected, change)
        has_died = dying.has_died
        await dying.close()
        overlays = await store.overlays_between(CHANNEL, 1, 20_000)
        loaded = await store.load(CHANNEL)
        is_done = loaded is not None and loaded.position == 9
        outcomes.add(is_done)
        assert loaded == await (after if is_done else before).load(CHANNEL)
        old, new = [await one.overlays_between(CHANNEL, 1, 20_000) for one in (before, after)]
        for offset in old.keys() | new.keys() | overlays.keys():  # as of the position, or newer
            assert overlays.get(offset) in ((new.get(offset),) if is_done else (old.get(offset), new.get(offset)))
        if is_done:
            assert not await store.apply(CHANNEL, expected, change)
        else:
            assert await store.apply(CHANNEL, expected, change)
        await assert_same(store, after)
        await store.drop(CHANNEL)
        if not has_died:
            break
    else:
        pytest.fail("it never came to an end")
    # With nothing ahead, the first request is that with the head.
    assert outcomes == ({True} if kind == "people" and carried_out else {False, True})
    assert await kept(db, settings) == {}


class _Named(DynamoDbChatStore):
    """The store, with another name for the channel: each attempt has its own."""

    def __init__(self, inner: DynamoDbChatStore, name: str) -> None:
        self._inner, self._name = inner, name

    def __getattribute__(self, method: str) -> Any:
        if method.startswith("_"):
            return object.__getattribute__(self, method)
        call = getattr(self._inner, method)
        name = self._name

        async def renamed(*arguments: Any) -> Any:
            found = await call(*(name if one == CHANNEL else one for one in arguments))
            if method in ("conversations_of", "directory"):
                return [tuple(CHANNEL if part == name else part for part in one) for one in found]
            return found

        return renamed


@pytest.mark.slow
@pytest.mark.parametrize("carried_out", [True, pytest.param(False, marks=pytest.mark.full)])
async def test_a_drop_cut_off_at_any_request_leaves_nothing_behind(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore, carried_out: bool
) -> None:
    whole = changes(
        25_000,
        people=crowd(30, "a"),
        listed=crowd(40, "a"),
        overlays=dict.fromkeys([*range(1, 20), 10_001, 24_999, 40_000], b"a"),
        directory="here",
    )
    after = changes(3, people=crowd(3, "b", 28), listed=crowd(3, "b", 28), overlays={2: b"b"}, directory="there")
    for at in range(1, 30):
        assert await store.apply(CHANNEL, None, whole)
        dying = Dying(settings, at, carried_out, deadline_s=PATIENCE_S)
        with contextlib.suppress(Unavailable):
            await store_of(dying, settings).drop(CHANNEL)
        has_died, is_hidden = dying.has_died, at > 2 or (at == 2 and carried_out)
        await dying.close()
        if not is_hidden:
            await assert_same(store, await model_of((None, whole)))
            await store.drop(CHANNEL)
        if at % 3 == 0:
            assert await store.load(CHANNEL) is None
            assert await kept(db, settings) == {}
        elif at % 3 == 1:
            await store.drop(CHANNEL)
            assert await kept(db, settings) == {}
        assert await store.apply(CHANNEL, None, after)
        await assert_same(store, await model_of((None, after)))
        await store.drop(CHANNEL)
        if not has_died:
            break
    else:
        pytest.fail("it never came to an end")
    assert await kept(db, settings) == {}


# Several writers and readers, in any order of their requests.


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
