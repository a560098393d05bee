"""What searches find: all that the asker could read, and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from tests.chat.naive_search import Said, words_of
from tests.chat.search_play import Play, search
from tests.support.chat_calls import CallRefused, Replica, Site, group, say, sqlite_site
from tests.support.full import sized
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.common.v1.common_pb2 import ClientInfo


@pytest.fixture
async def site(redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3", has_search=True) as found:
        yield found


async def index_all(site: Site) -> None:
    """Index all there is, and nothing behind it."""
    for replica in site.replicas:
        await replica.chat.projection.flush()
        assert replica.chat.indexing is not None
        await replica.chat.indexing.flush()
    assert site.replicas[0].chat.indexing is not None
    await site.replicas[0].chat.indexing.sweep()


def places(found: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(one["channel"], one["offset"]) for one in found]


async def texts(replica: Replica, user: str, query: str, **more: Any) -> list[str]:
    return [one["text"] for one in await search(replica, user, query, **more)]


def expected(said: list[Said]) -> list[tuple[str, int]]:
    return [(one.channel, one.offset) for one in said]


@pytest.mark.parametrize("seed", range(sized(1, 2)))
async def test_a_search_finds_exactly_what_a_naive_scan_finds(site: Site, seed: int) -> None:
    """In 25 languages, indexed or not, however it was edited and deleted."""
    print("seed", seed)
    rng = random.Random(seed)
    play = Play(site, rng, users=12)
    await play.begin(groups=7, directs=5)
    hits = 0
    for part in range(4):
        await play.go_on(sized(250, 13_000))
        if part % 2:
            await index_all(site)
            await play.go_on(24)
        await play.note_times()
        for _ in range(sized(40, 100)):
            user, wish = rng.choice(play.users), play.wish()
            limit = rng.choice((1, 3, 20, 50)) if hits < 5_000 else 50
            wanted = [one for one in play.visible(user) if wish.fits(one)]
            found = await search(play.replica, user, wish.typed(), limit)
            assert places(found) == expected(wanted), (user, wish)
            assert [one["text"] for one in found] == [one.text for one in wanted]
            hits += len(wanted)
    print("hits", hits)
    assert hits > 50  # which are there depends on what came first in each conversation


async def test_best_first_gives_the_same_messages_each_once(site: Site) -> None:
    rng = random.Random(7)
    play = Play(site, rng, users=5)
    await play.begin(groups=3, directs=2)
    await play.go_on(sized(200, 3_000))
    await play.note_times()
    for is_indexed in (False, True):
        if is_indexed:
            await index_all(site)
        for _ in range(sized(25, 200)):
            user, wish = rng.choice(play.users), play.wish()
            newest = await search(play.replica, user, wish.typed(), 50)
            best = await search(play.replica, user, wish.typed(), 7, sort="best")
            assert sorted(places(best)) == sorted(places(newest))


async def test_the_best_has_more_of_it_in_fewer_words(site: Site, a: Replica) -> None:
    channel = await group(a, "ann", "bob")
    for text in ("the sea is far away from here and cold as ever it was", "sea", "sea, sea", "no land"):
        await say(a, "ann", channel, text)
    assert await texts(a, "bob", "sea", sort="best") == [
        "sea, sea",
        "sea",
        "the sea is far away from here and cold as ever it was",
    ]
    assert (await texts(a, "bob", "sea"))[0] == "sea, sea"


async def test_nobody_finds_what_they_may_not_read(site: Site) -> None:
    """Neither a message nor a number of them, with any query, cursor or channel."""
    rng = random.Random(11)
    play = Play(site, rng, users=sized(20, 100))
    await play.begin(groups=sized(8, 40), directs=sized(8, 40))
    await play.go_on(sized(300, 6_000))
    await index_all(site)
    await play.go_on(60)
    await play.note_times()
    common = [word for word, _ in _common([one.text for said in play.said.values() for one in said.values()])]
    asked = 0
    for user in [*play.users, *(f"stranger {number}" for number in range(sized(10, 900)))]:
        visible = play.visible(user)
        may = set(expected(visible))
        for _ in range(sized(3, 50)):
            word = rng.choice(common)
            found = places(await search(play.replica, user, f'"{word}"', 50))
            assert len(found) == len(set(found))
            assert set(found) == {(one.channel, one.offset) for one in visible if word in words_of(one.text)}
            assert set(found) <= may
            asked += 1
        channel = rng.choice(sorted(play.said))
        if user not in play.members[channel]:
            for query in ({"channel": channel}, {}):
                typed = '"the"' if query else f"the in:{channel}"
                with pytest.raises(CallRefused, match="103 not_allowed"):
                    await play.replica.call(user, "messages.search", query=typed, **query)
    print("asked", asked)


def _common(texts: list[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for text in texts:
        for word in set(words_of(text)):
            counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])[:100]


async def test_who_is_in_no_conversation_finds_nothing(a: Replica) -> None:
    """No conversation is not all conversations."""
    channel = await group(a, "ann", "bob")
    await say(a, "ann", channel, "secret")
    assert await a.call("eve", "messages.search", query="secret") == {"messages": []}
    assert await a.call("eve", "messages.search", query="from:ann") == {"messages": []}
    assert await a.call("eve", "messages.search", query="secret", namespace="conv") == {"messages": []}


async def test_who_is_removed_between_two_pages_gets_no_more(site: Site, a: Replica, b: Replica) -> None:
    first, second = await group(a, "ann", "bob"), await group(a, "ann", "bob")
    for number in range(6):
        await say(a, "ann", first if number % 2 else second, f"word {number}")
    await index_all(site)
    page = await b.call("bob", "messages.search", query="word", limit=2)
    assert [one["text"] for one in page["messages"]] == ["word 5", "word 4"]
    await a.call("ann", "members.remove", channel=first, user="bob")
    rest = await b.call("bob", "messages.search", query="word", limit=20, cursor=page["cursor"])
    assert [one["text"] for one in rest["messages"]] == ["word 2", "word 0"]
    await a.call("ann", "members.add", channel=first, user="bob")
    assert len(await texts(b, "bob", "word")) == 6


async def test_who_joins_late_finds_what_came_then(site: Site, a: Replica, b: Replica) -> None:
    """Also what was indexed before, and what was edited since."""
    channel = await group(a, "ann", history="joined")
    old = await say(a, "ann", channel, "word before")
    await index_all(site)
    await a.call("ann", "members.add", channel=channel, user="bob")
    await a.call("ann", "messages.edit", channel=channel, of=old, text="word before, edited")
    assert await texts(b, "bob", "word") == []
    await say(a, "ann", channel, "word behind")
    for _ in range(2):
        assert await texts(b, "bob", "word") == ["word behind"]
        assert await texts(b, "bob", "word", channel=channel) == ["word behind"]
        assert len(await texts(b, "ann", "word")) == 2
        await index_all(site)


async def test_a_page_is_full_whenever_there_are_so_many(site: Site, a: Replica) -> None:
    """However few of all matches the asker may read, and however many were deleted."""
    foreign, own = await group(a, "ann"), await group(a, "ann", "bob")
    for number in range(sized(100, 20_000)):
        await say(a, "ann", foreign, f"common {number}")
    mine = [await say(a, "ann", own, f"common own {number}") for number in range(30)]
    gone = [await say(a, "ann", own, f"common gone {number}") for number in range(70)]
    await index_all(site)
    for offset in gone:
        await a.call("ann", "messages.delete", channel=own, of=offset)
    page = await a.call("bob", "messages.search", query="common", limit=20)
    assert places(page["messages"]) == [(own, offset) for offset in reversed(mine[10:])]
    rest = await a.call("bob", "messages.search", query="common", limit=20, cursor=page["cursor"])
    assert places(rest["messages"]) == [(own, offset) for offset in reversed(mine[:10])]
    assert "cursor" not in rest


async def test_pages_stay_what_they_are_while_others_write(site: Site, a: Replica, b: Replica) -> None:
    """Nothing twice, nothing left out, nothing that came later."""
    channel, other = await group(a, "ann", "bob"), await group(a, "ann", "bob")
    for number in range(25):
        await say(a, "ann", channel if number % 3 else other, f"word {number}")
    for sort in ("newest", "best"):
        found: list[str] = []
        before = len(await texts(b, "bob", "word"))
        cursor = ""
        while True:
            page = await b.call("bob", "messages.search", query="word", limit=4, cursor=cursor, sort=sort)
            found += [one["text"] for one in page["messages"]]
            cursor = page.get("cursor", "")
            if not cursor:
                break
            await say(a, "ann", channel, "word that came later")
            await index_all(site)
        assert len(found) == before
        assert len([one for one in found if "later" not in one]) == 25
        assert len(set(found) - {"word that came later"}) == 25


async def test_the_words_before_an_edit_are_not_found_and_the_new_ones_are(site: Site, a: Replica, b: Replica) -> None:
    """At once, and when all is indexed; whether versions are kept or erased."""
    for versions in ("keep", "erase"):
        channel = await group(a, "ann", "bob", versions=versions)
        offset = await say(a, "ann", channel, f"old {versions}")
        await index_all(site)
        await a.call("ann", "messages.edit", channel=channel, of=offset, text=f"new {versions}")
        for _ in range(2):
            assert await texts(b, "bob", f"old {versions}") == []
            assert await texts(b, "bob", f"new {versions}") == [f"new {versions}"]
            await index_all(site)


async def test_messages_in_threads_and_silent_ones_are_found(a: Replica, b: Replica) -> None:
    channel = await group(a, "ann", "bob")
    root = await say(a, "ann", channel, "word root")
    await say(a, "bob", channel, "word answer", thread=root)
    await say(a, "ann", channel, "word silent", silent=True)
    assert await texts(b, "bob", "word") == ["word silent", "word answer", "word root"]
    answer = await b.call("bob", "messages.search", query="root")
    assert answer["messages"][0]["replies"] == 1
    assert answer["messages"][0]["as_of"]["offset"] >= 4


async def test_an_open_conversation_is_searched_where_it_is_named(site: Site, a: Replica) -> None:
    made = await a.call("", "conversations.create", type="open", id="lobby", name="Lobby")
    await say(a, "ann", made["channel"], "word in the lobby")
    assert await texts(a, "eve", "word") == []
    for _ in range(2):
        assert await texts(a, "eve", "word", channel=made["channel"]) == ["word in the lobby"]
        assert await texts(a, "eve", f"word in:{made['channel']}") == ["word in the lobby"]
        await index_all(site)
    await a.call("", "members.ban", channel=made["channel"], user="eve")
    with pytest.raises(CallRefused, match="103 not_allowed"):
        await search(a, "eve", "word", channel=made["channel"])


async def test_the_platform_searches_where_it_names_a_conversation(a: Replica) -> None:
    channel = await group(a, "ann", "bob")
    await say(a, "ann", channel, "word")
    assert await texts(a, "", "word", channel=channel) == ["word"]
    for query in ("word", "from:me"):
        with pytest.raises(CallRefused, match="107 malformed"):
            await search(a, "", query)


@pytest.mark.parametrize(
    "params",
    [
        {"query": "..."},
        {"query": "word", "cursor": "no"},
        {"query": "word", "cursor": "e30"},
        {"query": "word in:conv:g.x in:conv:g.y"},
        {"query": "w" * 513},
        {"query": ""},
        {"query": "word", "limit": 51},
        {"query": "word", "sort": "worst"},
    ],
)
async def test_what_can_not_be_a_search_is_refused(a: Replica, params: dict[str, Any]) -> None:
    with pytest.raises(CallRefused, match="107 malformed"):
        await a.call("ann", "messages.search", **params)


async def test_a_channel_of_another_namespace_is_refused_as_one_that_is_not_there(a: Replica) -> None:
    channel = await group(a, "ann")
    for params in (
        {"query": f"x in:{channel}", "namespace": "other"},
        {"query": "x in:other:g.x"},
        {"query": "x in:x"},
    ):
        with pytest.raises(CallRefused, match="103 not_allowed"):
            await a.call("ann", "messages.search", **params)


async def test_what_lies_in_no_namespace_of_conversations_is_not_searched(site: Site, a: Replica) -> None:
    """Edges see to that where a request names a channel, but `in:` is part of a query."""

    async def elsewhere(method: str, **params: Any) -> dict[str, Any]:
        """Call a method as edges did when the namespace `old` had conversations."""
        info = ClientInfo(user="ann", client="c")
        given = json.dumps(params).encode()
        answer = await a.methods.call(
            pb.CallRequest(method=method, info=info, params=given, key_user="u:ann", namespace="old", options=a.options)
        )
        return dict(json.loads(answer.result))

    channel = (await elsewhere("conversations.create", users=["bob"]))["channel"]
    await elsewhere("messages.send", channel=channel, text="word")
    own = await group(a, "ann", "bob")
    await say(a, "ann", own, "word here")
    for named in (channel, "$" + own, "old:g.x", "word"):
        with pytest.raises(CallRefused, match="103 not_allowed"):
            await search(a, "ann", f"word in:{named}")
    assert await texts(a, "ann", "word") == ["word here"]
    assert await texts(a, "ann", f"word in:{own}") == ["word here"]
    other = site.another()
    for replica in site.replicas:
        await replica.rest()
    await elsewhere("messages.send", channel=channel, text="word")
    before = (await site.store.search.indexed([channel]))[channel]
    assert other.chat.indexing is not None
    await other.chat.indexing.sweep()
    assert (await site.store.search.indexed([channel]))[channel] == before
    assert other.conversations.cached(channel) is None


async def test_a_deleted_conversation_is_found_no_more(site: Site, a: Replica, b: Replica) -> None:
    channel = await group(a, "ann", "bob")
    await say(a, "ann", channel, "word")
    await index_all(site)
    await a.call("ann", "conversations.delete", channel=channel)
    assert await b.call("bob", "messages.search", query="word") == {"messages": []}


async def test_searches_while_all_write_find_what_was_acknowledged(site: Site) -> None:
    """At once, on any replica, with the index running behind."""
    rng = random.Random(3)
    a, b = site.replicas
    channels = [await group(a, "ann", "bob") for _ in range(4)]
    told: list[str] = []

    async def write(number: int) -> None:
        for count in range(sized(25, 400)):
            text = f"word n{number}x{count}"
            await say(rng.choice((a, b)), "ann", rng.choice(channels), text)
            told.append(text)

    async def look() -> None:
        while len(told) < sized(100, 1_600):
            known = set(told)
            found = await texts(rng.choice((a, b)), "bob", "word", limit=50)
            assert known <= set(found)
            assert len(found) == len(set(found))

    await asyncio.gather(*(write(number) for number in range(4)), look())
