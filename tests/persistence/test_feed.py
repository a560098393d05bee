"""Publications of `stored` channels in the feed, if their namespace asks for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import Row
from services.persistence.service import _request
from services.shared.feed.reader import FeedReader
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import NEEDS_FEED, Batch, Item, commit_call
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.feed import publications_told
from tests.support.log import append
from tests.support.scripts import run
from thalamus.common.v1 import common_pb2
from thalamus.persistence.v1 import persistence_pb2 as pb

CHANNEL = "chat:feed"


class Persistence:
    """One process."""

    def __init__(self, pipeline: RedisPipeline, store: SqliteLogStore) -> None:
        self.store = store
        self.hot = RedisHotLog(pipeline, lambda: "incarnation", feed_max_entries=1_000)
        self.log = Log(self.hot, store, max_unstored=1_000, max_waiting=10_000, max_batch=256)
        self.running = asyncio.create_task(self.log.run())

    async def publish(self, *authors: str | None, key: str = "") -> list[int]:
        requests = [Request(CHANNEL, item(author, key), 10, 60) for author in authors]
        outcomes = await append(self.log, requests)
        assert all(isinstance(outcome, AppendedPosition) for outcome in outcomes), outcomes
        return [outcome.offset for outcome in outcomes if isinstance(outcome, AppendedPosition)]


def item(author: str | None, key: str = "") -> Item:
    return Item(os.urandom(16), b"\x0a\x02{}", "u", key or os.urandom(8).hex(), author)


@pytest.fixture
async def persistence(redis_pipeline: RedisPipeline, tmp_path: Path) -> AsyncIterator[list[Persistence]]:
    store = SqliteLogStore(tmp_path / "log.sqlite3")
    made = [Persistence(redis_pipeline, store) for _ in range(2)]
    yield made
    for one in made:
        await end_task(one.running)
    await store.close()


async def told(client: redis.asyncio.Redis) -> list[tuple[int, str]]:
    """Number and author of each event of the channel."""
    found = await publications_told(client)
    epoch = await client.hget(keys.meta(CHANNEL), "epoch")
    assert {(event.channel, event.epoch.encode()) for event in found} <= {(CHANNEL, epoch)}
    return [(event.number, event.user) for event in found]


async def test_each_publication_is_told_once(persistence: list[Persistence], redis_conn: redis.asyncio.Redis) -> None:
    assert await persistence[0].publish("änn", "", "bob") == [1, 2, 3]
    assert await persistence[1].publish("cat", key="k") == [4]
    assert await persistence[0].publish("cat", key="k") == [4]
    assert await told(redis_conn) == [(1, "änn"), (2, ""), (3, "bob"), (4, "cat")]


async def test_what_the_log_counts_is_told_with_it(
    persistence: list[Persistence], redis_conn: redis.asyncio.Redis
) -> None:
    items = [item("ann"), item("ann")._replace(flags=3, guard=0), item("bob")._replace(flags=1, guard=0), item("")]
    items += [item(None)._replace(flags=1)]  # its channel is told of, though it does not ask
    outcomes = await append(persistence[0].log, [Request(CHANNEL, one, 10, 60) for one in items])
    assert [getattr(one, "offset", None) for one in outcomes] == [1, 2, None, 3, 4]
    found = await publications_told(redis_conn)
    assert [(one.number, one.user, one.flags, one.n, one.mv) for one in found] == [
        (1, "ann", 0, 0, 0),
        (2, "ann", 3, 1, 2),
        (3, "", 0, 1, 2),
        (4, "", 1, 2, 2),
    ]


async def test_nothing_is_told_where_nobody_asks(
    persistence: list[Persistence], redis_conn: redis.asyncio.Redis
) -> None:
    await persistence[0].publish(None, None)
    assert not await redis_conn.keys("t:feed:*")
    assert not await redis_conn.hexists(keys.meta(CHANNEL), "told")


async def test_what_a_dead_process_numbered_is_told_by_the_one_that_finishes_it(
    persistence: list[Persistence], redis_conn: redis.asyncio.Redis
) -> None:
    first, second = persistence
    await first.log.open(CHANNEL)
    await first.hot.append([Batch(CHANNEL, 10, 60, [item("ann"), item("bob")])], 100)  # and dies
    assert not await told(redis_conn)
    assert await second.log.sweep(0.0, 10) == 1
    assert await told(redis_conn) == [(1, "ann"), (2, "bob")]


async def test_another_replica_commits_what_the_first_one_numbered(
    persistence: list[Persistence], redis_conn: redis.asyncio.Redis
) -> None:
    first, second = persistence
    await first.log.open(CHANNEL)
    await first.hot.append([Batch(CHANNEL, 10, 60, [item("ann")])], 100)
    assert await second.publish(None) == [2]  # an edge that does not have the option yet
    assert await told(redis_conn) == [(1, "ann"), (2, "")]


@pytest.mark.parametrize("hides", [False, True], ids=["open", "hidden"])
async def test_what_a_persistence_without_the_feed_committed_is_made_up_for(
    persistence: list[Persistence], redis_conn: redis.asyncio.Redis, hides: bool
) -> None:
    first, _ = persistence
    ann, bob, nobody, cat = (item(author)._replace(hidden=hides) for author in ("ann", "bob", None, "cat"))
    await append(first.log, [Request(CHANNEL, ann, 10, 60)])
    for one in (bob, nobody):
        await first.hot.append([Batch(CHANNEL, 10, 60, [one])], 100)
    await redis_conn.hset(keys.meta(CHANNEL), "stored", 3)  # as its commit does
    state = await first.log.open(CHANNEL)
    await first.hot.append([Batch(CHANNEL, 10, 60, [cat])], 100)
    assert await first.hot.commit([(CHANNEL, state.epoch, 4, 10)], "incarnation") == [4]
    found = await publications_told(redis_conn, hidden=hides)
    assert [(one.number, one.user) for one in found] == [(1, "ann"), (2, "bob"), (3, ""), (4, "cat")]


async def test_what_was_stored_and_can_t_be_told_any_more_is_a_gap(
    persistence: list[Persistence], redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    """All replicas were away for longer than Redis keeps the log of the channel."""
    first, second = persistence
    reader = FeedReader(redis_url, "g")
    await reader.done(await reader.next(wait_s=0))
    await first.log.open(CHANNEL)
    await first.hot.append([Batch(CHANNEL, 10, 60, [item("ann"), item("bob")])], 100)
    (found,) = await first.hot.unstored([CHANNEL], 10)
    assert found is not None
    await first.store.write([Row(CHANNEL, *entry) for entry in found.entries])  # and dies
    await redis_conn.delete(keys.log(CHANNEL))
    await append(second.log, [Request(CHANNEL, item("cat", "k"), 10, 60)])  # its outcome is unknown
    assert await second.publish("cat", key="k") == [3]
    assert await second.publish("dan") == [4]
    events = await reader.next()
    await reader.done(events)
    await reader.close()
    gap, publication = events
    assert (gap.reason, gap.stream, gap.missed) == ("lost", f"feed{keys.feed_shard(CHANNEL)}", 3)
    assert (publication.number, publication.user) == (4, "dan")


async def test_a_commit_that_does_not_know_of_the_feed_does_nothing(
    persistence: list[Persistence], redis_conn: redis.asyncio.Redis
) -> None:
    first, _ = persistence
    state = await first.log.open(CHANNEL)
    await first.hot.append([Batch(CHANNEL, 10, 60, [item("ann")])], 100)
    assert await run(redis_conn, [commit_call(CHANNEL, state.epoch, 1, 10, "incarnation")]) == [NEEDS_FEED]
    assert await redis_conn.hget(keys.meta(CHANNEL), "stored") == b"0"


@pytest.mark.parametrize(("feed", "author"), [(False, None), (True, "ann")])
def test_the_author_is_taken_from_the_publication(feed: bool, author: str | None) -> None:
    publication = common_pb2.Publication(data=b"{}", info=common_pb2.ClientInfo(user="ann"))
    asked = pb.AppendItem(
        channel=CHANNEL,
        publication=publication.SerializeToString(),
        publication_id=bytes(16),
        key="k",
        history_size=9,
        history_ttl_s=60,
        feed=feed,
    )
    assert _request(asked).item.author == author


def hidden(author: str, users: bytes = b"", flags: int = 1) -> Item:
    """An item of a conversation whose namespace does not ask for events."""
    return item(author)._replace(flags=flags, hidden=True, users=users)


async def test_hidden_entries_are_for_those_alone_who_ask(
    persistence: list[Persistence], redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    plain, asking = FeedReader(redis_url, "plain"), FeedReader(redis_url, "asking", hidden=True)
    for reader in (plain, asking):
        await reader.done(await reader.next(wait_s=0))
    items = [hidden("ann"), hidden("bob", b'["cat","d\xc3\xa4n"]', 8), hidden("ann", flags=0)]
    await append(persistence[0].log, [Request(CHANNEL, one, 10, 60) for one in items])
    found = await publications_told(redis_conn, hidden=True)
    assert [(one.number, one.user, one.flags, one.n, one.users) for one in found] == [
        (1, "ann", 1, 1, ()),
        (2, "bob", 8, 1, ("cat", "dän")),
        (3, "ann", 0, 1, ()),
    ]
    assert [event.number for event in await asking.next(wait_s=0)] == [1, 2, 3]
    assert await plain.next(wait_s=0) == []
    backlog = await plain.backlog()
    assert (backlog.waiting, backlog.pending) == (0, 0)  # passed over, and not told again
    for reader in (plain, asking):
        await reader.close()
    meta: Any = await redis_conn.hgetall(keys.meta(CHANNEL))
    assert b"told" not in meta
    newest: Any = await redis_conn.xrevrange(keys.commits(keys.feed_shard(CHANNEL)), count=1)
    assert meta[b"hinted"] == b"3"
    assert meta[b"fed"] == b"3 " + newest[0][0]


async def test_a_namespace_that_begins_to_ask_is_told_openly_from_then_on(
    persistence: list[Persistence], redis_url: str
) -> None:
    reader = FeedReader(redis_url, "g")
    await reader.done(await reader.next(wait_s=0))
    log = persistence[0].log
    await append(log, [Request(CHANNEL, hidden("ann"), 10, 60)])
    openly = hidden("bob", b'["cat"]', 8)._replace(hidden=False)
    await append(log, [Request(CHANNEL, openly, 10, 60)])
    (event,) = await reader.next(wait_s=0)
    await reader.close()
    assert (event.number, event.user, event.users) == (2, "bob", ("cat",))
    assert "users" not in event.as_json()


async def test_the_gap_of_a_channel_that_is_told_hidden_is_hidden(
    persistence: list[Persistence], redis_url: str, redis_conn: redis.asyncio.Redis
) -> None:
    first, second = persistence
    plain, asking = FeedReader(redis_url, "plain"), FeedReader(redis_url, "asking", hidden=True)
    for reader in (plain, asking):
        await reader.done(await reader.next(wait_s=0))
    await first.log.open(CHANNEL)
    await first.hot.append([Batch(CHANNEL, 10, 60, [hidden("ann"), hidden("bob")])], 100)
    (found,) = await first.hot.unstored([CHANNEL], 10)
    assert found is not None
    await first.store.write([Row(CHANNEL, *entry) for entry in found.entries])  # and dies
    await redis_conn.delete(keys.log(CHANNEL))
    await append(second.log, [Request(CHANNEL, hidden("cat"), 10, 60)])
    gaps = [(one.reason, one.missed) for one in await asking.next(wait_s=0) if one.reason]
    assert gaps == [("lost", 3)]
    assert not [one for one in await plain.next(wait_s=0) if one.reason]
    for reader in (plain, asking):
        await reader.close()


async def test_an_event_that_erases_takes_what_inboxes_show(
    persistence: list[Persistence], redis_conn: redis.asyncio.Redis
) -> None:
    log = persistence[0].log
    await append(log, [Request(CHANNEL, hidden("ann"), 10, 60)])
    await redis_conn.set(keys.inbox_head(CHANNEL), b"secret")
    await append(log, [Request(CHANNEL, hidden("ann"), 10, 60)])
    assert await redis_conn.exists(keys.inbox_head(CHANNEL))
    await append(log, [Request(CHANNEL, hidden("ann", flags=4), 10, 60)])
    assert not await redis_conn.exists(keys.inbox_head(CHANNEL))
