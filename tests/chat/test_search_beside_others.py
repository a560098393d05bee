"""What others wrote: searches find no less for it, and take no longer."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from services.persistence.chat.index.ports import Document, SearchIndex, Update
from services.persistence.chat.index.query import author_tag
from tests.chat.search_play import search
from tests.support.alike import assert_alike
from tests.support.chat_calls import Replica, Site, sqlite_site
from tests.support.full import sized

_EACH = 1_000  # messages of a conversation of others


@pytest.fixture
async def site(redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3", has_search=True) as found:
        for replica in found.replicas:
            await replica.rest()
        yield found


async def conversations_of_others(index: SearchIndex, messages: int) -> None:
    """Have the index know conversations of others, in which many words begin alike."""
    rng = random.Random(6)
    now = int(time.time() * 1_000)
    for number in range(messages // _EACH):
        documents: dict[int, Document | None] = {
            offset: Document(
                now - messages + offset, ["common", f"common{rng.randrange(10**6)}"], (author_tag("others"),)
            )
            for offset in range(1, _EACH + 1)
        }
        assert await index.apply([Update(f"conv:g.others{number}", 0, _EACH, documents)]) == [True]


async def conversations_of(a: Replica, user: str, count: int, texts: int) -> list[str]:
    """Create conversations of a user, say something in each, and index it."""
    channels: list[str] = []
    for number in range(count):
        made = await a.call("ann", "conversations.create", users=[user], name=f"Group {number}")
        channels.append(made["channel"])
        for text in range(texts):
            await a.call("ann", "messages.send", channel=channels[-1], text=f"word {number} {text}")
    assert a.chat.indexing is not None
    await a.chat.indexing.sweep()
    return channels


@pytest.mark.parametrize(
    ("there", "nowhere"),
    [("common", "missing"), ("comm*", "miss*"), ("from:others", "from:nobody"), ("word common", "word missing")],
)
async def test_a_search_takes_as_long_whether_others_wrote_of_it_or_not(
    site: Site, a: Replica, there: str, nowhere: str
) -> None:
    """And the answers are the same, however often they wrote it.

    Time is CPU of this process, where SQLite is: how long it waits for a processor has leaps on a busy machine.
    """
    index = site.store.search
    assert index is not None
    await conversations_of(a, "bob", 4, 3)
    await conversations_of_others(index, sized(20_000, 200_000))

    async def once(query: str) -> float:
        began = time.process_time()
        answer = await a.call("bob", "messages.search", query=query)
        took = time.process_time() - began
        assert answer == {"messages": []}
        return took

    await assert_alike(once, there, nowhere, samples=25, within=0.20)


async def test_a_page_is_full_where_one_of_a_thousand_may_be_read(site: Site, a: Replica) -> None:
    index = site.store.search
    assert index is not None
    [own] = await conversations_of(a, "bob", 1, 0)
    await conversations_of_others(index, 20_000)
    offsets = [
        (await a.call("ann", "messages.send", channel=own, text=f"common {number}"))["offset"] for number in range(20)
    ]
    for _ in range(2):
        page = await a.call("bob", "messages.search", query="common", limit=20)
        assert [(one["channel"], one["offset"]) for one in page["messages"]] == [
            (own, offset) for offset in reversed(offsets)
        ]
        assert "cursor" not in page
        assert a.chat.indexing is not None
        await a.chat.indexing.sweep()


async def test_who_is_in_very_many_conversations_finds_all_and_only_theirs(site: Site, a: Replica) -> None:
    """Also once removed from some of them, between two pages."""
    channels = await conversations_of(a, "bob", sized(40, 1_000), 1)
    await conversations_of(a, "eve", 3, 1)
    found = await search(a, "bob", "word", 7)
    assert [one["channel"] for one in found] == channels[::-1]
    assert sorted(one["channel"] for one in await search(a, "bob", "word", 7, sort="best")) == sorted(channels)
    first = await a.call("bob", "messages.search", query="word", limit=10)
    for channel in channels[::2]:
        await a.call("ann", "members.remove", channel=channel, user="bob")
    rest, cursor = [], first["cursor"]
    while cursor:
        page = await a.call("bob", "messages.search", query="word", limit=7, cursor=cursor)
        rest += [one["channel"] for one in page["messages"]]
        cursor = page.get("cursor", "")
    assert rest == [channel for channel in channels[-11::-1] if channel in channels[1::2]]
