"""What every index of messages does, whatever store it is in."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.chat.adapters.dynamodb.search.index import DynamoDbSearchIndex
from services.persistence.chat.adapters.sqlite_search import SqliteSearchIndex
from services.persistence.chat.index.analyser import atoms_of, spaced
from services.persistence.chat.index.ports import Asked, Document, Place, Scope, SearchIndex, Update
from services.persistence.chat.index.query import Query, author_tag, read_query
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.dynamodb_tables import PATIENCE_S, Connect, OnDynamoDb, OnDynamoDbLocal
from tests.support.full import sized

WORDS = [
    "sea",
    "seal",
    "season",
    "land",
    "island",
    "京都",
    "東京都",
    "walk on",
    "émigré",
    "w" * 70 + "a",
    "w" * 70 + "b",
]
QUERIES = [
    "sea",
    "sea*",
    "sea land",
    '"sea land"',
    '"land sea sea"',
    '"the sea la"*',
    "la* is*",
    "sea -land",
    'sea -"land sea"',
    "京",
    "京都",
    '"都 sea"',
    "from:ann",
    "from:ann sea -seal",
    "mentions:bob",
    "emigre walk",
    "w" * 70 + "a",
    "nothing",
]
Kept = dict[str, dict[int, tuple[int, str, Document]]]


def expected(kept: Kept, asked: Asked) -> list[Place]:
    """What is to be found, by looking at each document."""
    query, found = asked.query, []
    for scope in asked.scopes:
        for offset, (time_ms, text, document) in kept[scope.channel].items():
            if scope.above < offset <= scope.position and _fits(query, time_ms, text, document):
                score = query.score(" ".join(document.atoms)) if asked.by_score else 0.0
                found.append(Place(-score, -time_ms, scope.channel, -offset))
    return sorted(found, key=lambda one: one[1:])


def _fits(query: Query, time_ms: int, text: str, document: Document) -> bool:
    there = spaced(atoms_of(text))
    return (
        all(phrase.is_in(there) for phrase in query.phrases)
        and not any(phrase.is_in(there) for phrase in query.without)
        and all(set(tags) & set(document.tags) for tags in query.tags)
        and (query.before is None or time_ms < query.before)
        and (query.since is None or time_ms >= query.since)
    )


class Contract:
    """Tests of `SearchIndex`; `is_exact`: it finds nothing but what fits."""

    is_exact = True

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(sized(1, 5)))
    async def test_it_finds_what_a_list_of_documents_has(self, index: SearchIndex, seed: int) -> None:
        """With pages, bounds of offsets and times, and documents that are replaced and go."""
        print("seed", seed)
        rng = random.Random(seed)
        kept: Kept = {f"conv:g.{number}": {} for number in range(3)}
        for step in range(sized(10, 60)):
            top = step * 10
            updates = [self._update(rng, channel, top, kept[channel]) for channel in kept]
            assert await index.apply(updates) == [True, True, True]
            assert await index.apply([Update("conv:g.0", top, top + 20, {})]) == [False]
            if step % 3 == 2:
                for _ in range(sized(3, 20)):
                    await self._ask(rng, index, kept, top + 10)
        for channel, documents in kept.items():
            await self._has(index, channel, documents)

    def _update(
        self, rng: random.Random, channel: str, top: int, documents: dict[int, tuple[int, str, Document]]
    ) -> Update:
        """Return an update, and note what is there then."""
        now: dict[int, Document | None] = {}
        for offset in range(top + 1, top + 11) if rng.random() < 0.9 else ():
            if rng.random() < 0.7:
                now[offset] = self._document(rng, documents, offset, offset * 10)
        for offset in rng.sample(sorted(documents), min(2, len(documents))) if rng.random() < 0.5 else ():
            now[offset] = None
            if rng.random() < 0.5:
                now[offset] = self._document(rng, documents, offset, documents[offset][0])
            else:
                del documents[offset]
        return Update(channel, top, top + 10, now)

    def _document(
        self, rng: random.Random, documents: dict[int, tuple[int, str, Document]], offset: int, time_ms: int
    ) -> Document:
        text = " ".join(rng.choices(WORDS, k=rng.choice((0, 1, 3, 6))))
        tags = [author_tag(rng.choice(("ann", "bob"))), *rng.choice([[], ["_e"]])]
        made = Document(time_ms, atoms_of(text), tags)
        documents[offset] = time_ms, text, made
        return made

    async def _ask(self, rng: random.Random, index: SearchIndex, kept: Kept, top: int) -> None:
        """Ask something, page by page."""
        query = read_query(rng.choice(QUERIES), "ann")
        before, since = rng.choice([None, top * 8]), rng.choice([None, top * 3])
        query = query._replace(before=before, since=since)
        scopes = [Scope(channel, rng.choice((0, top // 2)), rng.choice((top, top + 20, top - 7))) for channel in kept]
        asked = Asked(query, scopes, rng.choice((1, 7, 500)))
        wanted = expected(kept, asked)
        found: list[Place] = []
        while True:
            hits = await index.find(asked)
            assert len(hits.places) <= asked.most
            assert set(hits.indexed.values()) == {top}
            assert hits.stopped_at is None
            found += hits.places
            if not hits.has_more:
                break
            asked = asked._replace(after=hits.places[-1])
        assert found == sorted(found)
        if self.is_exact:
            assert found == wanted, query
        assert set(wanted) <= set(found)
        if {one[1:] for one in wanted} == {one[1:] for one in found}:
            await self._ask_for_the_best(index, kept, asked._replace(after=None, by_score=True, most=500))

    async def _ask_for_the_best(self, index: SearchIndex, kept: Kept, asked: Asked) -> None:
        wanted = sorted(expected(kept, asked))
        assert (await index.find(asked)).places == wanted
        middle = len(wanted) // 2
        if wanted:
            rest = await index.find(asked._replace(after=wanted[middle]))
            assert rest.places == wanted[middle + 1 :]

    async def _has(self, index: SearchIndex, channel: str, documents: dict[int, tuple[int, str, Document]]) -> None:
        """Compare what it tells of offsets."""
        tag = author_tag("bob")
        by_bob = sorted(offset for offset, (_, _, one) in documents.items() if tag in one.tags)
        top = max(documents)
        assert await index.offsets_with(channel, tag, 0, 10**6, 10**6) == by_bob
        assert await index.offsets_with(channel, tag, by_bob[1], by_bob[-2], 10**6) == by_bob[2:-1]
        assert await index.offsets_with(channel, tag, by_bob[1], by_bob[-2], 3) == by_bob[2:5]
        assert await index.offsets_upto(channel, 10**6, 10**6) == sorted(documents)
        half = [offset for offset in sorted(documents) if offset <= top // 2]
        assert await index.offsets_upto(channel, top // 2, 10**6) == half
        assert await index.offsets_upto(channel, top // 2, 4) == half[:4]

    async def test_nothing_is_known_of_what_was_never_indexed(self, index: SearchIndex) -> None:
        assert await index.indexed(["conv:g.x", "conv:g.y"]) == {"conv:g.x": 0, "conv:g.y": 0}
        hits = await index.find(Asked(read_query("word", ""), [Scope("conv:g.x", 0, 9)], 5))
        assert (hits.places, hits.has_more, hits.indexed) == ([], False, {"conv:g.x": 0})
        assert (await index.find(Asked(read_query("word", ""), [], 5))).places == []
        assert await index.offsets_upto("conv:g.x", 9, 9) == []
        assert await index.offsets_with("conv:g.x", "_a1", 0, 9, 9) == []

    async def test_documents_go_until_none_is_left_and_others_come(self, index: SearchIndex) -> None:
        """As of a conversation that is deleted, some at once."""
        channel = "conv:g.gone"
        for top in range(0, 100, 10):
            new: dict[int, Document | None] = {at: Document(at, ["word"], ("_a1",)) for at in range(top + 1, top + 11)}
            assert await index.apply([Update(channel, top, top + 10, new)]) == [True]
        left = 100
        while gone := await index.offsets_upto(channel, 100, 23):
            assert await index.apply([Update(channel, 100, 100, dict.fromkeys(gone))]) == [True]
            left -= len(gone)
            assert len((await index.find(self._word(channel))).places) == left
        assert left == 0
        assert await index.apply([Update(channel, 100, 120, {})]) == [True]
        assert await index.apply([Update(channel, 120, 130, {125: Document(125, ["word"], ())})]) == [True]
        assert [one.offset for one in (await index.find(self._word(channel))).places] == [125]

    def _word(self, channel: str) -> Asked:
        return Asked(read_query("word", ""), [Scope(channel, 0, 1_000)], 500)


class TestSqlite(Contract):
    """FTS5."""

    is_exact = False

    @pytest.fixture
    async def index(self, tmp_path: Path) -> AsyncIterator[SearchIndex]:
        rows = SqliteLogStore(tmp_path / "log.sqlite3")
        yield SqliteSearchIndex(rows.database, lambda: None, longest_s=PATIENCE_S)
        await rows.close()


class _OnDynamoDb:
    @pytest.fixture
    def index(self, connect: Connect, settings: DynamoDbSettings) -> SearchIndex:
        return DynamoDbSearchIndex(connect(), settings.chat_table, deadline_s=PATIENCE_S, long_deadline_s=PATIENCE_S)


class TestDynamoDb(OnDynamoDb, _OnDynamoDb, Contract):
    """Sealed blocks, on moto's server."""


class TestDynamoDbLocal(OnDynamoDbLocal, _OnDynamoDb, Contract):
    """Sealed blocks, on dynamodb-local."""


def test_all_queries_can_be_read() -> None:
    queries: Sequence[Query] = [read_query(one, "ann") for one in QUERIES]
    assert all(query.phrases or query.tags for query in queries)
