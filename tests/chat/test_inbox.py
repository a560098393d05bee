"""Inboxes: order, previews, pages, what changed, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat.inbox import inbox as module
from services.persistence.chat.ports import Changes
from services.shared.dynamodb.client import DynamoDb
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.chat_calls import CallRefused, Replica, Site, dynamodb_site, group, say, sqlite_site
from tests.support.full import sized
from tests.support.waiting import until

Answer = dict[str, Any]


@pytest.fixture(params=["sqlite", "dynamodb"])
async def site(
    request: pytest.FixtureRequest, redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path
) -> AsyncIterator[Site]:
    """Two replicas on one Redis and one store."""
    if request.param == "sqlite":
        async with sqlite_site(redis_url, tmp_path / "log.sqlite3") as found:
            yield found
    else:
        async with dynamodb_site(redis_url, request.getfixturevalue("dynamodb")) as found:
            yield found


async def inbox(replica: Replica, user: str, **params: Any) -> Answer:
    answer = await replica.call(user, "inbox.list", **params)
    await replica.chat.inbox.drain()
    return answer


def channels(answer: Answer) -> list[str]:
    return [one["channel"] for one in answer["conversations"]]


async def test_conversations_come_by_last_activity_with_what_was_said_last(site: Site) -> None:
    a, b = site.replicas
    first, second = await group(a, "ann", "bob"), await group(b, "ann", "bob")
    direct = (await a.call("ann", "messages.send", to="bob", text="hi"))["channel"]
    offset = await say(b, "bob", first, "x" * 200)
    for replica in (a, b, a):
        answer = await inbox(replica, "ann")
        assert channels(answer) == [first, direct, second]
        one, two, three = answer["conversations"]
        assert one["last"] == {"offset": offset, "author": "bob", "time": one["time"], "text": "x" * 140}
        assert (one["n"], one["offset"], one["unread"], one["mentions"]) == (1, offset, 1, 0)
        assert one["as_of"]["offset"] == offset
        assert (two["with"], two["type"], two["last"]["text"], two["unread"]) == ("bob", "direct", "hi", 0)
        assert "last" not in three
        assert answer["all"] is True
        assert "cursor" not in answer


async def test_read_muted_and_archived_are_told(site: Site) -> None:
    a, b = site.replicas
    channel = await group(a, "ann", "bob")
    offset = await say(a, "bob", channel, "hello")
    await say(a, "bob", channel, "@ann", mentions=["ann"])
    (one,) = (await inbox(b, "ann"))["conversations"]
    assert (one["unread"], one["mentions"], one["marker"]) == (2, 1, {"generation": 0, "offset": 0})
    live = await a.conversations.current(channel)
    await a.chat.markers.merge("ann", channel, live.epoch, live_marker(0, offset))
    (one,) = (await inbox(b, "ann"))["conversations"]
    assert (one["unread"], one["mentions"], one["marker"]) == (1, 1, {"generation": 0, "offset": offset})
    assert (one["muted"], one["archived"]) == (False, False)


def live_marker(generation: int, offset: int) -> Any:
    from services.persistence.chat.markers.record import Marker

    return Marker(generation, offset)


@pytest.mark.parametrize("way", ["delete", "purge", "edit", "erase", "moderated", "me", "conversation"])
async def test_what_was_deleted_or_edited_is_in_no_preview_and_not_in_redis(
    site: Site, redis_conn: redis.asyncio.Redis, way: str
) -> None:
    a, b = site.replicas
    channel = await group(a, "ann", "bob", versions="erase" if way == "erase" else "keep")
    before = await say(a, "ann", channel, "before")
    offset = await say(a, "bob", channel, "SECRETSECRET")
    for replica in (a, b):
        (one,) = (await inbox(replica, "ann"))["conversations"]
        assert one["last"]["text"] == "SECRETSECRET"
    head: Any = await redis_conn.get(keys.inbox_head(channel))
    assert b"SECRETSECRET" in head
    assert len(await places(redis_conn, b"SECRETSECRET")) > 1
    if way in ("delete", "moderated"):
        author = "bob" if way == "delete" else "ann"
        await a.call(author, "messages.delete", channel=channel, of=offset)
    elif way == "purge":
        await a.call("ann", "messages.purge", channel=channel, user="bob")
    elif way == "me":
        erased = await a.call("bob", "me.erase")
        while not erased["done"]:
            erased = await a.call("bob", "me.erase", cursor=erased["cursor"])
    elif way == "conversation":
        await a.call("ann", "conversations.delete", channel=channel)
        assert await places(redis_conn, b"SECRETSECRET") == []
        assert [channels(await inbox(replica, "ann")) for replica in (b, a)] == [[], []]
        return
    else:
        await a.call("bob", "messages.edit", channel=channel, of=offset, text="harmless")
    if way != "edit":  # older versions are kept
        assert keys.inbox_head(channel).encode() not in await places(redis_conn, b"SECRETSECRET")
    while way in ("purge", "me") and await places(redis_conn, b"SECRETSECRET"):
        await asyncio.sleep(0.05)  # behind the answer if the store is slow
    if way != "edit":
        assert await places(redis_conn, b"SECRETSECRET") == []
    for replica in (b, a, b):
        (one,) = (await inbox(replica, "ann"))["conversations"]
        assert "SECRETSECRET" not in str(one)
        if way in ("edit", "erase"):
            assert (one["last"]["text"], one["last"]["offset"], one["last"]["edited"]) == ("harmless", offset, True)
        else:
            assert (one["last"]["text"], one["last"]["offset"]) == ("before", before)
            assert (one["n"], one["unread"]) == (2, 0)
    if way != "edit":
        assert await places(redis_conn, b"SECRETSECRET") == []


async def places(client: redis.asyncio.Redis, text: bytes) -> list[bytes]:
    """The keys of Redis that have a text."""
    return [name async for name in client.scan_iter(count=1_000) if text in ((await client.dump(name)) or b"")]


async def test_a_reader_that_is_slow_puts_nothing_deleted_back(site: Site, redis_conn: redis.asyncio.Redis) -> None:
    a, b = site.replicas
    channel = await group(a, "ann", "bob")
    offset = await say(a, "bob", channel, "SECRETSECRET")
    found = await b.chat.inbox.reading.read(channel)
    assert found is not None
    assert found[0].last is not None
    await a.call("bob", "messages.delete", channel=channel, of=offset)
    await b.chat.inbox.kept.put([(channel, found[0])])
    assert await redis_conn.get(keys.inbox_head(channel)) is None


async def test_who_was_removed_sees_nothing_more_also_on_the_word_of_an_old_list(
    site: Site, redis_conn: redis.asyncio.Redis
) -> None:
    a, b = site.replicas
    channel = await group(a, "ann", "bob", "eve")
    await say(a, "ann", channel, "before")
    assert channels(await inbox(b, "eve")) == [channel]
    old: Any = await redis_conn.hgetall(keys.inbox_list("eve"))
    assert old[b"d"]
    await a.call("ann", "members.remove", channel=channel, user="eve")
    await say(a, "ann", channel, "SECRETSECRET")
    await redis_conn.hset(keys.inbox_list("eve"), mapping=old)  # as a version of before leaves it
    for replica in (a, b):
        answer = await inbox(replica, "eve")
        assert channels(answer) == []
        assert "SECRETSECRET" not in str(answer)
    assert channels(await inbox(b, "bob")) == [channel]


async def test_who_joined_later_has_no_preview_of_before(site: Site) -> None:
    a, b = site.replicas
    channel = await group(a, "ann", "bob", history="joined")
    await say(a, "ann", channel, "SECRETSECRET")
    await a.call("ann", "members.add", channel=channel, user="eve")
    for replica in (a, b):
        answer = await inbox(replica, "eve")
        assert channels(answer) == [channel]
        assert "SECRETSECRET" not in str(answer)
        assert answer["conversations"][0]["unread"] == 0
    await say(b, "ann", channel, "after")
    assert (await inbox(a, "eve"))["conversations"][0]["last"]["text"] == "after"


async def test_who_is_invited_sees_what_it_is_and_not_how_much_is_in_it(site: Site) -> None:
    a, b = site.replicas
    channel = await group(a, "ann", "bob")
    await a.call("ann", "conversations.update", channel=channel, name="Lunch")
    await say(a, "ann", channel, "SECRETSECRET")
    await a.call("ann", "members.invite", channel=channel, user="eve")
    await site.settle(channel)
    (one,) = (await inbox(b, "eve"))["conversations"]
    assert set(one) == {"channel", "type", "name", "phase", "invited", "as_of"}
    assert (one["name"], one["invited"]) == ("Lunch", "member")
    await b.call("eve", "conversations.join", channel=channel)
    assert (await inbox(a, "eve"))["conversations"][0]["last"]["text"] == "SECRETSECRET"


async def test_names_threads_and_silent_messages(site: Site, redis_conn: redis.asyncio.Redis) -> None:
    a, b = site.replicas
    channel = await group(a, "ann", "bob")
    root = await say(a, "ann", channel, "root")
    await inbox(b, "ann")
    await say(a, "bob", channel, "in the thread", thread=root)
    (one,) = (await inbox(b, "ann"))["conversations"]
    assert one["last"]["text"] == "root"
    await say(a, "bob", channel, "@ann", thread=root, mentions=["ann"])
    for _ in range(2):  # from the rows behind the head, and from the conversation
        (one,) = (await inbox(b, "ann"))["conversations"]
        assert (one["unread"], one["mentions"]) == (0, 1)
        await redis_conn.delete(keys.inbox_head(channel))
    await say(a, "bob", channel, "silent", silent=True)
    await a.call("ann", "reactions.add", channel=channel, of=root, name="+1")
    (one,) = (await inbox(b, "ann"))["conversations"]
    assert (one["last"]["text"], one["n"]) == ("silent", 1)
    await a.call("ann", "conversations.update", channel=channel, name="Dinner")
    assert (await inbox(b, "ann"))["conversations"][0]["name"] == "Dinner"
    await a.call("ann", "conversations.delete", channel=channel)
    assert channels(await inbox(b, "ann")) == []


async def test_pages_are_stable_while_things_move_and_since_has_what_moved(site: Site) -> None:
    a, b = site.replicas
    made = [await group(a, "ann", "bob") for _ in range(7)]
    await asyncio.sleep(1.1)  # new ones count for a second
    answer = await inbox(b, "ann", limit=3)
    seen = channels(answer)
    since = answer["since"]
    await say(a, "bob", made[0], "up")
    while "cursor" in answer:
        answer = await inbox(b, "ann", limit=3, cursor=answer["cursor"])
        assert answer["since"] == since
        seen += channels(answer)
    assert len(seen) == len(set(seen)) == 6
    assert channels(await inbox(a, "ann", since=since)) == [made[0]]
    assert set(seen) | {made[0]} == set(made)


async def test_since_has_12_of_300(site: Site) -> None:
    a, b = site.replicas
    made = [await group(a, "ann", "bob") for _ in range(sized(20, 300))]
    await asyncio.sleep(1.1)  # new ones count for a second
    since = (await inbox(b, "ann"))["since"]
    assert channels(await inbox(b, "ann", since=since)) == []
    changed = random.Random(7).sample(made, 12)
    for number, channel in enumerate(changed):
        await say(a, "bob", channel, f"{number}")
    answer = await inbox(b, "ann", since=since)
    assert set(channels(answer)) == set(changed)
    order = [(-one["time"], one["channel"]) for one in answer["conversations"]]
    assert order == sorted(order), "several may be of the same ms"
    assert answer["all"] is False
    assert channels(await inbox(a, "ann", since=answer["since"])) == []
    first = await inbox(a, "ann", since=since, limit=5)
    rest = await inbox(b, "ann", cursor=first["cursor"], limit=7)
    assert channels(first) + channels(rest) == channels(answer)
    assert "cursor" not in rest


async def test_since_tells_what_was_left_and_joined_and_a_redis_that_was_lost(
    site: Site, redis_conn: redis.asyncio.Redis
) -> None:
    a, b = site.replicas
    kept, left = await group(a, "ann", "bob"), await group(a, "ann", "bob")
    await asyncio.sleep(1.1)
    since = (await inbox(b, "bob"))["since"]
    await a.call("ann", "members.remove", channel=left, user="bob")
    joined = await group(a, "ann", "bob")
    answer = await inbox(b, "bob", since=since)
    assert answer["conversations"][0]["channel"] == joined
    assert answer["conversations"][1:] == [{"channel": left, "removed": True}]
    for replica in site.replicas:
        replica.incarnation = "run.2"
    answer = await inbox(b, "bob", since=since)
    assert answer["all"] is True
    assert set(channels(answer)) == {kept, joined}


@pytest.mark.parametrize("way", ["remove", "leave", "decline"])
async def test_since_tells_of_conversations_that_were_left_and_then_deleted(
    site: Site, redis_conn: redis.asyncio.Redis, way: str
) -> None:
    """The store forgets then who was in it, and who had left before."""
    a, b = site.replicas
    channel = await group(a, "ann", *(["bob"] if way != "decline" else []))
    if way == "decline":
        await a.call("ann", "members.invite", channel=channel, user="bob")
        await site.settle(channel)
    since = (await inbox(b, "bob"))["since"]
    if way == "remove":
        await a.call("ann", "members.remove", channel=channel, user="bob")
    else:
        await a.call("bob", f"conversations.{way}", channel=channel)
    await site.settle(channel)
    await b.call("ann", "conversations.delete", channel=channel)
    await site.settle(channel)
    await redis_conn.delete(keys.inbox_list("bob"))
    for replica in (a, b):
        assert (await inbox(replica, "bob", since=since))["conversations"] == [{"channel": channel, "removed": True}]


async def test_since_tells_of_a_deletion_while_the_store_forgets_the_conversation(
    site: Site, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = site.replicas
    for replica in (a, b):
        await replica.rest()  # nothing is written but what is asked for
    channel = await group(a, "ann", "bob")
    await site.settle(channel)
    since = (await inbox(b, "bob"))["since"]
    drop, answers = a.store.drop, []

    async def dropped(*what: Any) -> None:
        await drop(*what)
        await redis_conn.hdel(keys.inbox_list("bob"), "d")  # nobody has it but the store
        answers.append(await inbox(b, "bob", since=since))

    monkeypatch.setattr(a.store, "drop", dropped)
    await a.call("ann", "conversations.delete", channel=channel)
    await a.conversations.write(await a.conversations.current(channel))
    assert [answer["conversations"] for answer in answers] == [[{"channel": channel, "removed": True}]]


async def never(*_: Any) -> None:
    """Write nothing of a conversation."""
    raise Unavailable("the process has died")


async def test_since_tells_of_a_deletion_that_a_replica_wrote_which_knew_of_fewer_members(
    site: Site, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log does not say who was in it, and the replica that deleted it has died."""
    a, b = site.replicas
    for replica in (a, b):
        await replica.rest()
    channel = await group(a, "ann", "bob")
    await b.conversations.current(channel)
    await a.call("ann", "members.add", channel=channel, user="cid")
    await a.conversations.write(await a.conversations.current(channel))
    since = (await inbox(a, "cid"))["since"]
    monkeypatch.setattr(a.conversations, "write", never)
    await a.call("ann", "conversations.delete", channel=channel)
    await b.conversations.write(await b.conversations.current(channel))
    await redis_conn.delete(keys.inbox_list("cid"))
    for replica in (a, b):
        assert (await inbox(replica, "cid", since=since))["conversations"] == [{"channel": channel, "removed": True}]


async def test_a_replica_that_comes_late_does_not_drop_a_deleted_conversation_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = site.replicas
    for replica in (a, b):
        await replica.rest()
    channel = await group(a, "ann", "bob")
    with monkeypatch.context() as patched:
        patched.setattr(a.conversations, "write", never)
        await a.call("ann", "conversations.delete", channel=channel)
    live = await b.conversations.current(channel)
    await a.conversations.write(await a.conversations.current(channel))
    monkeypatch.setattr(module, "_LISTED_MARGIN_MS", 0)
    await asyncio.sleep(0.005)  # the next ms
    since = (await inbox(a, "bob"))["since"]
    await b.conversations.write(live)
    answer = await inbox(b, "bob", since=since)
    assert answer["conversations"] == []


async def test_a_message_that_becomes_readable_later_is_not_missed(
    site: Site, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was numbered before the cursor, and no entry of the feed is known of it."""
    a, b = site.replicas
    channel = await group(a, "ann", "bob")
    await asyncio.sleep(1.1)
    monkeypatch.setattr(module, "_MARGIN_MS", -1_000_000)  # as if everything was long ago
    meta = keys.meta(channel)
    stored: Any = await redis_conn.hget(meta, "stored")
    await redis_conn.hset(meta, "top", int(stored) + 1)
    since = (await inbox(b, "ann"))["since"]
    await redis_conn.hset(meta, "top", stored)
    assert channels(await inbox(b, "ann", since=since)) == [channel]
    since = (await inbox(b, "ann"))["since"]
    assert channels(await inbox(b, "ann", since=since)) == []
    await redis_conn.hdel(meta, "fed")
    assert channels(await inbox(b, "ann", since=since)) == []
    monkeypatch.setattr(module, "_MARGIN_MS", 60_000)
    await redis_conn.delete(keys.inbox_head(channel))
    assert channels(await inbox(b, "ann", since=since)) == []  # it remembers
    assert channels(await inbox(site.another(), "ann", since=since)) == [channel]  # rather once too often


async def test_whose_list_was_wrong_is_told_when_a_conversation_is_made_again(
    redis_conn: redis.asyncio.Redis, site: Site
) -> None:
    a, b = site.replicas
    channel = await group(a, "ann", "bob")
    loaded = await site.store.load(channel)
    ((_, entry),) = await site.store.conversations_of("bob", "", 10)
    people, listed = {"eve": loaded.people["bob"]}, {"ann": None, "eve": entry}
    changes = Changes(loaded.position, loaded.head, people, listed, {})
    assert await site.store.apply(channel, loaded.position, changes)
    a.conversations.forget(channel)
    for user in ("ann", "eve"):
        await redis_conn.delete(keys.inbox_list(user))
    ann, eve = await inbox(a, "ann"), await inbox(a, "eve")
    assert (channels(ann), channels(eve)) == ([], [channel])
    await b.chat.upkeep.rebuild(channel)
    a.conversations.forget(channel)
    assert channels(await inbox(a, "ann")) == [channel]
    assert channels(await inbox(a, "ann", since=ann["since"])) == [channel]
    assert channels(await inbox(a, "eve")) == []
    gone = (await inbox(a, "eve", since=eve["since"]))["conversations"]
    assert gone == [{"channel": channel, "removed": True}]


async def test_heads_of_conversations_that_rest_are_read_once(
    redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path
) -> None:
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3") as site:
        a, b = site.replicas
        made = [await group(a, "ann", "bob") for _ in range(5)]
        for channel in made:
            await say(a, "bob", channel, "hello")
        before = await inbox(b, "ann")
        await inbox(b, "bob")
        await say(a, "bob", made[0], "again")
        for replica in (a, b):
            await replica.rest()
        heads, _ = await _reads(redis_conn)
        answer = await b.call("ann", "inbox.list")
        reads = await _reads(redis_conn)
        assert reads[0] == heads
        assert answer["conversations"][0]["last"]["text"] == "again"  # from the row behind the head
        assert answer["conversations"][1:] == [one for one in before["conversations"] if one["channel"] != made[0]]
        assert channels(await b.call("ann", "inbox.list")) == channels(answer)
        assert await _reads(redis_conn) == reads
        await b.chat.inbox.drain()
        assert channels(await inbox(a, "ann")) == channels(answer)


async def _reads(redis_conn: redis.asyncio.Redis) -> tuple[int, int]:
    """How many heads, and how many parts of logs, were read from this Redis."""
    said: Any = await redis_conn.info("commandstats")
    return said["cmdstat_get"]["calls"], said["cmdstat_xrange"]["calls"]


async def test_a_call_that_takes_too_long_leaves_what_it_found(
    site: Site, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever asks again would begin anew each time, and never have an answer."""
    a, b = site.replicas
    monkeypatch.setattr(module, "_KEPT_AT_ONCE", 2)
    made = [await group(a, "ann", "bob") for _ in range(5)]
    for channel in made:
        await redis_conn.delete(keys.inbox_head(channel))
    read, asked = b.chat.inbox.reading.read, list[str]()

    async def slow(channel: str) -> Any:
        asked.append(channel)
        if len(asked) > 4:
            await asyncio.Event().wait()
        return await read(channel)

    monkeypatch.setattr(b.chat.inbox.reading, "read", slow)
    calling = asyncio.create_task(inbox(b, "ann"))
    await until(lambda: len(asked) == 5)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    await b.chat.inbox.drain()
    assert await redis_conn.exists(*map(keys.inbox_head, made)) == 4
    asked.clear()
    assert len(channels(await inbox(b, "ann"))) == 5
    assert len(asked) == 1


async def test_wrong_cursors_are_refused(site: Site) -> None:
    (a, _) = site.replicas
    since = (await inbox(a, "ann"))["since"]
    for params in ({"cursor": "x"}, {"since": "ä"}, {"since": since[:-3]}, {"cursor": since}, {"limit": 101}):
        with pytest.raises(CallRefused) as refused:
            await a.call("ann", "inbox.list", **params)
        assert refused.value.code == 107
    with pytest.raises(CallRefused):
        await a.call("", "inbox.list")


async def test_more_conversations_than_are_looked_at_are_told(site: Site) -> None:
    (a, _) = site.replicas
    for _ in range(4):
        await group(a, "ann", "bob")
    a.chat.inbox.lists.most = 3
    answer = await inbox(a, "ann")
    assert len(channels(answer)) == 3
    assert answer["truncated"] is True


class Counted:
    """Counts round trips of pipelines, and requests to DynamoDB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trips = 0  # those that are under way at the same time are one
        self.requests = 0
        self._under_way = 0
        for name in ("run", "execute"):
            monkeypatch.setattr(RedisPipeline, name, self._counting(getattr(RedisPipeline, name)))
        call = DynamoDb.call

        async def counted(db: DynamoDb, *arguments: Any, **named: Any) -> Any:
            self.requests += 1
            return await call(db, *arguments, **named)

        monkeypatch.setattr(DynamoDb, "call", counted)

    def _counting(self, plain: Any) -> Any:
        async def counted(pipeline: RedisPipeline, commands: Any, *, timeout_s: float) -> Any:
            self.trips += not self._under_way
            self._under_way += 1
            try:
                return await plain(pipeline, commands, timeout_s=timeout_s)
            finally:
                self._under_way -= 1

        return counted

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        self.trips = 0
        self.requests = 0
        yield


async def test_a_warm_inbox_takes_three_round_trips_and_no_request_to_the_store(
    redis_conn: redis.asyncio.Redis, redis_url: str, dynamodb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With new messages in some conversations, of which none is in memory as a head."""
    async with dynamodb_site(redis_url, dynamodb) as site:
        a, b = site.replicas
        made = [await group(a, "ann", "bob") for _ in range(sized(24, 300))]
        for channel in made:
            await say(a, "bob", channel, "hello")
        await inbox(a, "ann")
        await inbox(a, "ann")
        for channel in made[:20]:
            await say(a, "bob", channel, "again")
        for replica in (a, b):
            await replica.rest()  # it has round trips of its own
        counted = Counted(monkeypatch)
        with counted.during():
            answer = await a.call("ann", "inbox.list")
            trips, requests = counted.trips, counted.requests
        assert len(channels(answer)) == min(100, len(made))
        assert {one["unread"] for one in answer["conversations"]} == {1, 2}
        await a.chat.inbox.drain()
        assert requests == 0
        assert trips <= 3
