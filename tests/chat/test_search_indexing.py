"""The index follows the log: of old conversations, and with other replicas."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.adapters.sqlite_stop import Stop
from services.persistence.chat.adapters import sqlite_search, sqlite_search_find
from services.persistence.chat.adapters.sqlite_search import SqliteSearchIndex
from services.persistence.chat.index.analyser import atoms_of
from services.persistence.chat.index.ports import Asked, Document, Scope, Update
from services.persistence.chat.index.query import read_query
from services.persistence.chat.search import indexing as indexing_module
from services.persistence.chat.search import tail
from services.shared.errors import Unavailable
from tests.chat.search_play import search
from tests.support.chat_calls import CallRefused, Replica, Site, sqlite_site
from tests.support.full import sized


@pytest.fixture
async def site(redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3", has_search=True) as found:
        yield found


async def group(a: Replica, *users: str) -> str:
    channel: str = (await a.call(users[0], "conversations.create", users=list(users[1:])))["channel"]
    return channel


async def texts(replica: Replica, user: str, query: str, **more: Any) -> list[str]:
    return [one["text"] for one in await search(replica, user, query, **more)]


async def behind(site: Site) -> list[str]:
    channels: list[str] = (await site.store.search.behind("", 1_000))[0]
    return channels


async def said(a: Replica, channel: str) -> int:
    offset: int = (await a.call("ann", "messages.send", channel=channel, text="word"))["offset"]
    return offset


async def index_all(site: Site, a: Replica) -> None:
    """Have everything in the index that this replica has to bring there."""
    assert a.chat.indexing is not None
    await a.chat.projection.flush()
    for _ in range(1_000):  # a page or some each time
        if not await behind(site):
            break
        await a.chat.projection.flush()
        await a.chat.indexing.flush()
    await a.chat.projection.flush()


async def rest(site: Site) -> None:
    """Have nothing go on by itself, but what is asked for."""
    for replica in site.replicas:
        await replica.rest()


async def test_a_message_is_indexed_by_itself_and_soon(site: Site, a: Replica) -> None:
    channel = await group(a, "ann", "bob")
    await a.call("ann", "messages.send", channel=channel, text="word")
    index = site.store.search
    async with asyncio.timeout(20):
        while channel in await behind(site):
            await asyncio.sleep(0.02)
    hits = await index.find(Asked(read_query("word", ""), [Scope(channel, 0, 100)], 10))
    assert [one.offset for one in hits.places] == [3]


async def test_a_sweep_indexes_what_was_there_before_page_by_page(site: Site, a: Replica, b: Replica) -> None:
    """As after an update; a process stops in between, and another one goes on."""
    await rest(site)
    channels = [await group(a, "ann", "bob") for _ in range(3)]
    for number in range(sized(300, 3_000)):
        await a.call("ann", "messages.send", channel=channels[0], text=f"word {number}")
    await a.call("ann", "messages.send", channel=channels[1], text="word elsewhere")
    assert set(channels) <= set(await behind(site))
    third = site.another()
    await third.rest()
    indexing, other = a.chat.indexing, third.chat.indexing
    assert indexing is not None
    assert other is not None
    live = await a.conversations.current(channels[0])
    update = await indexing._page(live)  # noqa: SLF001
    assert update is not None
    assert update.indexed < live.position
    assert await site.store.search.apply([update]) == [True]
    assert await site.store.search.apply([update]) == [False]  # by who was slower
    assert len(await texts(b, "bob", "word", limit=50)) == sized(301, 3_001)
    assert await other.sweep() > 0
    assert await behind(site) == []
    assert len(await texts(b, "bob", "word", limit=50)) == sized(301, 3_001)
    assert third.conversations.cached(channels[2]) is None  # nobody uses it


async def test_an_answer_says_if_it_could_not_look_at_everything(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rest(site)
    monkeypatch.setattr(tail, "_MAX_ROWS", 20)
    channel = await group(a, "ann", "bob")
    for number in range(30):
        await a.call("ann", "messages.send", channel=channel, text=f"word {number}")
    answer = await a.call("bob", "messages.search", query="word", limit=50)
    assert answer["incomplete"] is True
    assert [one["text"] for one in answer["messages"]] == [f"word {number}" for number in range(29, 9, -1)]
    assert a.chat.indexing is not None
    await a.chat.indexing.sweep()
    assert len(await texts(a, "bob", "word")) == 30


async def test_two_replicas_that_index_at_the_same_time_write_each_message_once(site: Site) -> None:
    rng = random.Random(1)
    a, b = site.replicas
    channel = await group(a, "ann", "bob")
    for number in range(sized(60, 600)):
        await rng.choice((a, b)).call("ann", "messages.send", channel=channel, text=f"word {number}")
        if number % 10 == 0:
            for replica in (a, b):
                assert replica.chat.indexing is not None
                await replica.chat.indexing.reach(await replica.conversations.current(channel))
    assert len(await texts(b, "bob", "word", limit=50)) == sized(60, 600)


class Noted:
    """Notes what is written to an index, and how much at once."""

    def __init__(self, site: Site) -> None:
        self._apply, self._running = site.store.search.apply, 0
        self.written: list[tuple[int, int]] = []  # characters of the documents, documents taken out
        self.most_at_once = 0
        site.store.search.apply = self.apply

    async def apply(self, updates: Sequence[Update]) -> list[bool]:
        documents = [one for update in updates for one in update.documents.values()]
        self.written.append((sum(len(" ".join(one.atoms)) for one in documents if one), documents.count(None)))
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            outcome: list[bool] = await self._apply(updates)
            return outcome
        finally:
            self._running -= 1


async def test_the_log_never_waits_for_much_of_the_index(site: Site, a: Replica) -> None:
    """Of long messages, of many conversations, and of all that a deletion takes out."""
    await rest(site)
    noted = Noted(site)
    channels = [await group(a, "ann", "bob") for _ in range(6)]
    for channel in channels:
        await asyncio.gather(
            *(a.call("ann", "messages.send", channel=channel, text="word " * 5_000) for _ in range(8)),
            *(a.call("bob", "messages.send", channel=channel, text="word") for _ in range(40)),
        )
    indexing = a.chat.indexing
    assert indexing is not None

    async def index_all() -> None:
        for channel in channels:
            indexing.soon(channel)
        while await behind(site):
            await asyncio.gather(indexing.flush(), a.chat.projection.flush(), indexing.sweep())

    await index_all()
    assert len(await texts(a, "bob", "word", limit=50)) == 6 * 48
    await a.call("ann", "messages.purge", channel=channels[0], user="bob", upto=1_000)
    offsets = await site.store.search.offsets_upto(channels[1], 1_000, 1_000)
    await asyncio.gather(*(a.call("ann", "messages.delete", channel=channels[1], of=offset) for offset in offsets))
    for channel in channels[2:]:
        await a.call("ann", "conversations.delete", channel=channel)
    await index_all()
    assert len(await texts(a, "bob", "word", limit=50)) == 8
    assert sum(removed for _, removed in noted.written) >= 40 + 48 + 4 * 48
    assert max(size for size, _ in noted.written) < 192 << 10
    assert max(removed for _, removed in noted.written) <= 32
    assert noted.most_at_once == 1


async def test_a_backlog_of_one_conversation_does_not_hold_up_the_projection(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark stays until it is indexed; others' marks go meanwhile."""
    await rest(site)
    monkeypatch.setattr(indexing_module, "_PAGE_ROWS", 4)
    channel, other = await group(a, "ann", "bob"), await group(a, "ann", "bob")
    await index_all(site, a)
    for _ in range(60):
        await a.call("ann", "messages.send", channel=channel, text="word")
    for where in (channel, other):
        await a.call(
            "ann", "reactions.add", channel=where, of=3 if where == channel else await said(a, other), name="+"
        )
    await a.chat.projection.flush()
    live = await a.conversations.current(channel)
    indexed = await site.store.search.indexed([channel, other])
    assert 0 < indexed[channel] < live.position
    assert indexed[other] == (await a.conversations.current(other)).position
    b = site.replicas[1]
    marked = [mark[0] for mark in await b.chat.projection._marks.settled(-1.0, 100, 0)]  # noqa: SLF001
    assert marked == [channel]
    await index_all(site, a)
    assert len(await texts(a, "bob", "word", limit=50)) == 61
    assert await b.chat.projection._marks.settled(-1.0, 100, 0) == []  # noqa: SLF001


async def test_who_can_not_take_documents_out_gives_up_for_now(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another replica's position moves all the time; and the conversation goes on."""
    await rest(site)
    monkeypatch.setattr(indexing_module, "_PAGE_ROWS", 4)
    channel = await group(a, "ann", "bob")
    for _ in range(5):
        await said(a, channel)
    await index_all(site, a)
    await a.call("ann", "conversations.delete", channel=channel)
    apply = site.store.search.apply
    calls = 0

    async def refuse(updates: Sequence[Update]) -> list[bool]:
        nonlocal calls
        calls += 1
        return [False for _ in updates]

    site.store.search.apply = refuse
    live = await a.conversations.current(channel)
    assert a.chat.indexing is not None
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await a.chat.indexing.reach(live)
    assert 0 < calls <= 10
    assert not live.lock.locked()
    site.store.search.apply = apply
    await index_all(site, a)
    assert await site.store.search.offsets_upto(channel, 100, 100) == []


async def test_what_fails_once_does_not_make_an_index_keep_what_is_erased(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether FTS5 can erase follows from the version of SQLite alone."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 42, 0))
    index = SqliteSearchIndex(site.rows.database, lambda: None)
    monkeypatch.setattr(sqlite_search, "_ERASE_AT_ONCE", "SELECT * FROM nothing", raising=False)
    update = Update("c1", 0, 1, {1: Document(1, ["word"], ())})
    for _ in range(2):
        with pytest.raises(Unavailable):
            await index.apply([update])
    monkeypatch.setattr(sqlite_search, "_ERASE_AT_ONCE", "SELECT 1")
    assert await index.apply([update]) == [True]


def test_what_takes_long_is_done_less_often() -> None:
    assert indexing_module.pause_s(300.0, 0.1) == 300.0
    assert indexing_module.pause_s(300.0, 60.0) == 1_200.0


async def wide(index: SqliteSearchIndex) -> Asked:
    """Fill an index, and return what it finds by reading very much."""
    rng = random.Random(3)
    documents = {
        offset: Document(offset, [f"word{rng.randrange(4_000)}" for _ in range(10)], ()) for offset in range(1, 10_001)
    }
    assert await index.apply([Update("c1", 0, 10_000, documents)]) == [True]
    query = read_query(" ".join(f"word{digit}*" for digit in range(1, 9)), "")
    return Asked(query, [Scope("c1", 0, 10_000)], 10)


async def test_a_search_ends_in_the_middle_of_a_question_to_fts5(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever asks next is answered."""
    index = site.store.search
    asked = await wide(index)
    expected = await index.find(asked)
    looks = 0

    def is_late(_: object) -> bool:
        nonlocal looks
        looks += 1
        return looks > 2  # those before are made outside of the question

    monkeypatch.setattr(Stop, "__call__", is_late)
    with pytest.raises(Unavailable, match="takes too long"):
        await index.find(asked)
    monkeypatch.undo()
    assert await index.find(asked) == expected


async def test_a_search_that_takes_too_long_ends(site: Site) -> None:
    index = SqliteSearchIndex(site.rows.database, lambda: None, longest_s=0.05)
    asked = await wide(index)
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="takes too long"):
            await index.find(asked._replace(scopes=list(asked.scopes) * 1_000_000))
    assert await site.store.search.find(asked)


async def test_nothing_is_searched_for_callers_who_are_gone(site: Site) -> None:
    """Those who are still there are answered, and the index goes on meanwhile."""
    index = SqliteSearchIndex(site.rows.database, lambda: None, longest_s=20.0)
    asked = await wide(index)
    calls = [asyncio.create_task(index.find(asked._replace(scopes=list(asked.scopes) * 1_000_000))) for _ in range(3)]
    async with asyncio.timeout(20):
        assert await index.indexed(["c1"]) == {"c1": 10_000}
        assert await index.offsets_upto("c1", 10_000, 1) == [1]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    async with asyncio.timeout(20):
        assert await index.find(asked)


async def test_a_search_that_takes_long_does_not_keep_others_waiting(redis_url: str, tmp_path: Path) -> None:
    """They are done in threads of their own."""
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3", has_search=True, searchers=2) as site:
        index = SqliteSearchIndex(site.rows.database, lambda: None, longest_s=600.0)
        asked = await wide(index)
        slow = asyncio.create_task(index.find(asked._replace(scopes=list(asked.scopes) * 100_000)))
        try:
            async with asyncio.timeout(60):
                for _ in range(3):
                    assert (await index.find(asked)).places
            assert not slow.done()
        finally:
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)


async def test_words_of_the_index_belong_to_one_conversation_each(site: Site, a: Replica) -> None:
    """So a search reads no list of words in which others' messages are."""
    await rest(site)
    channels = [await group(a, "ann", f"user {number}") for number in range(4)]
    for channel in channels:
        for text in ("common", "a common word", "京都"):
            await a.call("ann", "messages.send", channel=channel, text=text, mentions=["ann"])
    assert a.chat.indexing is not None
    await a.chat.indexing.sweep()

    def terms(connection: Any) -> list[tuple[str, int]]:
        connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, search_index, instance)")
        found: list[tuple[str, int]] = connection.execute("SELECT term, doc FROM temp.words").fetchall()
        connection.execute("DROP TABLE temp.words")
        return found

    found = await site.rows.database.run("scrub", "test", terms)
    assert len({row >> 36 for _, row in found}) == 4
    assert {int(term.split("_")[0], 36) == row >> 36 for term, row in found} == {True}


async def test_an_index_finds_what_a_list_of_documents_has(site: Site) -> None:
    """With pages, bounds of offsets and times, and documents that are replaced and go."""
    rng = random.Random(2)
    index = site.store.search
    kept: dict[str, dict[int, tuple[int, list[str]]]] = {f"c{number}": {} for number in range(6)}
    words = [f"w{number}" for number in range(8)]
    for step in range(sized(25, 400)):
        for channel, documents in kept.items():
            top = step * 20
            new: dict[int, Document | None] = {}
            for offset in range(top + 1, top + 21):
                if rng.random() < 0.7:
                    new[offset] = Document(offset * 10 + rng.randrange(3), rng.choices(words, k=4), ("_a1",))
            for offset in rng.sample(sorted(documents), min(3, len(documents))):
                time_ms = documents[offset][0]
                new[offset] = None if rng.random() < 0.5 else Document(time_ms, rng.choices(words, k=2), ())
            assert await index.apply([Update(channel, top, top + 20, new)]) == [True]
            assert await index.apply([Update(channel, top, top + 20, {1: Document(1, ["wrong"], ())})]) == [False]
            for offset, document in new.items():
                if document is None:
                    documents.pop(offset, None)
                else:
                    documents[offset] = document.time_ms, list(document.atoms)
        scopes = [Scope(channel, rng.randrange(top + 1), rng.randrange(top + 40)) for channel in kept]
        wanted = rng.sample(words, rng.randint(1, 2))
        before, since = rng.choice([None, top * 8]), rng.choice([None, top * 3])
        query = read_query(" ".join(wanted), "")._replace(before=before, since=since)
        expected = sorted(
            (-time_ms, scope.channel, -offset)
            for scope in scopes
            for offset, (time_ms, atoms) in kept[scope.channel].items()
            if scope.above < offset <= scope.position and set(wanted) <= set(atoms)
            if (before is None or time_ms < before) and (since is None or time_ms >= since)
        )
        found: list[tuple[int, str, int]] = []
        after, most = None, rng.choice((1, 7, 500))
        while True:
            hits = await index.find(Asked(query, scopes, most, after))
            assert len(hits.places) <= most
            assert set(hits.indexed.values()) == {top + 20}
            found += [one[1:] for one in hits.places]
            if not hits.has_more:
                break
            after = hits.places[-1]
        assert found == expected
    assert await index.offsets_with("c0", "_a1", 0, 10**6, 5) == sorted(
        await index.offsets_with("c0", "_a1", 0, 10**6, 5)
    )
    assert await index.offsets_upto("c0", 10**6, 10**6) == sorted(kept["c0"])
    assert atoms_of("w1 w2") == ["w1", "w2"]


async def test_with_dynamodb_messages_can_not_be_searched_unless_that_is_on(dynamodb_calls: Site) -> None:
    a = dynamodb_calls.replicas[0]
    assert (a.chat.indexing, dynamodb_calls.store.search) == (None, None)
    await group(a, "ann", "bob")
    with pytest.raises(CallRefused, match="108 not_available: search is not available with this store"):
        await a.call("ann", "messages.search", query="word")
    answer = await a.call("ann", "conversations.search", query="x")
    assert answer == {"conversations": [], "open": []}


async def test_with_search_off_nothing_of_it_runs(
    redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path
) -> None:
    async with sqlite_site(redis_url, tmp_path / "off.sqlite3") as off:
        a = off.replicas[0]
        channel = await group(a, "ann", "bob")
        await a.call("ann", "messages.send", channel=channel, text="word")
        for params in ({"query": "word"}, {"query": "word", "channel": channel}):
            with pytest.raises(CallRefused, match="108 not_available"):
                await a.call("ann", "messages.search", **params)
        parts = a.chat.indexing, a.chat.projection.on_grew, a.chat.projection.on_written, off.store.search
        assert parts == (None, None, None, None)


async def test_a_conversation_may_be_indexed_while_its_turn_comes(site: Site, a: Replica) -> None:
    """By the projection, while the others of the same turn are being looked at."""
    await rest(site)
    channels = [await group(a, "ann", "bob") for _ in range(6)]
    indexing = a.chat.indexing
    assert indexing is not None
    for _ in range(5):
        lives = []
        for channel in channels:
            await a.call("ann", "messages.send", channel=channel, text="word")
            lives.append(await a.conversations.current(channel))
            indexing.soon(channel)
        await asyncio.gather(indexing.flush(), *(indexing.reach(live) for live in lives))
    assert await behind(site) == []
    assert len(await texts(a, "bob", "word", limit=50)) == 30


FALLING = {1: 100, 2: 200, 3: 50, 4: 300, 5: 40, 6: 60}


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5, 6), (6, 3, 1, 4, 5, 2)])
@pytest.mark.parametrize("most", [1, 2, 10])
async def test_older_messages_behind_newer_ones_hide_none_of_them(
    site: Site, order: Sequence[int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rescue puts messages that Redis had alone behind those of the store."""
    monkeypatch.setattr(sqlite_search_find, "_PASSED_BY", 1)
    monkeypatch.setattr(sqlite_search_find, "_SHARE", 1)
    index = site.store.search
    for channel in ("c1", "c2"):
        for position, offset in enumerate(order):
            document = Document(FALLING[offset] + (channel == "c2"), ["hello"], ())
            assert await index.apply([Update(channel, position, position + 1, {offset: document})]) == [True]
    query, scopes = read_query("hello", ""), [Scope("c1", 0, 6), Scope("c2", 0, 6)]
    every = [(at + (one == "c2"), one, offset) for one in ("c1", "c2") for offset, at in FALLING.items()]
    for since in (None, 90, 55, 250):
        for before in (None, 201, 101, 60):
            wanted = sorted(
                (-at, one, offset)
                for at, one, offset in every
                if (since is None or at >= since) and (before is None or at < before)
            )
            asked = Asked(query._replace(since=since, before=before), scopes, most)
            found: list[tuple[int, str, int]] = []
            while places := (await index.find(asked)).places:
                found += [(-one.time_ms, one.channel, one.offset) for one in places]
                asked = asked._replace(after=places[-1])
            assert found == wanted, (since, before)
