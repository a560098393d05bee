"""What every `ChatStore` promises: the model in memory, SQLite and DynamoDB.

DynamoDB is moto's server, and dynamodb-local where its image is there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.ports import Changes, ChatStore, Loaded
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.chat_dynamodb import store_of
from tests.support.chat_store import MemoryChatStore
from tests.support.dynamodb_tables import Connect, OnDynamoDb, OnDynamoDbLocal

CHANNEL = "conv:g.contract"
OPEN = "conv:o.lounge"
SEEDS = [1, 2, 3]
ODD = [
    "a",
    "#",
    ",",
    "a,b",
    "m#a",
    "-",
    "u#",
    "é" * 255,
    "😀" * 255,
    "x" * 2_000,
    " ",
    "\n",
    "a\x00b",
    "'; --",
    "%",
    "_",
]

Make = Callable[[], ChatStore]


def changes(position: int, head: str = "", **values: Any) -> Changes:
    """Changes whose head says the position, and nothing else but `values`."""
    made = Changes(position, (head or f'{{"at":{position}}}').encode(), {}, {}, {})
    return made._replace(**values)


async def listed(store: ChatStore, user: str) -> list[tuple[str, bytes]]:
    return [*await store.conversations_of(user, "", 1_000)]


async def found(store: ChatStore, namespace: str = "conv", prefix: str = "") -> list[tuple[str, str]]:
    return [*await store.directory(namespace, prefix, "", 1_000)]


class ChatStoreContract:
    """`make` gives another object on the same data, as another process would have it."""

    @pytest.fixture
    async def store(self, make: Make) -> ChatStore:
        return make()

    @pytest.fixture
    async def other(self, make: Make) -> ChatStore:
        return make()

    async def test_of_an_unknown_conversation_there_is_nothing(self, store: ChatStore) -> None:
        assert await store.load(CHANNEL) is None
        assert await store.overlays(CHANNEL, [1, 2]) == {}
        assert await store.overlays(CHANNEL, []) == {}
        assert await store.overlays_between(CHANNEL, 1, 1_000) == {}
        assert await listed(store, "ann") == []
        assert await found(store) == []
        await store.drop(CHANNEL)

    async def test_what_was_written_is_read_by_everybody(self, store: ChatStore, other: ChatStore) -> None:
        first = changes(
            3,
            people={"ann": b'{"role":"owner"}', "bob": b"{}"},
            listed={"ann": b'{"l":1}', "bob": b'{"l":2}'},
            overlays={2: b'{"deleted":true}', 3: b"{}"},
            directory="The Lounge",
        )
        assert await store.apply(OPEN, None, first)
        for one in (store, other):
            assert await one.load(OPEN) == Loaded(3, b'{"at":3}', {"ann": b'{"role":"owner"}', "bob": b"{}"})
            assert await one.overlays(OPEN, [1, 2, 3, 9]) == {2: b'{"deleted":true}', 3: b"{}"}
            assert await listed(one, "ann") == [(OPEN, b'{"l":1}')]
            assert await found(one) == [("The Lounge", OPEN)]
        assert await other.load(CHANNEL) is None

    async def test_who_is_not_named_stays_and_who_has_no_document_goes(self, store: ChatStore) -> None:
        everyone = dict.fromkeys(("ann", "bob", "cid"), b"1")
        assert await store.apply(
            CHANNEL, None, changes(1, people=everyone, listed=everyone, overlays={1: b"1", 2: b"1"})
        )
        some = changes(2, people={"ann": b"2", "bob": None}, listed={"bob": None, "cid": b"2"}, overlays={2: b"2"})
        assert await store.apply(CHANNEL, 1, some)
        assert await store.load(CHANNEL) == Loaded(2, b'{"at":2}', {"ann": b"2", "cid": b"1"})
        lists = [await listed(store, user) for user in ("ann", "bob", "cid")]
        assert lists == [[(CHANNEL, b"1")], [], [(CHANNEL, b"2")]]
        assert await store.overlays(CHANNEL, [1, 2]) == {1: b"1", 2: b"2"}
        gone = changes(3, people={"ann": None, "cid": None, "never there": None}, listed={"dan": b"3", "eve": None})
        assert await store.apply(CHANNEL, 2, gone)
        assert await store.load(CHANNEL) == Loaded(3, b'{"at":3}', {})
        assert await listed(store, "ann") == [(CHANNEL, b"1")], "still listed, though no member"
        assert await listed(store, "dan") == [(CHANNEL, b"3")], "listed, though never a member"
        assert await store.apply(CHANNEL, 3, changes(4, people={"ann": b"4", "dan": b"4"}))
        assert await store.apply(CHANNEL, 4, changes(5, listed={"ann": None, "dan": None}))
        assert (await store.load(CHANNEL)) == Loaded(5, b'{"at":5}', {"ann": b"4", "dan": b"4"})
        assert await listed(store, "ann") == await listed(store, "dan") == []

    async def test_a_change_is_written_only_at_the_expected_position(self, store: ChatStore, other: ChatStore) -> None:
        wrong = changes(9, people={"eve": b"x"}, listed={"eve": b"x"}, overlays={1: b"x", 5: b"x"}, directory="stolen")
        assert not await store.apply(CHANNEL, 4, wrong)
        assert await store.load(CHANNEL) is None
        right = changes(4, people={"ann": b"1"}, listed={"ann": b"1"}, overlays={1: b"1"}, directory="ours")
        assert await store.apply(CHANNEL, None, right)
        for expected in (None, 0, 3, 5, 9):
            assert not await other.apply(CHANNEL, expected, wrong)
        assert await other.load(CHANNEL) == Loaded(4, b'{"at":4}', {"ann": b"1"})
        assert await other.overlays_between(CHANNEL, 1, 9) == {1: b"1"}
        assert (await listed(other, "eve"), await found(other)) == ([], [("ours", CHANNEL)])
        assert await other.apply(CHANNEL, 4, changes(9, overlays={5: b"5"}))
        assert await store.load(CHANNEL) == Loaded(9, b'{"at":9}', {"ann": b"1"})
        assert await store.apply(CHANNEL, 9, changes(9, head="again"))
        assert await store.load(CHANNEL) == Loaded(9, b"again", {"ann": b"1"})

    async def test_position_zero_is_a_position(self, store: ChatStore) -> None:
        assert await store.apply(CHANNEL, None, changes(0))
        assert not await store.apply(CHANNEL, None, changes(1))
        assert await store.load(CHANNEL) == Loaded(0, b'{"at":0}', {})
        assert await store.apply(CHANNEL, 0, changes(1))

    async def test_overlays_between_have_both_ends_and_are_in_order(self, store: ChatStore) -> None:
        offsets = [1, 9, 10, 11, 9_999, 10_000, 10_001, 20_000, 20_001, 123_456_789_012, 2**53 - 1]
        kept = {offset: str(offset).encode() for offset in offsets}
        assert await store.apply(CHANNEL, None, changes(2**53 - 1, overlays=dict(reversed(kept.items()))))
        assert [*(await store.overlays_between(CHANNEL, 1, 20_001)).items()] == [*kept.items()][:9]
        for first, last in ((9, 11), (10, 10), (12, 9_998), (9_999, 10_001), (10_001, 20_000), (11, 10)):
            wanted = {offset: kept[offset] for offset in offsets if first <= offset <= last}
            assert await store.overlays_between(CHANNEL, first, last) == wanted
        assert await store.overlays_between(CHANNEL, 2**53 - 1, 2**53 - 1) == {2**53 - 1: str(2**53 - 1).encode()}
        assert await store.overlays(CHANNEL, [*offsets, 2]) == kept
        assert await store.overlays_between("conv:g.contrac", 1, 20_001) == {}
        assert await store.overlays_between(CHANNEL + "#0", 1, 20_001) == {}

    async def test_many_overlays_are_found_one_by_one_and_as_a_range(self, store: ChatStore) -> None:
        kept = {offset: b'{"n":%d}' % offset for offset in range(3, 3_000, 3)}
        assert await store.apply(CHANNEL, None, changes(3_000, overlays=kept))
        assert await store.overlays(CHANNEL, range(1, 3_000)) == kept
        assert await store.overlays_between(CHANNEL, 1, 3_000) == kept

    async def test_documents_of_any_bytes_and_sizes_come_back(self, store: ChatStore) -> None:
        chance = random.Random(7)
        for position, size in enumerate((0, 1, 1_023, 1_024, 1_025, 70_000, 300_000), 1):
            text = chance.randbytes(size)
            one = changes(position, people={"ann": text}, listed={"ann": text}, overlays={1: text, 2: b"{}" * size})
            assert await store.apply(CHANNEL, position - 1 or None, one._replace(head=text))
            assert await store.load(CHANNEL) == Loaded(position, text, {"ann": text})
            assert await listed(store, "ann") == [(CHANNEL, text)]
            assert await store.overlays(CHANNEL, [1, 2]) == {1: text, 2: b"{}" * size}

    async def test_users_of_any_text_are_kept_apart(self, store: ChatStore, other: ChatStore) -> None:
        kept = {user: repr(user).encode() for user in ODD}
        assert await store.apply(CHANNEL, None, changes(1, people=kept, listed=kept))
        assert await other.load(CHANNEL) == Loaded(1, b'{"at":1}', kept)
        for user in ODD:
            assert await listed(other, user) == [(CHANNEL, kept[user])]
        assert await listed(other, "x" * 1_999) == await listed(other, "b") == []
        left = dict.fromkeys(ODD[::2])
        assert await store.apply(CHANNEL, 1, changes(2, people=left, listed=left))
        assert await other.load(CHANNEL) == Loaded(2, b'{"at":2}', {user: kept[user] for user in ODD[1::2]})
        for user in ODD:
            assert bool(await listed(other, user)) == (user not in left)

    async def test_a_users_list_is_given_in_pages_by_channel(self, store: ChatStore) -> None:
        channels = [f"conv:g.{number:02}" for number in range(25)] + ["conv:o.a#1", "conv:o.~", f"conv:o.{'z' * 300}"]
        for channel in random.Random(1).sample(channels, len(channels)):
            assert await store.apply(channel, None, changes(1, listed={"ann": channel.encode(), "a": b"x"}))
        for limit in (1, 7, 100):
            pages: list[tuple[str, bytes]] = []
            after = ""
            while page := await store.conversations_of("ann", after, limit):
                assert len(page) <= limit
                pages += page
                after = page[-1][0]
            assert pages == [(channel, channel.encode()) for channel in sorted(channels)]
        assert [channel for channel, _ in await store.conversations_of("ann", "conv:g.23x", 2)] == [
            "conv:g.24",
            "conv:o.a#1",
        ]

    async def test_the_directory_is_given_in_pages_by_name_and_channel(self, store: ChatStore) -> None:
        names = [
            "a",
            "a b",
            "a  b",
            "A",
            "ab",
            "ab",
            "abc",
            "b",
            "é",
            "😀",
            "\uffff",
            "a\x00b",
            "a\x00",
            " ",
            "%",
            "a_",
            "n" * 128,
        ]
        wanted = []
        for number, name in enumerate(names):
            channel = f"conv:o.{number % 5}-{number}"
            assert await store.apply(channel, None, changes(1, directory=name))
            wanted.append((name, channel))
        assert await store.apply("other:o.a", None, changes(1, directory="a"))
        assert await store.apply("conv:g.hidden", None, changes(1))
        for prefix in ("", "a", "ab", "a ", "é", "n" * 128, "%", "_", "x", "\x00", "a\x00"):
            matching = sorted(one for one in wanted if one[0].startswith(prefix))
            for limit in (1, 3, 100):
                pages: list[tuple[str, str]] = []
                after = ""
                while page := await store.directory("conv", prefix, after, limit):
                    assert len(page) <= limit
                    pages += page
                    after = " ".join(page[-1])
                assert pages == matching, prefix
        assert await found(store, "other") == [("a", "other:o.a")]
        assert await found(store, "con") == []

    async def test_a_conversation_is_found_by_its_present_name_alone(self, store: ChatStore, other: ChatStore) -> None:
        position = None
        for next_position, name in enumerate(["old", "old", "new", None, None, "newer", "", "back"], 1):
            one, two = (store, other) if next_position % 2 else (other, store)
            assert await one.apply(OPEN, position, changes(next_position, directory=name))
            assert await found(two) == ([] if name is None else [(name, OPEN)])
            position = next_position

    async def test_nothing_is_left_of_a_dropped_conversation(self, store: ChatStore, other: ChatStore) -> None:
        users = {f"u{number}": b"1" for number in range(150)}
        beside = changes(1, people={"u1": b"2"}, listed={"u1": b"2"}, overlays={7: b"2"}, directory="beside")
        assert await store.apply("conv:o.beside", None, beside)
        overlays = dict.fromkeys((1, 7, 10000, 10001, 35000), b"1")
        whole = changes(40_000, people=users, listed=users | {"only listed": b"1"}, overlays=overlays, directory="gone")
        assert await store.apply(OPEN, None, whole)
        await other.drop(OPEN)
        for one in (store, other):
            assert await one.load(OPEN) is None
            assert await one.overlays(OPEN, [*overlays]) == await one.overlays_between(OPEN, 1, 40_000) == {}
            assert await listed(one, "u149") == await listed(one, "only listed") == []
            assert await listed(one, "u1") == [("conv:o.beside", b"2")]
            assert await found(one) == [("beside", "conv:o.beside")]
        assert not await store.apply(OPEN, 40_000, changes(40_001))
        assert await store.apply(OPEN, None, changes(2, people={"ann": b"1"}))
        assert await store.load(OPEN) == Loaded(2, b'{"at":2}', {"ann": b"1"})
        assert await store.overlays_between(OPEN, 1, 40_000) == {}
        assert await store.load("conv:o.beside") == Loaded(1, b'{"at":1}', {"u1": b"2"})
        assert await store.overlays("conv:o.beside", [7]) == {7: b"2"}

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_of_writers_at_once_one_writes_all_of_its_change(self, make: Make, seed: int) -> None:
        print(f"seed {seed}")
        chance = random.Random(seed)
        stores = [make() for _ in range(3)]
        position: int | None = None
        for _ in range(6):
            following = (position or 0) + 1
            asked = [
                changes(
                    following + chance.randrange(3),
                    head=f"of {number}",
                    people={user: f"{number}".encode() for user in chance.sample("abcdef", 3)},
                    overlays={offset: f"{number}".encode() for offset in chance.sample(range(1, 9), 3)},
                )
                for number in range(len(stores))
            ]
            before, under = await stores[0].load(CHANNEL), await stores[0].overlays_between(CHANNEL, 1, 9)
            outcome = await asyncio.gather(
                *(store.apply(CHANNEL, position, one) for store, one in zip(stores, asked, strict=True))
            )
            assert outcome.count(True) == 1
            won = asked[outcome.index(True)]
            position = won.position
            people = {user: document for user, document in won.people.items() if document is not None}
            wanted = Loaded(position, won.head, {**(before.people if before else {}), **people})
            for store in stores:
                assert await store.load(CHANNEL) == wanted
                assert await store.overlays_between(CHANNEL, 1, 9) == {**under, **won.overlays}

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_any_sequence_of_calls_does_what_the_model_does(self, make: Make, seed: int) -> None:
        print(f"seed {seed}")
        chance = random.Random(seed)
        model, stores = MemoryChatStore(), [make(), make()]
        channels = ["conv:g.a", "conv:o.b", "conv:o.b#1", "team:o.c"]
        users = ["ann", "#", "a,b", "😀" * 255, "y" * 1_500]
        for _ in range(self.steps):
            store, channel = chance.choice(stores), chance.choice(channels)
            kept = await model.load(channel)
            position = kept.position if kept else None
            step = chance.random()
            if step < 0.6:
                one = _random_changes(chance, (position or 0) + chance.choice([0, 1, 1, 5]), users, self.crowd)
                expected = position if chance.random() < 0.85 else chance.choice([None, 0, 1, 2, 3])
                assert await store.apply(channel, expected, one) == await model.apply(channel, expected, one)
            elif step < 0.66:
                seen = chance.choice([None, kept, kept and kept._replace(head=b"{}"), Loaded(1, b"{}", {})])
                await store.drop(channel, seen)
                await model.drop(channel, seen)
            elif step < 0.8:
                assert await store.load(channel) == await model.load(channel)
            elif step < 0.9:
                first, last = sorted(chance.choices(range(1, 20_100), k=2))
                reads = [await one.overlays_between(channel, first, last) for one in (store, model)]
                assert [*reads[0].items()] == [*reads[1].items()]
                some = chance.sample(range(1, 20_100), 30)
                assert await store.overlays(channel, some) == await model.overlays(channel, some)
            else:
                user, after, limit = chance.choice(users), chance.choice(["", *channels]), chance.choice([1, 2, 50])
                lists = [await one.conversations_of(user, after, limit) for one in (store, model)]
                assert [*lists[0]] == [*lists[1]]
                prefix = chance.choice(["", "n", "na"])
                names = [await one.directory("conv", prefix, "", limit) for one in (store, model)]
                assert [*names[0]] == [*names[1]]
        for channel in channels:
            assert await stores[0].load(channel) == await model.load(channel)
            assert await stores[0].overlays_between(channel, 1, 20_100) == await model.overlays_between(
                channel, 1, 20_100
            )
        for user in [*users, *(f"user {number}" for number in range(0, self.crowd, 7))]:
            assert [*await listed(stores[1], user)] == [*await listed(model, user)]
        assert await found(stores[1]) == await found(model)

    steps = 300
    crowd = 130  # users of a large change: more than one transaction of DynamoDB takes


def _random_changes(chance: random.Random, position: int, users: list[str], crowd: int) -> Changes:
    def some(from_: list[str]) -> dict[str, bytes | None]:
        return {user: None if chance.random() < 0.3 else chance.randbytes(4) for user in from_ if chance.random() < 0.5}

    many = [f"user {number}" for number in range(crowd)] if chance.random() < 0.1 else []
    offsets = chance.sample(range(1, 20_000), chance.choice([0, 0, 1, 3, 120 if chance.random() < 0.2 else 2]))
    return Changes(
        position,
        chance.randbytes(chance.choice([10, 2_000])),
        some(users + many),
        some(users + many),
        {offset: chance.randbytes(3) for offset in offsets},
        chance.choice([None, None, "n", "name", "na me"]),
    )


class TestMemoryChatStore(ChatStoreContract):
    @pytest.fixture
    def make(self) -> Make:
        kept = MemoryChatStore()
        return lambda: kept


class TestSqliteChatStore(ChatStoreContract):
    @pytest.fixture
    async def make(self, tmp_path: Path) -> AsyncIterator[Make]:
        made: list[SqliteLogStore] = []

        def make() -> ChatStore:
            made.append(SqliteLogStore(tmp_path / "log.sqlite3"))
            return SqliteChatStore(made[-1].database)

        yield make
        for one in made:
            await one.close()


class TestDynamoDbChatStore(OnDynamoDb, ChatStoreContract):
    steps = 60

    @pytest.fixture
    def make(self, connect: Connect, settings: DynamoDbSettings) -> Make:
        return lambda: store_of(connect(), settings)


class TestDynamoDbLocalChatStore(OnDynamoDbLocal, TestDynamoDbChatStore):
    """In a container, where an engine runs."""
