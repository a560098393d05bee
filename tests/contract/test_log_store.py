"""What every `LogStore` promises: SQLite and DynamoDB.

DynamoDB is moto's server, and dynamodb-local where its image is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from services.persistence.adapters import sqlite_store
from services.persistence.adapters.dynamodb import chain, retained
from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.ports import (
    ChannelState,
    CountedRow,
    Extent,
    Heartbeat,
    KnownKey,
    LogStore,
    Row,
    Written,
)
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.hotlog.keys import pair
from services.shared.incarnation.calls import Known
from services.shared.namespaces import Durability, Namespace, Namespaces
from tests.support.counts import counts_of
from tests.support.dynamodb_tables import PATIENCE_S, Connect, OnDynamoDb, OnDynamoDbLocal

CHANNEL = "chat:contract#1"  # a name that looks like the end of a partition key
BUCKET = 7  # small, so that ends of buckets are everywhere
SEEDS = [1, 2, 3]


class Clock:
    """Unix seconds that stand still."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


Make = Callable[[], LogStore]


def row(offset: int, tag: str = "a", channel: str = CHANNEL) -> Row:
    """The publication that stands there, if `tag` wrote it."""
    text = f"{channel} {tag} {offset}"
    return Row(channel, offset, hashlib.md5(text.encode()).digest(), text.encode(), pair("ann:b", f"{tag}{offset}"))


def rows(first: int, last: int, tag: str = "a", channel: str = CHANNEL) -> list[Row]:
    return [row(offset, tag, channel) for offset in range(first, last + 1)]


def of_epoch(some: Sequence[Row], epoch: str) -> list[Row]:
    return [one._replace(epoch=epoch) for one in some]


def pages(wanted: Sequence[Row]) -> list[tuple[int, bytes]]:
    return [(one.offset, one.publication) for one in wanted]


async def everything(store: LogStore, channel: str = CHANNEL) -> list[tuple[int, bytes]]:
    return await store.read(channel, since_offset=0, upto=1 << 20, limit=1 << 20, reverse=False)


async def written(store: LogStore, what: Sequence[Row]) -> Written:
    outcome = (await store.write(what))[what[0].channel]
    assert isinstance(outcome, Written), outcome
    return outcome


async def finish_removals(store: LogStore) -> None:
    for removal in await store.removals():
        assert removal.is_due
        await store.finish_removal(removal)


def counted(flags: Sequence[int], chance: random.Random) -> list[Row]:
    """Rows with these flags; some without are of a version of before."""
    found = []
    for one, (n, mv), each in zip(rows(1, len(flags)), counts_of(flags), flags, strict=True):
        is_known = each or chance.random() < 0.6
        found.append(one._replace(flags=each, n=n, mv=mv) if is_known else one)
    return found


class LogStoreContract:
    """`make` gives another object on the same data, as another process would have it."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    async def store(self, make: Make) -> LogStore:
        made = make()
        await made.open(CHANNEL)
        return made

    async def test_a_restored_store_has_other_epochs_and_what_it_had(self, make: Make) -> None:
        one, other = make(), make()
        before = await one.open(CHANNEL)
        await written(one, rows(1, 3))
        seen = await one.heartbeat()
        await one.begin_new_epochs(seen._replace(counter=70))
        await other.begin_new_epochs(seen)  # another process that has found the same
        after = await one.heartbeat()
        assert (after.store, after.counter) == (seen.store, 70)
        assert after.restored != seen.restored
        assert await other.heartbeat() == after
        for store in (one, other):
            found = await store.open(CHANNEL)
            assert (found.epoch != before.epoch, found.top) == (True, 3)
        new = f"{CHANNEL} that begins later"
        assert (await one.open(new)).epoch == (await other.open(new)).epoch
        await one.begin_new_epochs(after)
        assert (await one.heartbeat()).restored not in (after.restored, seen.restored)
        assert await everything(one) == pages(rows(1, 3))
        assert await written(one, rows(4, 4)) == Written(4, False)

    async def test_what_redis_had_at_an_orderly_end_is_told_once_and_not_once_anybody_counted_on(
        self, make: Make
    ) -> None:
        one, other = make(), make()
        name = (await one.heartbeat()).store
        known = Known(3, 70, 1_700_000_000_123)
        await one.keep_heartbeat(Heartbeat(10, 3, name))
        assert await one.pop_orderly_end(await one.heartbeat()) is None
        await one.keep_orderly_end(Heartbeat(12, 3, name), known)
        kept = await other.heartbeat()
        assert (kept.counter, kept.generation) == (12, 3)
        assert await other.pop_orderly_end(kept) == known
        assert await one.pop_orderly_end(kept) is None
        await one.keep_orderly_end(Heartbeat(14, 3, name), known)
        await other.keep_heartbeat(Heartbeat(15, 3, name))
        assert await other.pop_orderly_end(await other.heartbeat()) is None
        await one.keep_orderly_end(Heartbeat(14, 3, name), known)
        assert await one.pop_orderly_end(await one.heartbeat()) is None, "somebody went on"

    async def test_a_new_channel_gets_one_epoch_whoever_opens_it(self, make: Make) -> None:
        states = await asyncio.gather(*(make().open(CHANNEL) for _ in range(4)))
        assert {state.top for state in states} == {0}
        assert len({state.epoch for state in states}) == 1
        assert states[0].epoch
        assert await everything(make()) == []

    async def test_to_ask_whether_a_channel_has_begun_begins_none(self, store: LogStore, make: Make) -> None:
        assert await make().has_begun(CHANNEL)
        for one in (store, make()):
            assert not await one.has_begun("chat:nobody")

    async def test_all_channels_that_were_opened_can_be_listed(
        self, store: LogStore, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_store, "_CHANNELS_AT_ONCE", 7)
        names = {f"chat:{number:03}" for number in range(30)}
        monkeypatch.setattr(chain, "_SCANNED_AT_ONCE", 7)
        await asyncio.gather(*map(store.open, names))
        found, cursor = await make().channels("")
        while cursor:
            some, cursor = await make().channels(cursor)
            found += some
        assert sorted(found) == sorted({*names, CHANNEL})

    async def test_channels_with_retention_are_found_whenever_they_began(
        self, store: LogStore, make: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_store, "_CHANNELS_AT_ONCE", 7)
        monkeypatch.setattr(chain, "_SCANNED_AT_ONCE", 7)
        monkeypatch.setattr(retained, "_PAGE", 7)
        kept = Namespaces(None, {"kept": Namespace(name="kept", durability=Durability.STORED, retention_days=1)})
        wanted = {f"kept:{number:03}" for number in range(20)}
        for name in (*wanted, "chat:1"):
            await store.open(name)
        other = make()
        for later in range(3):
            await other.retain(f"kept:later{later}")
            await other.open(f"kept:later{later}")
            wanted.add(f"kept:later{later}")
            found, cursor = await other.retained("", kept)
            while cursor:
                some, cursor = await other.retained(cursor, kept)
                found += some
            clock.now += 3_601
            assert {one for one in found if one.startswith("kept:")} == wanted

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_what_the_log_has_and_since_when_is_known(
        self, store: LogStore, make: Make, clock: Clock, seed: int
    ) -> None:
        chance, at, top = random.Random(seed), dict[int, float](), 0
        assert await store.extent(CHANNEL) == Extent(0, 0)
        for _ in range(12):
            more = chance.randint(1, 5)
            await written(store, rows(top + 1, top + more))
            at |= dict.fromkeys(range(top + 1, top + more + 1), clock.now)
            top, clock.now = top + more, clock.now + chance.randint(1, 9)
        removed, other = chance.randint(1, top), make()
        await store.begin_removal(CHANNEL, removed)
        assert await other.extent(CHANNEL) == Extent(removed, top)
        clock.now += 301
        await finish_removals(other)
        assert await store.extent(CHANNEL) == Extent(removed, top)
        for offset in range(removed + 1, top + 1):
            found = await other.stored_at(CHANNEL, offset)
            assert found is not None
            assert found.first <= offset <= found.last
            assert {at[one] for one in range(found.first, found.last + 1)} == {found.at}
        assert await store.stored_at(CHANNEL, top + 1) is None
        for _ in range(20):
            low, time = chance.randint(removed + 1, top + 1), chance.choice([*at.values(), clock.now])
            high = chance.randint(low, top + 1)
            wanted = next((one for one in range(low, high + 1) if one in at and at[one] >= time), None)
            assert await other.first_since(CHANNEL, low, high, time) == wanted
        assert await other.extent("kept:nobody") == Extent(0, 0)
        assert not await other.has_begun("kept:nobody")

    async def test_another_channel_has_another_epoch(self, store: LogStore) -> None:
        assert (await store.open("chat:one")).epoch != (await store.open("chat:two")).epoch

    async def test_a_noted_generation_only_goes_up_and_an_epoch_is_renewed_once(
        self, store: LogStore, make: Make
    ) -> None:
        first = await store.open(CHANNEL)
        other = make()
        assert first.queued_in == 0
        await written(store, rows(1, 3))
        await store.note_queued(CHANNEL, 5)
        await other.note_queued(CHANNEL, 4)
        noted = await store.open(CHANNEL)
        assert (noted.queued_in, noted.epoch) == (5, first.epoch)
        await store.renew_epoch(CHANNEL, noted, 4)  # whoever is behind renews nothing
        assert await store.open(CHANNEL) == noted
        await asyncio.gather(store.renew_epoch(CHANNEL, noted, 6), other.renew_epoch(CHANNEL, noted, 6))
        renewed = await other.open(CHANNEL)
        assert (renewed.queued_in, renewed.top, renewed.epoch == first.epoch) == (6, 3, False)
        await store.renew_epoch(CHANNEL, noted, 6)  # it has another epoch meanwhile
        assert await store.open(CHANNEL) == renewed
        assert (await store.open("chat:another")).queued_in == 0

    async def test_a_noted_generation_is_forgotten_with_the_epoch_unless_somebody_has_noted_another(
        self, store: LogStore, make: Make
    ) -> None:
        other = make()
        await store.open(CHANNEL)
        await store.note_queued(CHANNEL, 5)
        noted = await store.open(CHANNEL)
        await store.renew_epoch(CHANNEL, noted, 4, forget=True)  # whoever is behind renews nothing
        assert await store.open(CHANNEL) == noted
        await other.note_queued(CHANNEL, 6)  # something may have been acknowledged in 6
        await store.renew_epoch(CHANNEL, noted, 6, forget=True)
        newer = await store.open(CHANNEL)
        assert (newer.epoch, newer.queued_in) == (noted.epoch, 6)
        await asyncio.gather(*(one.renew_epoch(CHANNEL, newer, 7, forget=True) for one in (store, other)))
        renewed = await other.open(CHANNEL)
        assert (renewed.queued_in, renewed.epoch == newer.epoch) == (0, False)
        await store.note_queued(CHANNEL, 7)
        assert await other.open(CHANNEL) == renewed._replace(queued_in=7)

    async def test_rows_of_an_epoch_that_is_over_take_no_place(self, store: LogStore, make: Make) -> None:
        other, before = make(), (await store.open(CHANNEL)).epoch
        await written(store, of_epoch(rows(1, 3), before))
        await store.renew_epoch(CHANNEL, await store.open(CHANNEL), 5)
        late = await written(other, of_epoch(rows(3, 5), before))
        assert late == Written(3, True, is_stale=True)
        assert await written(other, of_epoch(rows(1, 3), before)) == Written(3, False), "they are there"
        now = (await other.open(CHANNEL)).epoch
        assert await written(other, of_epoch(rows(4, 4, "b"), now)) == Written(4, False)
        assert (await written(store, of_epoch(rows(4, 5), before))).conflict
        await store.begin_new_epochs(await store.heartbeat())
        await other.heartbeat()
        for one in (store, other):
            assert (await written(one, of_epoch(rows(5, 5), now))).is_stale
        restored = (await other.open(CHANNEL)).epoch
        assert await written(other, of_epoch(rows(5, 230, "b"), restored)) == Written(230, False)
        assert await everything(store) == pages([*rows(1, 3), *rows(4, 230, "b")])

    async def test_an_epoch_that_changes_meanwhile_is_over_for_the_rest_of_the_rows(self, store: LogStore) -> None:
        """The write or the change is first: rows are stored from the first one on."""
        before = await store.open(CHANNEL)
        many = [row(offset)._replace(epoch=before.epoch) for offset in range(1, 1_001)]
        outcome, _ = await asyncio.gather(store.write(many), store.renew_epoch(CHANNEL, before, 5))
        found = outcome[CHANNEL]
        assert isinstance(found, Written)
        assert found.is_stale == (found.top < 1_000)
        assert await everything(store) == pages(many[: found.top])

    async def test_ids_are_read_page_by_page(self, store: LogStore, make: Make) -> None:
        await written(store, rows(1, 40))
        wanted = [(one.offset, one.publication_id) for one in rows(1, 40)]
        assert await make().ids(CHANNEL, since_offset=0, upto=99, limit=99) == wanted
        assert await store.ids(CHANNEL, since_offset=5, upto=30, limit=99) == wanted[5:30]
        assert await store.ids(CHANNEL, since_offset=5, upto=30, limit=9) == wanted[5:14]
        assert await store.ids("chat:nobody", since_offset=0, upto=30, limit=9) == []

    async def test_what_is_written_is_read_and_is_the_top(self, store: LogStore, make: Make) -> None:
        epoch = (await store.open(CHANNEL)).epoch
        assert await written(store, rows(1, 3)) == Written(3, False)
        assert await written(store, rows(4, 17)) == Written(17, False)
        for one in (store, make()):
            assert await everything(one) == pages(rows(1, 17))
            assert await one.open(CHANNEL) == ChannelState(epoch, 17)

    async def test_channels_of_one_write_have_an_outcome_each(self, store: LogStore) -> None:
        names = [f"chat:{number}" for number in range(5)]
        for name in names[:4]:
            await store.open(name)
        mixed = [row(offset, "a", name) for offset in (1, 2) for name in names]
        outcome = await store.write(mixed)
        assert outcome == {**dict.fromkeys(names[:4], Written(2, False)), names[4]: Written(0, True)}
        for name in names[:4]:
            assert await everything(store, name) == pages(rows(1, 2, "a", name))
        assert await everything(store, names[4]) == []

    async def test_names_that_begin_alike_are_different_channels(self, store: LogStore) -> None:
        names = ["chat:a", "chat:a#0", "chat:a#0#0", "c#chat:a"]
        for name in names:
            await store.open(name)
            await written(store, rows(1, 9, "a", name))
        for name in names:
            assert await everything(store, name) == pages(rows(1, 9, "a", name))

    @pytest.mark.parametrize("portions", [[(1, 10)], [(1, 4), (5, 8), (9, 10)], [(4, 6)], [(10, 12)], [(6, 25)]])
    async def test_a_repeated_write_is_success_in_whatever_portions(
        self, store: LogStore, make: Make, portions: list[tuple[int, int]]
    ) -> None:
        await written(store, rows(1, 10))
        for other in (store, make()):
            for first, last in portions:
                assert not (await written(other, rows(first, last))).conflict
        assert await everything(store) == pages(rows(1, max(10, portions[-1][1])))

    async def test_a_place_within_a_portion_that_is_there_is_a_conflict_however_large_the_rows_are(
        self, store: LogStore, make: Make
    ) -> None:
        """What is there may hold more rows than one portion of ours: each of them counts."""
        await written(store, rows(1, 1))
        await written(make(), rows(2, 4))
        large = Row(CHANNEL, 4, b"another".ljust(16), b"x" * 310_000, pair("ann", "large"))
        assert (await written(store, [*rows(2, 3), large])).conflict
        assert await everything(store) == pages(rows(1, 4))

    @pytest.mark.parametrize("place", [1, 5, 7, 8, 10])
    async def test_another_publication_at_a_taken_place_is_a_conflict(
        self, store: LogStore, make: Make, place: int
    ) -> None:
        await store.open("chat:other")
        await written(store, rows(1, 10))
        for other in (store, make()):
            mine = [*rows(max(1, place - 2), place - 1), *rows(place, 20, "b")]
            outcome = await other.write([*mine, *rows(1, 2, "a", "chat:other")])
            assert outcome[CHANNEL] == Written(10, True)
            assert outcome["chat:other"] == Written(2, False)
        assert await everything(store) == pages(rows(1, 10))

    async def test_a_writer_that_was_overtaken_does_not_overwrite(self, store: LogStore, make: Make) -> None:
        other = make()
        await written(store, rows(1, 3))
        await written(other, rows(4, 9))
        outcome = await written(store, rows(4, 5, "b"))  # it has seen no more than 3
        assert outcome.conflict
        assert await everything(store) == pages(rows(1, 9))
        assert await written(store, rows(10, 12)) == Written(12, False)

    async def test_a_hole_is_refused(self, store: LogStore) -> None:
        assert await written(store, rows(2, 3)) == Written(0, True)
        await written(store, rows(1, 9))
        assert await written(store, rows(11, 12)) == Written(9, True)
        assert await everything(store) == pages(rows(1, 9))

    @pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 9, 2), (23,)])
    async def test_pages_over_the_ends_of_buckets_both_ways(self, store: LogStore, sizes: tuple[int, ...]) -> None:
        top = 0
        while top < 23:
            for size in sizes:
                await written(store, rows(top + 1, top + size))
                top += size
        for since in (0, 1, 6, 7, 8, 13, 14, 22, 30):
            for limit, upto in ((1, 23), (5, 23), (100, 16)):
                found = await store.read(CHANNEL, since_offset=since, upto=upto, limit=limit, reverse=False)
                assert found == pages(rows(since + 1, upto))[:limit]
                newest = min(since - 1, upto) if since else upto
                found = await store.read(CHANNEL, since_offset=since, upto=upto, limit=limit, reverse=True)
                assert found == pages(rows(1, newest))[::-1][:limit]

    @pytest.mark.parametrize("is_finished", [False, True])
    @pytest.mark.parametrize("upto", [1, 6, 7, 8, 15, 16, 40])
    async def test_removed_publications_are_gone_and_epoch_and_top_stay(
        self, store: LogStore, make: Make, clock: Clock, upto: int, is_finished: bool
    ) -> None:
        for first in range(1, 17, 4):
            await written(store, rows(first, first + 3))
        before = await store.open(CHANNEL)
        other = make()
        await other.begin_removal(CHANNEL, upto)
        await other.begin_removal(CHANNEL, upto)
        if is_finished:
            clock.now += 301
            await finish_removals(make())
        for one in (store, make()):
            assert await one.open(CHANNEL) == before._replace(removed=min(upto, 16))
            assert await everything(one) == pages(rows(upto + 1, 16))
            newest = await one.read(CHANNEL, since_offset=0, upto=16, limit=3, reverse=True)
            assert newest == pages(rows(upto + 1, 16))[::-1][:3]
        assert await written(store, rows(17, 19)) == Written(19, False)
        await store.begin_removal(CHANNEL, 17)
        assert await everything(store) == pages(rows(18, 19))
        assert (await store.open(CHANNEL)).top == 19

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_a_read_ends_where_its_bytes_are_reached(self, store: LogStore, reverse: bool) -> None:
        await written(store, [one._replace(publication=b"x" * 10) for one in rows(1, 30)])
        for max_bytes, expected in ((1, 1), (10, 1), (11, 2), (95, 10), (1_000, 30)):
            found = await store.read(CHANNEL, since_offset=0, upto=30, limit=100, reverse=reverse, max_bytes=max_bytes)
            offsets = range(30, 0, -1) if reverse else range(1, 31)
            assert [offset for offset, _ in found] == list(offsets)[:expected]

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("plain", [0, 9], ids=["from the first on", "behind others"])
    async def test_what_rows_count_is_read_with_them_and_known_at_the_top(
        self, store: LogStore, make: Make, seed: int, plain: int
    ) -> None:
        print(f"seed {seed}")
        chance = random.Random(seed)
        flags = [0] * plain + [chance.choice([0, 0, 0, 1, 1, 2, 3, 4, 7]) for _ in range(24)]
        all_of_it, top = counted(flags, chance), 0
        wanted = [
            CountedRow(one.offset, one.publication, each, n, mv)
            for one, each, (n, mv) in zip(all_of_it, flags, counts_of(flags), strict=True)
        ]
        while top < len(flags):
            until = min(len(flags), top + chance.randint(1, 9))
            await written(chance.choice([store, make()]), all_of_it[max(0, top - chance.randint(0, 2)) : until])
            top = until
            state = await make().open(CHANNEL)
            assert (state.top, state.n, state.mv) == (top, wanted[top - 1].n, wanted[top - 1].mv)
        for _ in range(20):
            since, limit, reverse = chance.randint(0, top), chance.randint(1, top), chance.random() < 0.5
            window = wanted[: (since or top + 1) - 1][::-1] if reverse else wanted[since:]
            found = await store.read_counted(CHANNEL, since_offset=since, upto=top, limit=limit, reverse=reverse)
            assert found == window[:limit]

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_a_removal_leaves_what_was_counted(
        self, store: LogStore, make: Make, clock: Clock, seed: int
    ) -> None:
        print(f"seed {seed}")
        chance = random.Random(seed)
        flags = [chance.choice([0, 1, 2, 3]) for _ in range(20)] + [0, 0]
        all_of_it = counted(flags, chance)
        await written(store, all_of_it)
        for upto in (chance.randint(1, 21), 22):
            await store.begin_removal(CHANNEL, upto)
            clock.now += 301
            await finish_removals(make())
            found = await make().open(CHANNEL)
            assert (found.n, found.mv) == counts_of(flags)[-1]
            left = await store.read_counted(CHANNEL, since_offset=0, upto=22, limit=99, reverse=False)
            assert [(one.flags, one.n, one.mv) for one in left] == [
                (each, *counts) for each, counts in zip(flags, counts_of(flags), strict=True)
            ][upto:]
        more = [one._replace(flags=1, n=found.n + 1, mv=found.mv) for one in rows(23, 23)]
        await written(make(), more)
        assert (await store.open(CHANNEL)).n == found.n + 1

    async def test_rows_of_before_count_nothing(self, store: LogStore) -> None:
        await written(store, rows(1, 9))
        assert (await store.open(CHANNEL))[3:5] == (0, 0)
        found = await store.read_counted(CHANNEL, since_offset=0, upto=9, limit=99, reverse=False)
        assert [one[2:] for one in found] == [(0, 0, 0)] * 9

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_erasing_puts_others_in_their_places_and_leaves_all_else(
        self, store: LogStore, make: Make, seed: int
    ) -> None:
        print(f"seed {seed}")
        chance = random.Random(seed)
        flags = [chance.choice([0, 1, 2, 3, 4]) for _ in range(30)]
        all_of_it, top = counted(flags, chance), 0
        while top < 30:
            until = min(30, top + chance.randint(1, 9))
            await written(store, all_of_it[top:until])
            top = until
        before = await store.read_counted(CHANNEL, since_offset=0, upto=30, limit=99, reverse=False)
        keys, state, expected = await store.recent_keys(CHANNEL, 300), await store.open(CHANNEL), dict(pages(all_of_it))
        for number in (1, 2, 3):
            gone = {offset: f"gone {number} {offset}".encode() for offset in chance.sample(range(1, 31), 4)}
            expected |= gone
            assert await make().erase(CHANNEL, gone) == number
            assert await everything(make()) == sorted(expected.items())
        wanted = [one._replace(publication=expected[one.offset]) for one in before]
        for reverse in (False, True):
            found = await make().read_counted(CHANNEL, since_offset=0, upto=30, limit=99, reverse=reverse)
            assert (found[::-1] if reverse else found) == wanted
        assert await make().recent_keys(CHANNEL, 300) == keys
        assert await make().open(CHANNEL) == state._replace(erasures=3)

    async def test_a_former_row_written_again_is_a_success_and_brings_nothing_back(
        self, store: LogStore, make: Make
    ) -> None:
        """C38: an old replica, or one whose response was lost, repeats its write."""
        await written(store, rows(1, 10))
        gone = {3: b"gone", 8: b"gone too"}
        await make().erase(CHANNEL, gone)
        for one in (store, make()):
            assert await written(one, rows(2, 12)) == Written(12, False)
            assert await everything(one) == sorted((dict(pages(rows(1, 12))) | gone).items())
            assert (await written(one, rows(3, 3, "b"))).conflict, "the id is that of the former one"

    async def test_what_is_not_stored_or_removed_is_not_erased(self, store: LogStore, make: Make, clock: Clock) -> None:
        await store.erase("chat:never", {1: b"no"})
        assert not await make().has_begun("chat:never")
        await written(store, rows(1, 9))
        await store.erase(CHANNEL, {9: b"gone", 10: b"no", 9_000: b"no"})
        assert await everything(store) == [*pages(rows(1, 8)), (9, b"gone")]
        assert await written(make(), rows(10, 10)) == Written(10, False)
        await store.begin_removal(CHANNEL, 7)
        clock.now += 301
        await finish_removals(make())
        await store.erase(CHANNEL, {2: b"no", 8: b"gone"})
        assert await everything(make()) == [(8, b"gone"), (9, b"gone"), *pages(rows(10, 10))]

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_erasers_writers_and_a_removal_at_once_lose_none_of_their_work(
        self, store: LogStore, make: Make, clock: Clock, seed: int
    ) -> None:
        print(f"seed {seed}")
        chance = random.Random(seed)
        await written(store, rows(1, 20))
        await store.begin_removal(CHANNEL, 7)
        clock.now += 301
        gone = {offset: f"gone {offset}".encode() for offset in chance.sample(range(1, 21), 9)}
        shares = [dict(list(gone.items())[start::3]) for start in range(3)]

        async def eraser(one: LogStore, share: dict[int, bytes]) -> None:
            await asyncio.sleep(chance.uniform(0, 0.005))
            await one.erase(CHANNEL, share)

        async def writer(one: LogStore) -> None:
            for first in range(1, 24, 7):
                assert not (await written(one, rows(max(8, first - 2), first + 8))).conflict

        erasers = (eraser(make(), share) for share in shares)
        await asyncio.gather(*erasers, writer(make()), finish_removals(make()))
        expected = dict(pages(rows(1, 30))) | gone
        assert await everything(make()) == sorted(expected.items())[7:]
        assert (await make().open(CHANNEL)).erasures == 3

    async def test_nothing_is_removed_of_a_channel_without_publications(self, store: LogStore) -> None:
        await store.begin_removal(CHANNEL, 5)
        await store.begin_removal("chat:never", 5)
        await written(store, rows(1, 3))
        assert await everything(store) == pages(rows(1, 3))

    async def test_keys_of_what_was_removed_are_known_as_long_as_they_count(
        self, store: LogStore, make: Make, clock: Clock
    ) -> None:
        await written(store, rows(1, 5))
        clock.now += 100
        await written(store, rows(6, 9))
        await store.begin_removal(CHANNEL, 9)
        for age_s, first in ((0, 1), (199, 1), (200, 6), (299, 6)):
            clock.now = Clock().now + 100 + age_s
            assert not any(removal.is_due for removal in await make().removals())
            known = await make().recent_keys(CHANNEL, 300)
            assert [one.offset for one in known] == list(range(9, first - 1, -1)), age_s
        clock.now += 2
        assert await store.recent_keys(CHANNEL, 300) == []
        assert [removal.is_due for removal in await make().removals()] == [True]

    async def test_a_removal_is_told_until_it_is_finished_by_whomever(
        self, store: LogStore, make: Make, clock: Clock
    ) -> None:
        await store.open("chat:other")
        await written(store, rows(1, 20))
        await written(store, rows(1, 3, "a", "chat:other"))
        await store.begin_removal(CHANNEL, 12)
        clock.now += 1
        await make().begin_removal("chat:other", 3)
        clock.now += 299.5
        found = await make().removals()
        assert [(one.channel, one.upto, one.is_due) for one in found] == [
            (CHANNEL, 12, True),
            ("chat:other", 3, False),
        ]
        await make().finish_removal(found[0])
        await make().finish_removal(found[0])  # two replicas at it
        assert [one.channel for one in await store.removals()] == ["chat:other"]
        assert await everything(store) == pages(rows(13, 20))
        assert await written(store, rows(19, 22)) == Written(22, False)

    async def test_keys_are_known_as_long_as_they_count(self, store: LogStore, clock: Clock) -> None:
        assert await store.recent_keys(CHANNEL, 300) == []
        await written(store, rows(1, 5))
        clock.now += 200
        await written(store, rows(6, 9))
        clock.now += 50
        expected = [KnownKey("ann:b", f"a{offset}", offset, 250 if offset > 5 else 50) for offset in range(9, 0, -1)]
        assert await store.recent_keys(CHANNEL, 300) == expected
        clock.now += 50
        assert await store.recent_keys(CHANNEL, 300) == [known._replace(ttl_s=200) for known in expected[:4]]
        assert await store.recent_keys("chat:never", 300) == []

    async def test_the_heartbeat_keeps_the_greater_of_each_number(self, store: LogStore, make: Make) -> None:
        name = (await store.heartbeat()).store
        assert name
        assert await store.heartbeat() == Heartbeat(0, 0, name)
        other = make()
        for one, heartbeat in (
            (store, Heartbeat(5, 1)),
            (other, Heartbeat(3, 2)),
            (store, Heartbeat(4, 1)),
            (other, Heartbeat(6, 0)),
        ):
            await one.keep_heartbeat(heartbeat)
        assert await store.heartbeat() == await other.heartbeat() == Heartbeat(6, 2, name)

    async def test_a_new_store_gets_one_name_whoever_asks(self, make: Make) -> None:
        assert (
            len({heartbeat.store for heartbeat in await asyncio.gather(*(make().heartbeat() for _ in range(4)))}) == 1
        )

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_replicas_that_store_the_same_at_once_store_it_once(
        self, store: LogStore, make: Make, seed: int
    ) -> None:
        """What Redis numbered several replicas may write, in overlapping portions.

        The next append, and sweeps.
        """
        print(f"seed {seed}")
        chance = random.Random(seed)

        async def replica(one: LogStore, portions: list[tuple[int, int]]) -> None:
            for first, last in portions:
                await asyncio.sleep(chance.uniform(0, 0.003))
                assert not (await written(one, rows(first, last))).conflict

        def portions() -> list[tuple[int, int]]:
            found, top = [], 0
            while top < 40:
                first, top = chance.randint(max(1, top - 5), top + 1), min(40, top + chance.randint(1, 9))
                found.append((first, top))
            return found

        await asyncio.gather(*(replica(one, portions()) for one in (store, make(), make())))
        assert await everything(make()) == pages(rows(1, 40))

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_replicas_that_believe_in_different_histories_agree_on_one(
        self, store: LogStore, make: Make, seed: int
    ) -> None:
        """Each numbers its publications from what it believes to be the top.

        A conflict tells it better.
        """
        print(f"seed {seed}")
        chance = random.Random(seed)

        async def replica(one: LogStore, tag: str) -> None:
            left = [row(number, tag) for number in range(1, 16)]
            top = 0
            while left:
                await asyncio.sleep(chance.uniform(0, 0.003))
                mine = left[: chance.randint(1, 9)]
                numbered = [
                    Row(CHANNEL, top + 1 + index, this.publication_id, this.publication, this.key)
                    for index, this in enumerate(mine)
                ]
                if (await written(one, numbered)).conflict:
                    top = (await one.open(CHANNEL)).top
                    there = {publication for _, publication in await everything(one)}
                    left = [this for this in left if this.publication not in there]
                else:
                    top += len(mine)
                    left = left[len(mine) :]

        tags = ("a", "b", "c")
        await asyncio.gather(*(replica(one, tag) for one, tag in zip((store, make(), make()), tags, strict=True)))
        found = await everything(make())
        assert [offset for offset, _ in found] == list(range(1, 46))
        for tag in tags:
            mine = [publication for _, publication in found if f" {tag} ".encode() in publication]
            assert mine == [row(number, tag).publication for number in range(1, 16)]


class TestSqliteLogStore(LogStoreContract):
    @pytest.fixture
    async def make(self, tmp_path: Path, clock: Clock) -> AsyncIterator[Make]:
        made: list[SqliteLogStore] = []

        def make() -> LogStore:
            made.append(SqliteLogStore(tmp_path / "log.sqlite3", clock=clock))
            return made[-1]

        yield make
        for one in made:
            await one.close()


class TestDynamoDbLogStore(OnDynamoDb, LogStoreContract):
    @pytest.fixture
    def make(self, connect: Connect, settings: DynamoDbSettings, clock: Clock) -> Make:
        return lambda: DynamoDbLogStore(
            connect(),
            settings.log_table,
            bucket_offsets=BUCKET,
            clock=clock,
            deadline_s=PATIENCE_S,
            shared_deadline_s=PATIENCE_S,
        )


class TestDynamoDbLocalLogStore(OnDynamoDbLocal, TestDynamoDbLogStore):
    """In a container, where an engine runs."""
