"""How much a search may do at once, and in all: counted, not timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat.domain.state import Content, Message
from services.persistence.chat.index import query as query_module
from services.persistence.chat.index.analyser import atoms_of
from services.persistence.chat.index.ports import Asked, Hits, Place
from services.persistence.chat.live import Found, Live
from services.persistence.chat.search import search as search_module
from services.persistence.chat.search import tail, turns
from tests.chat.search_play import search
from tests.support.chat_calls import Replica, Site, group, say, sqlite_site

_LONG = 8_000


@pytest.fixture
async def site(redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3", has_search=True) as found:
        for replica in found.replicas:
            await replica.rest()
        yield found


async def sweep(a: Replica) -> None:
    assert a.chat.indexing is not None
    await a.chat.indexing.sweep()


def counting(a: Replica, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many messages are looked up, request by request."""
    counts: list[int] = []
    messages = a.conversations.messages

    async def counted(live: Live, offsets: Collection[int], **more: Any) -> dict[int, Found]:
        counts.append(len(offsets))
        return await messages(live, offsets, **more)

    monkeypatch.setattr(a.conversations, "messages", counted)
    return counts


@pytest.mark.parametrize("is_indexed", [False, True])
async def test_all_else_has_its_turn_while_long_messages_are_compared(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch, is_indexed: bool
) -> None:
    """However many searches there are at the same time."""
    channels = [await group(a, "ann", "bob") for _ in range(2)]
    for number in range(12):
        for channel in channels:
            await say(a, "ann", channel, f"word {number} " + "and " * (_LONG // 4))
    if is_indexed:
        await sweep(a)
    turn = 0
    compared: Counter[int] = Counter()

    def counted(text: str) -> list[str]:
        compared[turn] += len(text)
        return atoms_of(text)

    async def all_else() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(query_module, "atoms_of", counted)
    other = asyncio.create_task(all_else())
    try:
        query = "word and -land"
        found = await asyncio.gather(*(search(a, "bob", query, 50) for _ in range(3)))
    finally:
        other.cancel()
    assert [len(one) for one in found] == [24] * 3
    assert sum(compared.values()) >= 3 * 24 * _LONG
    assert max(compared.values()) <= turns.SLICE + 2 * _LONG


async def test_messages_of_others_are_not_looked_up_for_who_searches_their_own(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await group(a, "ann", "bob")
    for number in range(40):
        await say(a, "ann" if number % 10 else "bob", channel, f"word {number}")
    counts = counting(a, monkeypatch)
    found = [one["text"] for one in await search(a, "bob", "from:me", 20)]
    assert found == ["word 30", "word 20", "word 10", "word 0"]
    assert sum(counts) == 4


async def test_what_is_not_indexed_is_looked_up_newest_first_until_a_page_is_full(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several conversations; edited messages have the time of their sending."""
    channels = [await group(a, "ann", "bob") for _ in range(3)]
    offsets = [await say(a, "ann", channels[number % 3], f"word {number}") for number in range(60)]
    for number in (2, 31, 59):
        await a.call("ann", "messages.edit", channel=channels[number % 3], of=offsets[number], text=f"word {number}!")
    counts = counting(a, monkeypatch)
    expected = [f"word {number}!" if number in (2, 31, 59) else f"word {number}" for number in range(60)]
    page = await a.call("bob", "messages.search", query="word", limit=5)
    assert sum(counts) <= 12
    assert max(counts) <= 6
    found = await search(a, "bob", "word", 5)
    assert sorted(one["text"] for one in found) == sorted(expected)
    assert [one["time"] for one in found] == sorted([one["time"] for one in found], reverse=True)
    assert [one["text"] for one in found][:5] == [one["text"] for one in page["messages"]]
    counts.clear()
    assert len(await search(a, "bob", "word", 5, sort="best")) == 60
    assert max(counts) <= 6


async def test_a_search_with_very_many_wrong_candidates_goes_on_with_the_next_page(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compares a bounded number, and in the end all are found."""
    channel = await group(a, "ann", "bob")
    for number in range(60):
        await say(a, "ann", channel, f"word {number}" + (" 漢a" if number % 15 else ""))
    await sweep(a)
    monkeypatch.setattr(search_module, "_MAX_EFFORT", 2_000)
    counts = counting(a, monkeypatch)
    for sort in ("newest", "best"):
        found: list[str] = []
        cursor, pages = "", 0
        while cursor or not pages:
            counts.clear()
            answer = await a.call("bob", "messages.search", query="word -漢a", limit=5, cursor=cursor, sort=sort)
            assert "incomplete" not in answer
            assert sum(counts) <= 18
            found += [one["text"] for one in answer["messages"]]
            cursor, pages = answer.get("cursor", ""), pages + 1
        assert sorted(found) == ["word 0", "word 15", "word 30", "word 45"]
        assert pages > 2


@pytest.mark.parametrize("limit", ["_MAX_BYTES", "_MAX_EFFORT"])
async def test_an_answer_reads_so_much_that_is_not_indexed_and_says_if_there_is_more(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    channel = await group(a, "ann", "bob")
    for number in range(8):
        await say(a, "ann", channel, f"word {number} " + "and " * (_LONG // 4))
    monkeypatch.setattr(tail, "_PAGE_BYTES", 1)
    monkeypatch.setattr(tail, limit, 3 * _LONG)
    answer = await a.call("bob", "messages.search", query="word", limit=50)
    assert answer["incomplete"] is True
    assert 2 <= len(answer["messages"]) <= 4
    assert answer["messages"][0]["text"].startswith("word 7 ")
    await sweep(a)
    assert len(await search(a, "bob", "word")) == 8


async def test_what_a_moderator_edited_is_still_its_authors_and_of_its_time(site: Site, a: Replica) -> None:
    """Before it is indexed, the row of the edit alone says what to look for."""
    channel = await group(a, "ann", "bob")
    offset = await say(a, "bob", channel, "old")
    await say(a, "bob", channel, "other")
    sent = (await search(a, "ann", "old"))[0]["time"]
    await sweep(a)
    await asyncio.sleep(0.01)  # the edit is later than the message
    await a.call("ann", "messages.edit", channel=channel, of=offset, text="new")
    for query in ("new from:bob", f"new before:{sent + 1}", f"new after:{sent}"):
        assert [one["offset"] for one in await search(a, "ann", query)] == [offset], query
    for query in ("new from:ann", f"new before:{sent}", f"new after:{sent + 1}", "old"):
        assert await search(a, "ann", query) == [], query


async def test_messages_that_change_while_others_are_compared_are_shown_as_of_one_position(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await group(a, "ann", "bob")
    offsets = [await say(a, "ann", channel, f"word {number}") for number in range(3)]
    for offset in offsets:  # now they are in memory, where edits change them in place
        await a.call("ann", "messages.edit", channel=channel, of=offset, text=f"word {offset}")
    live = await a.conversations.current(channel)
    kept = [live.state.messages[offset] for offset in offsets]
    fits = query_module.Query.fits
    compared: list[str] = []

    def changing(query: query_module.Query, author: str, time_ms: int, content: Content) -> bool:
        compared.append(content.text)
        for one in kept:
            assert isinstance(one, Message)
            one.content = replace(one.content, text="other")
        return fits(query, author, time_ms, content)

    monkeypatch.setattr(tail.Tail, "candidates", _all_edited(channel, offsets))
    monkeypatch.setattr(query_module.Query, "fits", changing)
    found = [one["text"] for one in await search(a, "bob", "word")]
    assert found == [f"word {offset}" for offset in reversed(offsets)]
    assert len(compared) == 3


def _all_edited(channel: str, offsets: list[int]) -> Callable[..., Awaitable[tail.Candidates]]:
    async def candidates(*_: object) -> tail.Candidates:
        return tail.Candidates([], [Place(0.0, -1 << 50, channel, -offset) for offset in offsets], True)

    return candidates


async def test_a_user_asks_the_index_one_question_at_a_time(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And others do meanwhile."""
    index = site.store.search
    assert index is not None
    channel = await group(a, "ann", "bob")
    await say(a, "ann", channel, "word")
    find, asking, most, both = index.find, Counter[str](), 0, asyncio.Event()

    async def counted(asked: Asked) -> Hits:
        nonlocal most
        user = asked.query.authors[0]
        asking[user] += 1
        most = max(most, asking[user])
        if len(+asking) == 2:
            both.set()
        try:
            await both.wait()
            hits: Hits = await find(asked)
            return hits
        finally:
            asking[user] -= 1

    monkeypatch.setattr(index, "find", counted)
    async with asyncio.timeout(60):
        await asyncio.gather(*(search(a, user, "from:me") for user in ("ann", "ann", "ann", "bob", "bob")))
    assert most == 1
    search_of = a.chat.tools.search
    assert search_of is not None
    assert search_of._one_each._locks == {}  # noqa: SLF001
