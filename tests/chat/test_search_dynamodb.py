"""Searches with the index in DynamoDB: all is found, nothing deleted is left."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat.adapters.dynamodb.search.index import DynamoDbSearchIndex
from services.persistence.chat.search import tail
from services.persistence.queue.outbox import Outbox
from services.persistence.queue.settings import SqsSettings
from services.persistence.queue.sqs import SqsQueue
from services.shared.dynamodb.client import values_of
from tests.chat.search_play import Play, planted, search
from tests.support.chat_calls import Replica, Site, dynamodb_site, group, say
from tests.support.full import sized
from tests.support.sqs import sqs_address as sqs_address
from tests.support.sqs import sqs_settings as sqs_settings
from tests.support.waiting import until


@pytest.fixture
async def site(
    redis_conn: redis.asyncio.Redis, redis_url: str, dynamodb: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    """Two replicas, with blocks of few messages."""
    monkeypatch.setattr(DynamoDbSearchIndex, "rows_at_once", 8)
    async with dynamodb_site(redis_url, dynamodb, has_search=True) as found:
        yield found


async def index_all(*replicas: Replica) -> None:
    """Have in the index what these replicas have to bring there."""
    for replica in replicas:
        assert replica.chat.indexing is not None
        for _ in range(30):  # a page or some each time
            await replica.chat.projection.flush()
            await replica.chat.indexing.flush()
            if not replica.chat.projection._due and not replica.chat.indexing._due:  # noqa: SLF001
                break


async def items(site: Site) -> list[dict[str, Any]]:
    """All items of the index."""
    table = site.store._table  # noqa: SLF001
    found: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        answer = await table._db.call("scan", TableName=table._name, ConsistentRead=True, **more)  # noqa: SLF001
        found += [values for values in map(values_of, answer["Items"]) if values["p"].startswith("x#")]
        if "LastEvaluatedKey" not in answer:
            return found
        more = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


async def words(site: Site) -> set[str]:
    """The planted words that are in any block."""
    parts: dict[str, dict[str, bytes]] = {}
    for item in await items(site):
        if "data" in item:
            block, _, part = item["s"].rpartition("#")
            parts.setdefault(item["p"] + block, {})[part] = item["data"]
    blocks = (b"".join(data for _, data in sorted(block.items())) for block in parts.values())
    return {word.decode() for block in blocks for word in re.findall(rb"q[0-9a-f]{12}zz", zlib.decompress(block))}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(sized(1, 4)))
async def test_a_search_finds_exactly_what_a_naive_scan_finds(site: Site, seed: int) -> None:
    """Page by page, as with SQLite; the index runs behind on two replicas."""
    print("seed", seed)
    rng = random.Random(seed)
    play = Play(site, rng, users=5)
    await play.begin(groups=2, directs=1)
    hits = 0
    for part in range(2):
        await play.go_on(sized(36, 2_000))
        if part:
            await index_all(*site.replicas)
        await play.note_times()
        for number in range(sized(8, 100)):
            user, wish = rng.choice(play.users), play.wish()
            wanted = [one for one in play.visible(user) if wish.fits(one)]
            found = await search(play.replica, user, wish.typed(), rng.choice((5, 20)))
            assert [(one["channel"], one["offset"]) for one in found] == [(one.channel, one.offset) for one in wanted]
            assert [one["text"] for one in found] == [one.text for one in wanted]
            if number % 4 == 0:
                best = await search(play.replica, user, wish.typed(), 7, sort="best")
                assert sorted(one["text"] for one in best) == sorted(one["text"] for one in found)
            hits += len(wanted)
    print("hits", hits, "items", len(await items(site)))
    assert hits > 2


@pytest.mark.slow
async def test_words_of_deleted_edited_and_purged_messages_are_in_no_block(site: Site, a: Replica, b: Replica) -> None:
    """They go before the mark of the event does, whichever replica writes."""
    rng = random.Random(5)
    kept: set[str] = set()
    gone: set[str] = set()
    channel = await group(a, "ann", "bob", versions="erase")
    for number in range(sized(16, 400)):
        word, user, replica = planted(rng), rng.choice(("ann", "bob")), rng.choice((a, b))
        offset = await say(replica, user, channel, f"see {word} and {number}")
        (kept if user == "ann" else gone).add(word)
        if number % 10 == 9:
            await index_all(a, b)
            assert await words(site)
        if user == "ann" and number % 3 == 0:
            kept.discard(word)
            gone.add(word)
            if number % 2:
                await replica.call(user, "messages.delete", channel=channel, of=offset)
            else:
                kept.add(new := planted(rng))
                await replica.call(user, "messages.edit", channel=channel, of=offset, text=f"now {new}")
    await a.call("ann", "messages.purge", channel=channel, user="bob", upto=10_000)
    await index_all(a, b)
    marks = a.chat.projection._marks  # noqa: SLF001

    async def is_done() -> bool:
        return await marks.settled(-1.0, 100, 0) == []

    await until(is_done)
    found = await words(site)
    assert found & gone == set()
    assert found <= kept
    assert len(kept - found) < 8  # those are not sealed yet
    for word in sorted(kept):
        assert len(await search(b, "bob", word)) == 1


async def test_of_a_deleted_conversation_only_the_head_stays(site: Site, a: Replica) -> None:
    channel, other = await group(a, "ann", "bob"), await group(a, "ann", "bob")
    for number in range(20):
        await say(a, "ann", channel, f"see {number}")
        await say(a, "ann", other, f"see {number}")
        await index_all(a)
    assert len([one for one in await items(site) if one["p"] == f"x#{channel}"]) > 3
    await a.call("ann", "conversations.delete", channel=channel)
    await index_all(a)

    async def is_empty() -> bool:
        return [one["s"] for one in await items(site) if one["p"] == f"x#{channel}"] == ["-"]

    await until(is_empty)
    assert len(await search(a, "bob", "see")) == 20


async def test_a_deletion_by_a_process_that_died_reaches_the_blocks(site: Site, a: Replica, b: Replica) -> None:
    word = planted(random.Random(7))
    channel = await group(a, "ann", "bob")
    offset = await say(a, "ann", channel, f"see {word}")
    for number in range(10):
        await say(a, "ann", channel, f"see {number}")
    await index_all(a)
    assert word in await words(site)
    await a.rest()  # nothing goes on behind its answers
    await a.call("ann", "messages.delete", channel=channel, of=offset)
    assert await b.call("bob", "messages.search", query=word) == {"messages": []}
    assert await b.chat.projection.sweep(-1.0) > 0
    assert word not in await words(site)


async def test_an_edit_after_a_loss_of_redis_reaches_the_blocks_before_its_mark_goes(
    redis_url: str, dynamodb: str, sqs_settings: SqsSettings
) -> None:
    """In a `queued` one: rows that were looked at are stored and not replaced."""
    queue = SqsQueue(sqs_settings)
    await queue.prepare()
    sink = partial(Outbox, queue, clock=lambda: 0.0)
    async with dynamodb_site(redis_url, dynamodb, has_search=True, sink=sink) as site:
        for replica in site.replicas:
            await replica.rest()
        a = site.replicas[0]
        channel = await group(a, "ann", "bob")
        word = planted(random.Random(3))
        offset = await say(a, "ann", channel, f"see {word}")
        indexing = a.chat.indexing
        assert indexing is not None
        indexing.at_once(channel)
        await indexing.index_asked_for()
        assert await words(site) == {word}
        last = await say(a, "ann", channel, "see")
        assert await site.rows.read(channel, since_offset=offset, upto=last, limit=9, reverse=False) == []
        assert await indexing.reach(await a.conversations.current(channel))
        await site.lose_redis()
        await a.call("ann", "messages.edit", channel=channel, of=offset, text="other")
        await a.chat.projection.flush()
        marks = a.chat.projection._marks  # noqa: SLF001
        assert await marks.settled(-1.0, 100, 0) == []
        assert await words(site) == set()
    await queue.close()


async def test_removed_history_leaves_the_blocks_and_messages_after_it_wait_for_others(site: Site, a: Replica) -> None:
    for replica in site.replicas:
        await replica.rest()
    channel = await group(a, "ann", "bob")
    gone, kept = planted(random.Random(4)), planted(random.Random(5))
    offset = await say(a, "ann", channel, f"see {gone}")
    await say(a, "ann", channel, f"see {kept}")
    for number in range(8):
        await say(a, "ann", channel, f"see {number}")
    await index_all(a)
    assert await words(site) == {gone, kept}
    await a.log.remove_history(channel, offset)
    await a.conversations.current(channel)
    await say(a, "ann", channel, "see")
    await index_all(a)
    assert await words(site) == {kept}
    before = await items(site)
    for number in range(3):
        await say(a, "ann", channel, f"see {number}")
        await index_all(a)
    assert await items(site) == before


async def test_a_few_messages_wait_for_others_and_are_found_at_once(site: Site, a: Replica) -> None:
    channel = await group(a, "ann", "bob")
    for number in range(4):
        await say(a, "ann", channel, f"see {number}")
    await a.call("bob", "reactions.add", channel=channel, of=3, name="+")
    await index_all(a)
    assert await items(site) == []
    assert len(await search(a, "bob", "see")) == 4
    for number in range(4):
        await say(a, "ann", channel, f"see {number}")
    await index_all(a)
    assert len(await items(site)) == 3  # head, filter, block
    assert len(await search(a, "bob", "see")) == 8


async def test_conversations_that_a_search_could_not_read_are_indexed_then(
    site: Site, a: Replica, b: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few messages they have, so the next search finds all."""
    for replica in site.replicas:
        await replica.rest()
    for _ in range(3):
        channel = await group(a, "ann", "bob")
        for number in range(3):
            await say(a, "ann", channel, f"see {number}")
    monkeypatch.setattr(tail, "_MAX_ROWS", 5)
    answer = await b.call("bob", "messages.search", query="see")
    assert answer["incomplete"] is True
    assert b.chat.indexing is not None
    await b.chat.indexing.index_asked_for()
    answer = await b.call("bob", "messages.search", query="see")
    assert "incomplete" not in answer
    assert len(answer["messages"]) == 9


async def test_a_search_with_very_many_blocks_goes_on_with_the_next_page(
    site: Site, a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beginning of a word asks for all blocks; best first tells that it is not all."""
    channels = [await group(a, "ann", "bob") for _ in range(2)]
    for number in range(24):
        await say(a, "ann", channels[number % 2], f"common {number}")
        if number % 8 == 7:
            for channel in channels:
                live = await a.conversations.current(channel)
                assert a.chat.indexing is not None
                a.chat.indexing.at_once(channel)
                await a.chat.indexing.index_asked_for()
                assert (await site.store.search.indexed([channel]))[channel] == live.position
    for replica in site.replicas:
        monkeypatch.setattr(replica.store.search._finder, "_most_blocks", 1)  # noqa: SLF001
    pages = 0
    found: list[str] = []
    cursor = ""
    while cursor or not pages:
        answer = await a.call("bob", "messages.search", query="com* -nothing", limit=50, cursor=cursor)
        assert "incomplete" not in answer
        found += [one["text"] for one in answer["messages"]]
        cursor, pages = answer.get("cursor", ""), pages + 1
    assert found == [f"common {number}" for number in range(23, -1, -1)]
    assert pages > 1
    answer = await a.call("bob", "messages.search", query="com*", sort="best")
    assert answer["incomplete"] is True
    assert answer["messages"]
