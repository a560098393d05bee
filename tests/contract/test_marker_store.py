"""What every `MarkerStore` promises: the model in memory, SQLite and DynamoDB.

DynamoDB is moto's server, and dynamodb-local where its image is there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.chat.adapters.dynamodb.markers import DynamoDbMarkerStore
from services.persistence.chat.adapters.sqlite_markers import SqliteMarkerStore
from services.persistence.chat.markers.ports import MarkerStore, Of
from services.persistence.chat.markers.record import Record
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.dynamodb_tables import PATIENCE_S, Connect, OnDynamoDb, OnDynamoDbLocal
from tests.support.marker_store import MemoryMarkerStore

CHANNEL = "conv:g.contract"
EPOCHS = ["", "first", "second"]
ODD = ["a", "#", "m#a", "-", "u#", "é" * 255, "😀" * 255, "x" * 2_000, " ", "\n", "a\x00b", "'; --", "%", "_"]

Make = Callable[[], MarkerStore]


def any_record(chance: random.Random) -> Record:
    """Any record; few values, so that parts of it are alike."""
    epoch = chance.choice(EPOCHS)
    generation, offset, delivered = (chance.choice([0, 1, 2, 2**31]) if epoch else 0 for _ in range(3))
    version = chance.choice([0, 1, 2, 2**53 - 1])
    return Record(
        generation, offset, delivered, epoch, version, chance.choice(["{}", '{"archived":true}']) * (version > 0)
    )


class MarkerStoreContract:
    """`make` gives another object on the same data, as another process would have it."""

    steps = 150

    @pytest.fixture
    async def store(self, make: Make) -> MarkerStore:
        return make()

    @pytest.fixture
    async def other(self, make: Make) -> MarkerStore:
        return make()

    async def test_of_an_unknown_user_there_is_nothing(self, store: MarkerStore) -> None:
        of = Of("ann", CHANNEL)
        assert await store.load([of]) == {}
        assert await store.load([]) == {}
        assert [*await store.of_user("ann", "", 10)] == []
        await store.forget([of])
        await store.forget([])
        await store.merge([])

    async def test_what_was_written_is_read_by_everybody(self, store: MarkerStore, other: MarkerStore) -> None:
        record = Record(2**31, 2**53 - 1, 2**53 - 1, "epoch", 2**53 - 1, '{"archived":true}')
        await store.merge([(Of("ann", CHANNEL), record), (Of("ann", ""), Record(version=1, settings="{}"))])
        for one in (store, other):
            wanted = [Of("ann", CHANNEL), Of("ann", ""), Of("bob", CHANNEL), Of("ann", "conv:g.other")]
            assert await one.load(wanted) == {
                Of("ann", CHANNEL): record,
                Of("ann", ""): Record(version=1, settings="{}"),
            }

    async def test_an_old_write_that_comes_late_changes_nothing(self, store: MarkerStore, other: MarkerStore) -> None:
        of = Of("ann", CHANNEL)
        await store.merge([(of, Record(1, 4, 20, "epoch", 7, '{"archived":true}'))])
        await other.merge([(of, Record(0, 20, 20, "epoch", 6, "{}"))])
        assert await store.load([of]) == {of: Record(1, 4, 20, "epoch", 7, '{"archived":true}')}

    async def test_parts_of_both_are_kept(self, store: MarkerStore, other: MarkerStore) -> None:
        of = Of("ann", CHANNEL)
        await store.merge([(of, Record(0, 9, 9, "epoch"))])
        await other.merge([(of, Record(0, 7, 12, "epoch", 3, '{"archived":true}'))])
        assert await store.load([of]) == {of: Record(0, 9, 12, "epoch", 3, '{"archived":true}')}

    async def test_the_same_twice_in_one_write_is_merged(self, store: MarkerStore) -> None:
        of = Of("ann", CHANNEL)
        await store.merge([(of, Record(0, 9, 9, "epoch")), (of, Record(0, 7, 12, "epoch"))])
        assert await store.load([of]) == {of: Record(0, 9, 12, "epoch")}

    async def test_a_users_records_are_listed_by_channel(self, store: MarkerStore) -> None:
        channels = [f"conv:g.{number:03}" for number in range(7)]
        for user in ("ann", "anna"):
            await store.merge([(Of(user, channel), Record(0, 1, 1, user)) for channel in reversed(channels)])
        await store.merge([(Of("ann", ""), Record(version=1, settings="{}"))])
        listed: list[str] = []
        while found := await store.of_user("ann", listed[-1] if listed else "", 3):
            assert {record for _, record in found} == {Record(0, 1, 1, "ann")}
            listed += [channel for channel, _ in found]
        assert listed == channels

    async def test_what_is_forgotten_is_gone(self, store: MarkerStore, other: MarkerStore) -> None:
        both = [Of("ann", CHANNEL), Of("bob", CHANNEL)]
        await store.merge([(of, Record(3, 9, 9, "epoch")) for of in both])
        await other.forget([both[0], both[0], Of("ann", "never there")])
        assert await store.load(both) == {both[1]: Record(3, 9, 9, "epoch")}
        await store.merge([(both[0], Record(0, 1, 1, "epoch"))])
        assert await other.load(both[:1]) == {both[0]: Record(0, 1, 1, "epoch")}

    async def test_users_may_have_any_name(self, store: MarkerStore) -> None:
        records = {Of(user, CHANNEL): Record(0, number + 1, 0, "epoch") for number, user in enumerate(ODD)}
        await store.merge([*records.items()])
        assert await store.load(list(records)) == records
        for of, record in records.items():
            assert [*await store.of_user(of.user, "", 10)] == [(CHANNEL, record)]

    async def test_more_than_one_request_takes(self, store: MarkerStore) -> None:
        records = {Of(f"user{number}", CHANNEL): Record(0, number + 1, 0, "epoch") for number in range(130)}
        await store.merge([*records.items()])
        assert await store.load(list(records)) == records
        await store.forget(list(records))
        assert await store.load(list(records)) == {}

    async def test_several_write_the_same_at_once(self, store: MarkerStore, other: MarkerStore) -> None:
        of, both = Of("ann", CHANNEL), [store, other]
        records = [Record(number % 3, number, 30 - number, "epoch", number, f"{{{number}}}") for number in range(1, 13)]
        await asyncio.gather(*(both[number % 2].merge([(of, record)]) for number, record in enumerate(records)))
        assert await store.load([of]) == {of: Record(2, 11, 29, "epoch", 12, "{12}")}

    @pytest.mark.parametrize("seed", [1, 2, 3])
    async def test_it_is_the_model(self, seed: int, store: MarkerStore, other: MarkerStore) -> None:
        chance, model = random.Random(seed), MemoryMarkerStore()
        wanted = [Of(user, channel) for user in ("ann", "bob") for channel in ("", CHANNEL, "conv:o.x")]
        for step in range(self.steps):
            one = chance.choice([store, other])
            if chance.random() < 0.1:
                some = chance.sample(wanted, chance.randrange(3))
                await model.forget(some)
                await one.forget(some)
            else:
                some_records = [(chance.choice(wanted), any_record(chance)) for _ in range(chance.choice([1, 1, 3]))]
                await model.merge(some_records)
                await one.merge(some_records)
            assert await chance.choice([store, other]).load(wanted) == model.kept, f"seed {seed}, step {step}"


class TestMemoryMarkerStore(MarkerStoreContract):
    @pytest.fixture
    def make(self) -> Make:
        kept = MemoryMarkerStore()
        return lambda: kept


class TestSqliteMarkerStore(MarkerStoreContract):
    @pytest.fixture
    async def make(self, tmp_path: Path) -> AsyncIterator[Make]:
        made: list[SqliteLogStore] = []

        def make() -> MarkerStore:
            made.append(SqliteLogStore(tmp_path / "log.sqlite3"))
            return SqliteMarkerStore(made[-1].database)

        yield make
        for one in made:
            await one.close()


class TestDynamoDbMarkerStore(OnDynamoDb, MarkerStoreContract):
    steps = 50

    @pytest.fixture
    def make(self, connect: Connect, settings: DynamoDbSettings) -> Make:
        return lambda: DynamoDbMarkerStore(connect(), settings.chat_table, deadline_s=PATIENCE_S)


class TestDynamoDbLocalMarkerStore(OnDynamoDbLocal, TestDynamoDbMarkerStore):
    """In a container, where an engine runs."""
