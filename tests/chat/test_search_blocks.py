"""Blocks of the index in DynamoDB: cut off, by two at once, and at their limits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from services.persistence.chat.adapters.dynamodb.search import writing
from services.persistence.chat.adapters.dynamodb.search.bloom import Wanted, filter_of
from services.persistence.chat.adapters.dynamodb.search.index import DynamoDbSearchIndex
from services.persistence.chat.index.analyser import atoms_of
from services.persistence.chat.index.ports import Asked, Document, Scope, Update
from services.persistence.chat.index.query import author_tag, read_query
from services.shared.dynamodb.client import DynamoDb, item_of
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from tests.support.chat_dynamodb import db as db
from tests.support.chat_dynamodb import kept
from tests.support.dynamodb_dying import Dying
from tests.support.dynamodb_tables import PATIENCE_S
from tests.support.full import FULL, sized

CHANNEL = "conv:g.blocks"
Documents = Mapping[int, Document | None]


def index_of(db: DynamoDb, settings: DynamoDbSettings, **limits: int) -> DynamoDbSearchIndex:
    return DynamoDbSearchIndex(db, settings.chat_table, deadline_s=PATIENCE_S, long_deadline_s=PATIENCE_S, **limits)


def said(offset: int, text: str, author: str = "ann") -> Document:
    return Document(offset * 10, atoms_of(text), [author_tag(author)])


async def texts(index: DynamoDbSearchIndex, channel: str = CHANNEL) -> dict[int, set[str]]:
    """All that is found: offset → the words by which it is."""
    found: dict[int, set[str]] = {}
    for word in ("old", "new", "other"):
        hits = await index.find(Asked(read_query(word, ""), [Scope(channel, 0, 10**6)], 500))
        for place in hits.places:
            found.setdefault(place.offset, set()).add(word)
    return found


class Counting(DynamoDb):
    """Counts its requests, and the items that are written."""

    def __init__(self, settings: DynamoDbSettings) -> None:
        super().__init__(settings, deadline_s=PATIENCE_S)
        self.requests: list[str] = []

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.requests.append(op)
        return await super().call(op, **arguments)


async def begun(index: DynamoDbSearchIndex, channel: str, blocks: int) -> None:
    """Fill a conversation with blocks of four documents."""
    for top in range(0, 4 * blocks, 4):
        new = {offset: said(offset, "old") for offset in range(top + 1, top + 5)}
        assert await index.apply([Update(channel, top, top + 4, new)]) == [True]


@pytest.mark.parametrize("carried_out", [False, True])
async def test_an_update_cut_off_at_any_request_is_there_or_not(
    db: DynamoDb, settings: DynamoDbSettings, carried_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes several blocks by several transactions, seals a block and merges."""
    monkeypatch.setattr(writing, "_MERGED", 5)
    index = index_of(db, settings)
    changes: dict[int, Document | None] = {
        2: None,
        3: said(3, "new"),
        6: None,
        11: said(11, "new"),
        18: said(18, "new"),
    }
    before = {offset: {"old"} for offset in range(1, 17)}
    after = {**before, 3: {"new"}, 11: {"new"}, 18: {"new"}}
    del after[2], after[6]
    first = 1 if FULL else random.SystemRandom().randrange(1, 31)
    print(f"from request {first}")
    for at in itertools.count(first, sized(30, 1)):
        channel = f"{CHANNEL}-{at}"
        await begun(index, channel, 4)
        monkeypatch.setattr(writing, "_WRITES", 4)
        update = Update(channel, 16, 20, changes)
        dying = Dying(settings, at, carried_out, deadline_s=PATIENCE_S)
        with contextlib.suppress(Unavailable):
            await index_of(dying, settings).apply([update])
        has_died = dying.has_died
        await dying.close()
        found = await texts(index, channel)
        position = (await index.indexed([channel]))[channel]
        if position == 20:
            assert found == after
        else:
            assert position == 16
            assert all(found.get(at) in (before.get(at), after.get(at)) for at in range(1, 21))
            assert await index.apply([update]) == [True]
            assert await texts(index, channel) == after
        assert await index.offsets_upto(channel, 20, 100) == sorted(after)
        assert await index.apply([Update(channel, 20, 24, {22: said(22, "other")})]) == [True]
        assert await texts(index, channel) == {**after, 22: {"other"}}
        if not has_died:
            break
    assert at > 10


@pytest.mark.parametrize("seed", range(sized(1, 10)))
async def test_of_two_that_write_at_once_one_seals_and_no_change_is_lost(
    settings: DynamoDbSettings, db: DynamoDb, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was too late sees that; and who reads meanwhile finds what was there."""
    print("seed", seed)
    monkeypatch.setattr(writing, "_MERGED", 3)
    rng = random.Random(seed)
    clients = [Steered(settings, rng) for _ in range(3)]
    first, second, reader = (index_of(client, settings) for client in clients)
    index = index_of(db, settings)
    await begun(index, CHANNEL, 2)
    position, expected = 8, {offset: {"old"} for offset in range(1, 9)}
    for _ in range(sized(2, 12)):
        top, gone = position + 4, rng.choice(sorted(expected))
        new, other = ({at: said(at, text) for at in range(position + 1, top + 1)} for text in ("new", "other"))
        is_rival = rng.random() < 0.5
        rival = Update(CHANNEL, position, top, other) if is_rival else Update(CHANNEL, position, position, {gone: None})
        (has_sealed,), (is_done,), found = await asyncio.gather(
            first.apply([Update(CHANNEL, position, top, new)]), second.apply([rival]), texts(reader)
        )
        assert has_sealed != is_done if is_rival else has_sealed
        assert all(found.get(at) == there for at, there in expected.items() if is_rival or at != gone)
        if is_done and not is_rival:
            del expected[gone]
        expected |= {at: {"new" if has_sealed else "other"} for at in new}
        assert await texts(index) == expected
        assert await index.indexed([CHANNEL]) == {CHANNEL: top}
        position = top
    for client in clients:
        await client.close()


class Steered(DynamoDb):
    """Its requests wait for a random number of turns of others."""

    def __init__(self, settings: DynamoDbSettings, rng: random.Random) -> None:
        super().__init__(settings, deadline_s=PATIENCE_S)
        self._rng = rng

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        await asyncio.sleep(self._rng.random() * 0.03)
        return await super().call(op, **arguments)


async def put(db: DynamoDb, settings: DynamoDbSettings, values: Mapping[str, Any]) -> None:
    await db.call("put_item", TableName=settings.chat_table, Item=item_of(values))


@pytest.mark.parametrize("part", ["f#", "b#"])
async def test_half_of_a_transaction_is_never_taken_for_the_whole(
    db: DynamoDb, settings: DynamoDbSettings, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query may see the old items of some blocks, beside the new head."""
    monkeypatch.setattr(writing, "_MERGED", 100)
    index = index_of(db, settings)
    await begun(index, CHANNEL, 3)
    before = await kept(db, settings)
    update = Update(CHANNEL, 12, 16, {6: said(6, "new"), 14: said(14, "new")})
    assert await index.apply([update]) == [True]
    after = await kept(db, settings)
    changed = [key for key in after if key[1].startswith(part) and before.get(key) != after[key]]
    assert len(changed) == 2
    for number, key in enumerate(sorted(changed, reverse=True)):  # as they are read
        if key in before:
            await put(db, settings, before[key])
        else:
            await db.call("delete_item", TableName=settings.chat_table, Key=item_of(dict(zip("ps", key, strict=True))))
        healing = Healing(settings, 3 if part == "f#" else 4 + number, after[key])  # behind the request that sees half
        asked = Asked(read_query("new", ""), [Scope(CHANNEL, 0, 100)], 10)
        hits = await index_of(healing, settings).find(asked)
        assert [one.offset for one in hits.places] == [14, 6]
        assert healing.left <= 0  # it has looked again
        await healing.close()


class Healing(DynamoDb):
    """Puts the other half of a transaction before one of its requests."""

    def __init__(self, settings: DynamoDbSettings, at: int, values: Mapping[str, Any]) -> None:
        super().__init__(settings, deadline_s=PATIENCE_S)
        self._table, self.left, self._values = settings.chat_table, at, values

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.left -= 1
        if self.left == 0:
            await super().call("put_item", TableName=self._table, Item=item_of(self._values))
        return await super().call(op, **arguments)


async def test_a_block_that_is_larger_than_an_item_has_several(db: DynamoDb, settings: DynamoDbSettings) -> None:
    """And all of them go when it becomes smaller."""
    rng = random.Random(1)
    index = index_of(db, settings)
    atoms = [f"{rng.getrandbits(128):x}" for _ in range(40_000)]
    assert await index.apply([Update(CHANNEL, 0, 2, {1: Document(1, atoms, ()), 2: said(2, "old")})]) == [True]
    items = await kept(db, settings)
    assert sum(key[1].startswith("b#") for key in items) > 1
    assert max(sum(len(str(name)) + _size(value) for name, value in item.items()) for item in items.values()) < 400_000
    hits = await index.find(Asked(read_query(" ".join(atoms[39_000:39_020]), ""), [Scope(CHANNEL, 0, 9)], 5))
    assert [one.offset for one in hits.places] == [1]
    assert await index.apply([Update(CHANNEL, 2, 2, {1: None})]) == [True]
    assert len(await kept(db, settings)) == 3
    assert await texts(index) == {2: {"old"}}


def _size(value: Any) -> int:
    return len(value) if isinstance(value, bytes) else len(str(value))


async def test_ten_blocks_become_one_and_searches_read_few_items(db: DynamoDb, settings: DynamoDbSettings) -> None:
    """The head, filters, and one block that has a rare word."""
    thousands = sized(1, 3)
    counting = Counting(settings)
    index = index_of(counting, settings)
    rng = random.Random(2)
    words = [f"word{number}" for number in range(3_000)]
    for top in range(0, 1_000 * thousands + 50, 100):
        new = {at: said(at, " ".join(rng.choices(words, k=12))) for at in range(top + 1, top + 101)}
        if top == 500:
            new[510] = said(510, "a rare one")
        assert await index.apply([Update(CHANNEL, top, top + 100, new)]) == [True]
    items = await kept(db, settings)
    assert len([key for key in items if key[1].startswith("f#")]) == thousands + 1
    assert max(len(item["data"]) for item in items.values() if "data" in item) < 64_000
    counting.requests.clear()
    hits = await index.find(Asked(read_query("rare", ""), [Scope(CHANNEL, 0, 10**6)], 20))
    assert [one.offset for one in hits.places] == [510]
    print(counting.requests)
    assert len(counting.requests) <= 4  # head, filters, the block, and perhaps one in a hundred more
    counting.requests.clear()
    assert (await index.find(Asked(read_query("absent", ""), [Scope(CHANNEL, 0, 10**6)], 20))).places == []
    assert len(counting.requests) <= 3
    counting.requests.clear()
    hits = await index.find(Asked(read_query("word1*", ""), [Scope(CHANNEL, 0, 10**6)], 20))
    assert len(hits.places) == 20
    assert len(counting.requests) <= 4  # the newest blocks are enough
    await counting.close()


async def test_an_index_reads_so_many_blocks_and_says_where_it_stopped(
    db: DynamoDb, settings: DynamoDbSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_MERGED", 100)
    index, bounded = index_of(db, settings), index_of(db, settings, most_blocks=2)
    await begun(index, CHANNEL, 8)
    asked = Asked(read_query("ol*", ""), [Scope(CHANNEL, 0, 100)], 500)
    found: list[int] = []
    for _ in range(20):
        hits = await bounded.find(asked)
        found += [one.offset for one in hits.places]
        if not hits.has_more:
            break
        assert hits.stopped_at is not None
        assert asked.after is None or hits.stopped_at > asked.after
        assert all(one < hits.stopped_at for one in hits.places)
        asked = asked._replace(after=hits.stopped_at)
    assert found == list(range(32, 0, -1))
    hits = await index_of(db, settings, most_bytes=1).find(asked._replace(after=None))
    assert 0 < len(hits.places) < 32
    assert hits.stopped_at is not None


async def test_words_that_are_taken_out_are_in_no_item(db: DynamoDb, settings: DynamoDbSettings) -> None:
    index = index_of(db, settings)
    await begun(index, CHANNEL, 11)  # merged
    assert await index.apply([Update(CHANNEL, 44, 48, {45: said(45, "secret"), 46: said(46, "old")})]) == [True]
    assert await index.apply([Update(CHANNEL, 48, 48, {45: None, 7: said(7, "secret"), 8: None})]) == [True]
    assert await index.apply([Update(CHANNEL, 48, 48, {7: said(7, "new")})]) == [True]
    blocks = [zlib.decompress(item["data"]) for item in (await kept(db, settings)).values() if "data" in item]
    assert not [block for block in blocks if b"secret" in block]
    assert [block for block in blocks if b"new" in block]


def test_a_filter_never_denies_what_is_there_and_seldom_grants_what_is_not() -> None:
    documents = [said(at, f"word{at} 東京{at} also") for at in range(1, 1_001)]
    bits = filter_of(documents)
    for at in range(1, 1_001):
        assert Wanted.by(read_query(f"word{at} 東京 from:ann", "")).may_be_in(bits)
    wrong = sum(Wanted.by(read_query(f"none{at}", "")).may_be_in(bits) for at in range(2_000))
    assert wrong < 60
    assert not Wanted.by(read_query("from:bob", "")).may_be_in(bits)
    assert Wanted.by(read_query("no*", "")).may_be_in(bits)
    assert len(bits) < 4_000
