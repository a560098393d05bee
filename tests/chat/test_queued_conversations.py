"""Conversations of durability `queued`, on both stores and moto's SQS.

Nobody receives from the queue unless a test does, and its clock stands still. Where the read model is not written
either, what is no barrier stays in Redis and in the queue.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import redis.asyncio

from services.persistence.chat.append import Appended, Refused
from services.persistence.chat.conversions import options_of
from services.persistence.chat.domain import events
from services.persistence.domain.readable_rows import ReadableRows
from services.persistence.queue.dead import change
from services.persistence.queue.outbox import Outbox
from services.persistence.queue.settings import SqsSettings
from services.persistence.queue.sqs import Message, SqsQueue
from services.persistence.queue.storing import store_messages
from services.persistence.queue.worker import Worker
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from tests.chat.naive_fold import NaiveFold
from tests.support.chat import code, new_event
from tests.support.chat_calls import CallRefused, Replica, Site, dynamodb_site, sqlite_site
from tests.support.full import sized
from tests.support.sqs import sqs_address as sqs_address
from tests.support.sqs import sqs_settings as sqs_settings
from tests.support.waiting import until
from thalamus.common.v1.common_pb2 import Publication

SECRET = "planted:5d41402abc4b2a76"
_PATIENCE_S = 30.0


async def call(replica: Replica, user: str, method: str, /, **params: Any) -> dict[str, Any]:
    """Call a method; again with its key while it is unknown what became of it."""
    key, deadline = os.urandom(8).hex(), time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await replica.call(user, method, key, **params)
        except CallRefused as refused:
            if refused.code != 100 or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


class Queued(NamedTuple):
    """Two replicas, and the queue between them and the store."""

    site: Site
    queue: SqsQueue

    async def quiet(self) -> tuple[Replica, Replica]:
        """Have nobody write the read model, which has the log stored before."""
        first, second = self.site.replicas
        await first.rest()
        await second.rest()
        return first, second

    async def create(self, **params: Any) -> str:
        """Create a group of ann, who owns it, bob and eve."""
        users = ["bob", "eve"]
        made = await call(self.site.replicas[0], "ann", "conversations.create", type="group", users=users, **params)
        channel: str = made["channel"]
        return channel

    async def say(self, channel: str, user: str = "eve", text: str = "x", at: int = 0) -> int:
        sent = await call(self.site.replicas[at], user, "messages.send", channel=channel, text=text)
        offset: int = sent["offset"]
        return offset

    async def rows(self, channel: str) -> dict[int, Publication]:
        """What the store has."""
        found = await self.site.rows.read(channel, since_offset=0, upto=1 << 40, limit=10_000, reverse=False)
        return {offset: Publication.FromString(publication) for offset, publication in found}

    async def in_flight(self, channel: str, offsets: set[int]) -> list[Message]:
        """Receive until all these rows were in messages, which nobody else gets."""
        found: list[Message] = []

        async def has_all() -> bool:
            found.extend(await self.queue.receive(wait_s=0, held_s=600))
            return offsets <= {row.offset for one in found for row in rows_in(one, channel)}

        await until(has_all)
        return found


def rows_in(message: Message, channel: str) -> list[Any]:
    from services.persistence.queue.messages import decode

    found = decode(message.body)
    return [*found.rows] if found.channel == channel else []


@pytest.fixture(params=["sqlite", "dynamodb"])
async def queued(
    request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, dynamodb: str, sqs_settings: SqsSettings
) -> AsyncIterator[Queued]:
    queue = SqsQueue(sqs_settings)
    await queue.prepare()

    def sink(rows: Any) -> Outbox:
        return Outbox(queue, rows, clock=lambda: 0.0)

    if request.param == "sqlite":
        made = sqlite_site(redis_url, tmp_path / "log.sqlite3", sink=sink)
    else:
        made = dynamodb_site(redis_url, dynamodb, sink=sink)
    async with made as site:
        yield Queued(site, queue)
    await queue.close()


async def refusal(replica: Replica, user: str, method: str, /, **params: Any) -> tuple[int, str]:
    with pytest.raises(CallRefused) as refused:
        await call(replica, user, method, **params)
    return refused.value.code, refused.value.why


async def texts(replica: Replica, channel: str, user: str = "ann") -> list[str | None]:
    """Texts of all messages; None: it is deleted."""
    listed = await call(replica, user, "messages.list", channel=channel, limit=100)
    return [None if one.get("deleted") else one["text"] for one in listed["messages"]]


async def contents_in_redis(client: redis.asyncio.Redis, ids: set[bytes]) -> list[bytes]:
    """Which of these publications still have the secret in a log in Redis."""
    found: list[bytes] = []
    async for name in client.scan_iter(match="*:log"):
        entries: Any = await client.xrange(name)
        there = [Publication.FromString(fields[b"p"]) for _, fields in entries]
        found += [one.id for one in there if one.id in ids and SECRET.encode() in one.data]
    return found


async def offsets_in_redis(client: redis.asyncio.Redis, channel: str) -> set[int]:
    """Offsets that the log in Redis has."""
    entries: Any = await client.xrange(keys.log(channel))
    return {int(entry.split(b"-")[0]) for entry, _ in entries}


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_page_of_which_the_end_goes_while_it_is_read_is_an_error_and_not_shorter(
    queued: Queued, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """Whoever folds it would take what is lost for what was removed."""
    first, _ = await queued.quiet()
    channel = await queued.create()
    before = max(await queued.rows(channel))
    offsets = [await queued.say(channel, text=f"{number}") for number in range(3)]
    rows = ReadableRows(first.log, first.rows)
    bounds: Any = {"since_offset": before, "upto": offsets[-1], "limit": 100, "reverse": False}
    assert [offset for offset, _ in await rows.read(channel, **bounds)] == offsets
    whole = first.log.read

    async def shorter(*arguments: Any, **named: Any) -> Any:
        found, top = await whole(*arguments, **named)
        return found[:-lost], top._replace(top=offsets[-1] - lost, behind=0)

    monkeypatch.setattr(first.log, "read", shorter)
    with pytest.raises(Unavailable, match="lost its end"):
        await rows.read(channel, **bounds)


async def test_plain_messages_are_acknowledged_before_they_are_stored_and_every_reader_has_them(queued: Queued) -> None:
    await queued.quiet()
    channel = await queued.create(name="Lunch")
    for replica in queued.site.replicas:
        (listed,) = (await call(replica, "bob", "inbox.list"))["conversations"]
        assert (listed["unread"], listed["as_of"]["offset"]) == (0, 3)
    offset = await queued.say(channel, text="one")
    await call(queued.site.replicas[0], "bob", "reactions.add", channel=channel, of=offset, name="+1")
    await call(queued.site.replicas[1], "eve", "messages.edit", channel=channel, of=offset, text="two")
    assert max(await queued.rows(channel)) < offset
    for replica in (*queued.site.replicas, queued.site.another()):
        assert await texts(replica, channel) == ["two"]
        (listed,) = (await call(replica, "bob", "inbox.list"))["conversations"]
        assert (listed["unread"], listed["as_of"]["offset"]) == (1, offset + 2)
        assert listed["last"]["text"] == "two"
        assert await refusal(replica, "zoe", "messages.list", channel=channel) == (103, "not_allowed")


_ACTS: dict[str, tuple[str, dict[str, Any]]] = {
    "delete": ("eve", {"kind": "delete"}),
    "purge": ("ann", {"kind": "purge", "user": "eve"}),
    "remove": ("ann", {"kind": "member", "op": "remove", "user": "eve"}),
    "ban": ("ann", {"kind": "member", "op": "ban", "user": "eve"}),
    "silence": ("ann", {"kind": "member", "op": "silence", "user": "eve", "until": 1 << 50}),
    "add": ("ann", {"kind": "member", "op": "add", "user": "zoe"}),
    "role": ("ann", {"kind": "member", "op": "role", "user": "eve", "role": "reader"}),
    "close": ("ann", {"kind": "conversation", "op": "close"}),
    "leave": ("eve", {"kind": "member", "op": "leave"}),
    "end": ("ann", {"kind": "conversation", "op": "delete"}),
}


async def _check(queued: Queued, act: str, replica: Replica, channel: str) -> None:
    """Whether what was acknowledged is in force."""
    post = {"channel": channel, "text": "late"}
    match act:
        case "delete" | "purge":
            assert await texts(replica, channel) == ["before", None]
            assert not [one for one in (await queued.rows(channel)).values() if SECRET.encode() in one.data]
        case "remove" | "ban" | "leave":
            assert await refusal(replica, "eve", "messages.send", **post) == (103, "not_allowed")
            assert await refusal(replica, "eve", "messages.list", channel=channel) == (103, "not_allowed")
        case "silence":
            assert await refusal(replica, "eve", "messages.send", **post) == (103, "silenced")
        case "add":
            assert await texts(replica, channel, "zoe") == ["before", SECRET]
        case "role":
            assert await refusal(replica, "eve", "messages.send", **post) == (103, "not_allowed")
        case "close":
            assert await refusal(replica, "bob", "messages.send", **post) == (103, "closed")
        case "end":
            assert (await refusal(replica, "ann", "messages.send", **post))[0] in (103, 410)


async def test_C70_what_takes_rights_or_content_away_outlives_a_lost_redis(queued: Queued) -> None:
    """By events: methods have the read model written, too, so the log is stored."""
    first, second = await queued.quiet()
    for act, (user, event) in _ACTS.items():
        channel = await queued.create()
        await queued.say(channel, "bob", "before")
        secret = await queued.say(channel, text=SECRET)
        assert await texts(second, channel) == ["before", SECRET]
        given = event | {"delete": {"of": secret}, "purge": {"upto": secret}}.get(act, {})
        new = new_event(user, given, channel, key=act, options=options_of(first.options))
        for _ in range(20):  # a busy machine may leave it unknown what became of it
            done = await first.appender.append(new)
            if not (isinstance(done, Refused) and done.code == 100):
                break
        assert isinstance(done, Appended)
        await queued.site.lose_redis()
        assert done.void is None
        for replica in (second, first, queued.site.another()):
            await _check(queued, act, replica, channel)
        await queued.site.replicas.pop().close()


async def test_what_redis_has_lost_is_in_no_fold_and_all_that_is_stored_stays(queued: Queued) -> None:
    first, second = await queued.quiet()
    channel = await queued.create()
    kept = await queued.say(channel, "bob", "kept")
    await call(first, "ann", "conversations.update", channel=channel, name="Lunch")
    lost = await queued.say(channel, text="lost")
    await call(second, "eve", "messages.edit", channel=channel, of=lost, text="lost, too")
    await call(second, "ann", "reactions.add", channel=channel, of=kept, name="+1")
    assert await texts(first, channel) == ["kept", "lost, too"]
    before = (await call(first, "ann", "messages.list", channel=channel))["as_of"]
    await queued.site.lose_redis()
    for replica in (second, first, queued.site.another()):
        listed = await call(replica, "ann", "messages.list", channel=channel)
        assert [(one["text"], one["reactions"]) for one in listed["messages"]] == [("kept", {})]
        assert listed["as_of"] == {"epoch": listed["as_of"]["epoch"], "offset": lost - 1}
        assert listed["as_of"]["epoch"] != before["epoch"]
    assert await queued.say(channel, "bob", "again", at=1) == lost
    assert await texts(first, channel) == ["kept", "again"]


async def test_an_event_about_a_lost_message_is_not_about_the_one_in_its_place(queued: Queued) -> None:
    first, _ = await queued.quiet()
    channel = await queued.create()
    lost = await queued.say(channel, text="lost")
    await call(first, "eve", "messages.edit", channel=channel, of=lost, text="lost, too")  # so it is in memory
    await queued.site.lose_redis()
    assert await queued.say(channel, "bob", "of bob", at=1) == lost
    assert await refusal(first, "eve", "messages.delete", channel=channel, of=lost) == (103, "not_allowed")
    for replica in queued.site.replicas:
        assert await texts(replica, channel) == ["of bob"]


async def test_what_became_of_an_event_is_told_by_the_log_that_it_is_in(queued: Queued) -> None:
    """Also if the process knows a longer one, which is lost."""
    first, second = await queued.quiet()
    channel = await queued.create()
    for _ in range(4):
        await queued.say(channel)
    await texts(first, channel)
    await queued.site.lose_redis()
    add = {"kind": "member", "op": "add", "user": "zoe"}
    options = options_of(first.options)
    results = [
        await replica.appender.append(new_event("ann", add, channel, options=options)) for replica in (second, first)
    ]
    assert [code(one) for one in results] == ["ok", "unchanged"]


async def test_the_read_model_is_never_ahead_of_what_is_stored(queued: Queued) -> None:
    first, _ = await queued.quiet()
    channel = await queued.create()
    said = await queued.say(channel)
    reaction = await call(first, "bob", "reactions.add", channel=channel, of=said, name="+1")
    assert max(await queued.rows(channel)) < said
    live = await first.conversations.current(channel)
    await first.conversations.write(live)
    assert live.projected == reaction["offset"] == max(await queued.rows(channel))


async def test_what_is_deleted_before_it_is_stored_is_gone_from_redis_too(
    queued: Queued, redis_conn: redis.asyncio.Redis
) -> None:
    first, _ = await queued.quiet()
    channel = await queued.create()
    said = await queued.say(channel, text=SECRET)
    behind = await queued.say(channel, text="behind")
    assert max(await queued.rows(channel)) < said
    await call(first, "eve", "messages.delete", channel=channel, of=said)
    rows = await queued.rows(channel)
    assert isinstance(events.read(rows[said].data), events.Erased)
    assert await offsets_in_redis(redis_conn, channel) >= {said, behind}
    assert not await contents_in_redis(redis_conn, {rows[said].id})


async def test_a_void_edit_that_is_not_stored_yet_is_gone_when_it_is_answered(
    queued: Queued, redis_conn: redis.asyncio.Redis
) -> None:
    first, second = await queued.quiet()
    channel = await queued.create()
    void: list[int] = []
    for _ in range(50):
        if void:
            break
        said = await queued.say(channel)
        for replica in (first, second):
            assert (await texts(replica, channel))[-1] == "x"  # both know it
        edits = [
            new_event("eve", {"kind": "edit", "of": said, "text": text, "if_rev": said}, channel, options=options)
            for text in (f"{SECRET} 1", f"{SECRET} 2")
            for options in (options_of(first.options),)
        ]
        results = await asyncio.gather(first.appender.append(edits[0]), second.appender.append(edits[1]))
        void = [one.offset for one in results if isinstance(one, Appended) and one.void is not None]
    assert void, "they never raced"
    page, _ = await first.log.read(channel, since_offset=0, limit=1_000, reverse=False)
    ids = {Publication.FromString(row).id for offset, row in page if offset in void}
    assert not [row for offset, row in page if offset in void and SECRET.encode() in row]
    assert not await contents_in_redis(redis_conn, ids)


async def test_C33_a_delete_overtakes_its_message_in_the_queue(queued: Queued, redis_conn: redis.asyncio.Redis) -> None:
    rng = Random(33)
    first, second = await queued.quiet()
    channel = await queued.create()
    said = [await queued.say(channel, text=f"{SECRET} {n}", at=n % 2) for n in range(6)]
    edits = [
        (await call(first, "eve", "messages.edit", channel=channel, of=of, text=f"{SECRET} {of}"))["offset"]
        for of in said[::2]
    ]
    held = await queued.in_flight(channel, {*said, *edits})
    assert max(await queued.rows(channel)) < said[0]
    deleted = rng.sample(said, 4)
    bodies = [one.body for one in held]
    for number, of in enumerate(deleted):  # some of them while workers store what they have received long ago
        wanted = rng.choices(bodies, k=3)
        await asyncio.gather(
            call(queued.site.replicas[number % 2], "eve", "messages.delete", channel=channel, of=of),
            *(store_messages(queued.site.rows, {str(n): body}) for n, body in enumerate(wanted)),
        )
    gone = {*deleted, *(edit for edit, of in zip(edits, said[::2], strict=True) if of in deleted)}
    await _is_gone(queued, channel, gone, redis_conn)
    again = {str(n): body for n, body in enumerate(rng.sample(bodies * 3, len(bodies) * 3))}
    assert await store_messages(queued.site.rows, again) == set()
    await _is_gone(queued, channel, gone, redis_conn)

    # What nobody could store went to the dead-letter queue, and is sent again a day later.
    await queued.queue.put_back(held[:10], 0)

    async def is_aside() -> bool:
        await queued.queue.receive(wait_s=0, held_s=0)
        return (await queued.queue.counts())[1] > 0

    await until(is_aside)
    await queued.say(channel, "bob", "meanwhile")
    await queued.site.lose_redis()
    await queued.say(channel, "bob", "since")
    replayed: list[str] = []
    assert await change(queued.queue, None, replay=True, done=replayed.append) == set()
    assert replayed
    worker = Worker(queued.queue, queued.site.another().rows, receivers=1)

    async def is_done() -> bool:
        await worker.step()
        return sum(await queued.queue.counts()) == 0

    await until(is_done)
    await _is_gone(queued, channel, gone, redis_conn)
    for replica in (first, second, queued.site.another()):
        listed = (await call(replica, "ann", "messages.list", channel=channel, limit=100))["messages"]
        assert {one["offset"] for one in listed if one.get("deleted")} == set(deleted)


async def _is_gone(queued: Queued, channel: str, gone: set[int], client: redis.asyncio.Redis) -> None:
    """Whether rows are tombstones, in the store and in Redis."""
    rows = await queued.rows(channel)
    assert {type(events.read(rows[offset].data)) for offset in gone} == {events.Erased}
    page, _ = await queued.site.replicas[0].log.read(channel, since_offset=0, limit=10_000, reverse=False)
    for offset, publication in page:
        if offset in gone:
            assert SECRET.encode() not in publication
    deleted = [offset for offset in gone if SECRET.encode() in rows[offset].data]
    assert not deleted
    assert not await contents_in_redis(client, {rows[offset].id for offset in gone})


async def test_C71_a_channel_whose_first_message_comes_last_is_stored_in_order(queued: Queued) -> None:
    rng = Random(71)
    await queued.quiet()
    channel = await queued.create()
    count = sized(300, 5_000)
    text = "y" * 3_000
    told: list[int] = []
    for start in range(0, count, 50):
        told += await asyncio.gather(
            *(
                queued.say(channel, rng.choice(["bob", "eve"]), f"{n} {text}", at=n % 2)
                for n in range(start, start + 50)
            )
        )
    held = await queued.in_flight(channel, set(told))
    by_first = sorted((one for one in held if rows_in(one, channel)), key=lambda one: rows_in(one, channel)[0].offset)
    assert len(by_first) > 2
    waiting = {one.name: one.body for one in rng.sample(by_first[1:], len(by_first) - 1)}
    begins = {one.name: one.body for one in by_first if rows_in(one, channel)[0].offset == min(told)}
    waiting = {name: body for name, body in waiting.items() if name not in begins}
    failed = await store_messages(queued.site.rows, waiting)
    assert failed == set(waiting)
    assert max(await queued.rows(channel)) < min(told)
    left = {**waiting, **begins}
    for _ in range(3):
        left = {name: left[name] for name in await store_messages(queued.site.rows, left)}
    assert not left
    rows = await queued.rows(channel)
    assert sorted(rows) == list(range(1, max(told) + 1))
    assert Counter(told) == Counter(range(min(told), max(told) + 1))
    naive = NaiveFold()
    for offset, one in rows.items():
        naive.apply(offset, one.info.user, one.time_ms, one.data)
    live = await queued.site.another().conversations.current(channel)
    assert (live.position, live.state.n) == (max(told), naive.view()["n"])
