"""C36: all that a user wrote is exported as it is, and erased."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat import traces
from services.persistence.chat.methods import me
from tests.chat.naive_fold import NaiveFold
from tests.support.chat_calls import CallRefused, Replica, Site
from tests.support.full import sized

Json = dict[str, Any]
USER, OTHERS = "the-user", ["o1", "o2", "o3"]
SECRET, NAME = "planted:b1946ac92492d234", "Name:6ae0f6d2c3b1"
NAMED = {USER: f'{{"name":"{NAME}"}}'}
CONTENT = ("text", "format", "attachments", "mentions", "mention_all", "meta")


class World:
    """Conversations in which the user wrote, of all kinds."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site, self.rng, self.channels = site, random.Random(seed), list[str]()
        self.quiet: list[str] = []  # those where the user wrote nothing
        print(f"seed {seed}")
        for replica in site.replicas:
            replica.names = NAMED

    async def call(self, user: str, method: str, /, **params: Any) -> Json:
        return await self.rng.choice(self.site.replicas).call(user, method, **params)

    async def fill(self, conversations: int, messages: int) -> None:
        """Create conversations, and have the user write; others, too."""
        kinds = ["group", "left", "removed", "open", "closed", "direct", "quiet"]
        each = [messages // conversations] * conversations
        each[0] += messages - sum(each)
        for number, count in enumerate(each):
            await self._conversation(kinds[number % len(kinds)], number, count)
        for channel in self.channels:
            await self.site.settle(channel)

    async def _conversation(self, kind: str, number: int, count: int) -> None:
        rng, owner = self.rng, self.rng.choice([USER, "o1"]) if kind == "group" else "o1"
        if kind == "direct":
            made = await self.call(USER, "conversations.create", type="direct", users=[f"d{number}"])
            users = [USER, f"d{number}"]
        elif kind == "open":
            made = await self.call("o1", "conversations.create", type="open", id=f"open-{number}")
            users = [USER, *OTHERS]
        else:
            users = [USER, *OTHERS]
            made = await self.call(owner, "conversations.create", users=[one for one in users if one != owner])
        channel = str(made["channel"])
        self.channels.append(channel)
        if kind == "quiet":
            self.quiet.append(channel)
            await self.call("o1", "messages.send", channel=channel, text="hello", mentions=[USER])
            return
        sent = [(await self._say(channel, user, []), user) for user in [*users[1:], *[USER] * count]]
        for _ in range(count // 2 + 2):
            await self._change(channel, rng.choice([USER, *users]), users, sent)
        if kind == "open" and number % 2 == 0:  # in the user's list, and in the directory
            await self.call("o1", "members.role", channel=channel, user=USER, role="moderator")
        if kind == "left":
            await self.call(USER, "conversations.leave", channel=channel)
        if kind == "removed":
            await self.call("o1", "members.remove", channel=channel, user=USER)
        if kind == "closed":
            await self.call("o1", "conversations.close", channel=channel)

    async def _say(self, channel: str, user: str, sent: list[tuple[int, str]]) -> int:
        params: Json = {"text": f"{SECRET} {self.rng.random()}" if user == USER else f"{self.rng.random()}"}
        if sent and self.rng.random() < 0.7:
            params["thread"] = self.rng.choice(sent)[0]
        if user != USER and self.rng.random() < 0.3:
            params["mentions"] = [USER]
        if user == USER:
            params["meta"] = {"a": SECRET}
        offset: int = (await self.call(user, "messages.send", channel=channel, **params))["offset"]
        return offset

    async def _change(self, channel: str, user: str, users: list[str], sent: list[tuple[int, str]]) -> None:
        """One more event; it may be refused."""
        of, author = self.rng.choice(sent)
        try:
            match self.rng.choice(["say", "say", "edit", "delete", "react", "pin"]):
                case "say":
                    sent.append((await self._say(channel, user, sent), user))
                case "edit":
                    text = f"{SECRET} again" if author == USER else f"{self.rng.random()}"
                    await self.call(author, "messages.edit", channel=channel, of=of, text=text)
                case "delete" if author != USER or self.rng.random() < 0.5:
                    await self.call(author, "messages.delete", channel=channel, of=of)
                case "react":
                    await self.call(user, "reactions.add", channel=channel, of=of, name=self.rng.choice("xyz"))
                case "pin":
                    await self.call("o1", "pins.add", channel=channel, of=of)
        except CallRefused as error:
            if error.code not in (103, 404, 409, 410):
                raise

    async def fold(self, channel: str) -> Json:
        naive = NaiveFold()
        for entry in await self.site.log(channel):
            naive.apply(*entry)
        return naive.view()

    async def purges(self, channel: str) -> int:
        return sum(b'"purge"' in entry.data for entry in await self.site.log(channel))


def live(folded: Json, user: str = USER) -> dict[int, Json]:
    return {
        int(offset): one
        for offset, one in folded["messages"].items()
        if one["state"] == "live" and one["author"] == user
    }


async def exported(ask: Replica, user: str = USER, **params: Any) -> list[Json]:
    """All pages of an export."""
    found: list[Json] = []
    cursor: Json = {}
    while True:
        page = await ask.call(user, "me.export", **params, **cursor)
        assert len(page["messages"]) <= params.get("limit", 100)
        found += page["messages"]
        if "cursor" not in page:
            return found
        cursor = {"cursor": page["cursor"]}


async def erased(ask: Replica, **params: Any) -> int:
    """Erase the user in as many calls as it takes; return in how many conversations."""
    count, answer = 0, dict[str, Any]()
    while not answer.get("done"):
        cursor = {"cursor": answer["cursor"]} if answer else {}
        answer = await ask.call(USER, "me.erase", **params, **cursor)
        assert answer["done"] == ("cursor" not in answer)
        count += answer["conversations"]
    return count


async def where(client: redis.asyncio.Redis, site: Site, folder: Path, *secrets: str) -> set[str]:
    """Where secrets are still to be had.

    Of the file what it has, without what lies between: in a page that was split SQLite leaves copies.
    """
    await client.config_set("rdbcompression", "no")
    await site.rows.scrub()
    found: set[str] = set()
    for secret in secrets:
        async for key in client.scan_iter():
            if secret.encode() in (await client.dump(key) or b""):
                found.add(f"redis {key!r} {secret}")
        if secret.encode() in await asyncio.to_thread(content_of, folder):
            found.add(f"file {secret}")
    return found


def content_of(folder: Path) -> bytes:
    """All that an SQLite file has."""
    copy = folder / "copy"
    with contextlib.closing(sqlite3.connect(folder / "log.sqlite3")) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    content = copy.read_bytes()
    copy.unlink()
    return content


async def test_c36_all_of_a_user_is_exported_and_erased(
    site: Site, redis_conn: redis.asyncio.Redis, tmp_path: Path
) -> None:
    world = World(site, 36)
    began = time.monotonic()
    await world.fill(sized(14, 300), sized(140, 5_000))
    filled = time.monotonic()
    before = {channel: await world.fold(channel) for channel in world.channels}
    expected = [
        (channel, offset, one["time_ms"], *(one[name] for name in (*CONTENT, "reply_to", "thread", "rev")))
        for channel, folded in before.items()
        for offset, one in live(folded).items()
    ]
    fresh = site.another()
    fresh.names = NAMED
    pages = await exported(fresh, limit=37)
    got = [
        tuple(one[name] for name in ("channel", "offset", "time", *CONTENT, "reply_to", "thread", "rev"))
        for one in pages
    ]
    assert sorted(got, key=repr) == sorted(expected, key=repr)
    assert all(one["edited"] == (one["rev"] != one["offset"]) for one in pages)
    for secret in (SECRET, NAME):
        assert len(await where(redis_conn, site, tmp_path, secret)) > 1

    at = time.monotonic()
    writers = [channel for channel in world.channels if live(before[channel])]
    assert 0 < await erased(fresh) <= len(writers)  # less, where a call was interrupted
    took = time.monotonic() - at
    print(f"{len(expected)} messages in {len(writers)} conversations: filled in {filled - began:.1f} s")
    print(f"erased in {took:.1f} s")
    assert took < 600
    assert not set(world.quiet) & set(writers)
    mentioned = 0
    for channel in world.channels:
        assert await world.purges(channel) == (channel in writers)
        after = await world.fold(channel)
        assert live(after) == {}
        gone = Counter(one["thread"] for one in live(before[channel]).values() if one["thread"])
        for offset, one in before[channel]["messages"].items():
            if one["state"] == "live" and one["author"] != USER:
                assert after["messages"][offset] == {**one, "replies": one["replies"] - gone[int(offset)]}
                mentioned += USER in one["mentions"]
        assert after["n"] == before[channel]["n"]
        assert USER not in after["members"] or after["type"] == "direct"
        about = await site.replicas[0].call("", "conversations.get", channel=channel)
        assert (about["n"], about["members_n"]) == (after["n"], len(after["members"]))
        page = await site.replicas[1].call("", "messages.list", channel=channel, limit=100, after=0)
        for one in page["messages"]:
            folded = after["messages"][str(one["offset"])]
            if "deleted" in one:
                assert (one["by"], folded["state"]) == (folded["by"], "deleted")
            else:
                assert (one["text"], one["replies"]) == (folded["text"], folded["replies"])
        await site.settle(channel)
        assert (await site.replicas[0].chat.upkeep.check(channel)).differences == []
    assert mentioned > 0  # the id stays in what others wrote
    assert await exported(fresh) == []
    assert await where(redis_conn, site, tmp_path, SECRET, NAME) == set()
    assert await erased(site.replicas[0]) == 0
    for channel in world.channels:
        assert await world.purges(channel) == (channel in writers)


async def test_an_erasure_that_is_killed_again_and_again_ends_with_one_purge_of_each(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(site, 37)
    await world.fill(14, 60)
    writers = [channel for channel in world.channels if live(await world.fold(channel))]
    for _ in range(25):
        task = asyncio.create_task(erased(world.rng.choice(site.replicas)))
        await asyncio.wait({task}, timeout=world.rng.uniform(0, 0.06))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    monkeypatch.setattr(me, "_WORK_S", 0.01)
    await erased(site.replicas[1])
    for channel in world.channels:
        assert live(await world.fold(channel)) == {}
        assert await world.purges(channel) == (channel in writers)


async def test_who_stays_is_not_removed_and_who_left_is_not_shown(site: Site) -> None:
    a, b = site.replicas
    world = World(site, 38)
    await world.fill(7, 21)
    shown = {one["channel"] for one in (await a.call(USER, "conversations.list"))["conversations"]}
    left = {channel for channel in world.channels if USER not in (await world.fold(channel))["members"]}
    assert shown == set(world.channels) - left
    assert len(left) == 3  # left, removed, and the open one
    members = {channel: (await world.fold(channel))["members"] for channel in world.channels}
    assert 0 < await erased(b, leave=False) <= 6
    assert {channel: (await world.fold(channel))["members"] for channel in world.channels} == members
    (silenced,) = [one for one in left if one.startswith("conv:o.")]
    await a.call("o1", "members.role", channel=silenced, user=USER, role="moderator")
    invited = str((await a.call("o1", "conversations.create"))["channel"])
    await a.call("o1", "members.invite", channel=invited, user=USER)
    response = await b.ask(USER, "me.erase")
    assert response.refusal.code == 0
    assert {notice.user for notice in response.notices} == {USER}
    assert [one["channel"].split(".")[0] for one in (await a.call(USER, "conversations.list"))["conversations"]] == [
        "conv:d"
    ]
    assert (await world.fold(invited))["invited"] == {}
    assert USER not in (await world.fold(silenced))["members"]


async def test_a_cursor_of_nobody_and_a_backend_without_a_user_are_refused(site: Site) -> None:
    for method in ("me.export", "me.erase"):
        for cursor in ("x", "eyJhIjoxfQ==", "W10", "ü", "WzEsMiwzLDRd"):
            with pytest.raises(CallRefused, match="107 malformed"):
                await site.replicas[0].call(USER, method, cursor=cursor)
        with pytest.raises(CallRefused, match="107 malformed"):
            await site.replicas[0].call("", method)


async def test_a_long_list_and_a_long_log_are_gone_through_in_steps(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_CHANNELS", 2)
    monkeypatch.setattr(traces, "_PAGE_ROWS", 3)
    monkeypatch.setattr(me, "_LOOKED_AT", 3)
    world = World(site, 39)
    await world.fill(14, 90)
    expected = {(channel, offset) for channel in world.channels for offset in live(await world.fold(channel))}
    got = [(one["channel"], one["offset"]) for one in await exported(site.replicas[0], limit=5)]
    assert (len(got), set(got)) == (len(expected), expected)
    assert await erased(site.replicas[0]) > 0
    assert await exported(site.replicas[1]) == []


async def test_it_is_so_on_dynamodb(dynamodb_calls: Site) -> None:
    world = World(dynamodb_calls, 40)
    await world.fill(7, 21)
    expected = {(channel, offset) for channel in world.channels for offset in live(await world.fold(channel))}
    got = [(one["channel"], one["offset"]) for one in await exported(dynamodb_calls.replicas[0])]
    assert (len(got), set(got)) == (len(expected), expected)
    assert await erased(dynamodb_calls.replicas[1]) > 0
    assert await exported(dynamodb_calls.replicas[0]) == []
    assert [await world.purges(channel) for channel in world.channels] == [
        int(channel not in world.quiet) for channel in world.channels
    ]


async def test_what_is_deleted_while_a_user_is_erased_stays_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = site.replicas
    a.names = b.names = NAMED
    channel = str((await a.call("o1", "conversations.create", users=[USER]))["channel"])
    of = (await a.call("o1", "messages.send", channel=channel, text="hello"))["offset"]
    at = (await a.call(USER, "reactions.add", channel=channel, of=of, name=SECRET))["offset"]
    read, deleted = site.rows.read, list[int]()

    async def read_before_the_delete(name: str, **asked: Any) -> Any:
        rows = await read(name, **asked)
        if not deleted and asked["limit"] > 500:  # the page of the erasure
            deleted.append(0)
            deleted[0] = (await b.call("o1", "messages.delete", channel=channel, of=of))["offset"]
        return rows

    monkeypatch.setattr(site.rows, "read", read_before_the_delete)
    await erased(a)
    assert deleted[0] > 0
    rows = dict(await read(channel, since_offset=0, upto=99, limit=99, reverse=False))
    assert SECRET.encode() not in rows[at]
    assert NAME.encode() not in b"".join(rows.values())


async def test_what_was_void_is_erased_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = site.replicas
    channel = str((await a.call("o1", "conversations.create", users=[USER]))["channel"])
    root = (await a.call("o1", "messages.send", channel=channel, text="root"))["offset"]
    own = (await a.call(USER, "messages.send", channel=channel, text=SECRET))["offset"]
    await a.call(USER, "messages.edit", channel=channel, of=own, text=SECRET)
    prepare, deleted = a.conversations.prepare, list[int]()

    async def prepare_and_be_late(live: Any, event: Any) -> None:
        await prepare(live, event)
        if not deleted:
            deleted.append((await b.call("o1", "messages.delete", channel=channel, of=root))["offset"])

    monkeypatch.setattr(a.conversations, "prepare", prepare_and_be_late)
    answer = await a.call(USER, "messages.send", channel=channel, text=SECRET, thread=root)
    assert answer["applied"] is False
    await erased(b)
    rows = dict(await site.rows.read(channel, since_offset=0, upto=99, limit=99, reverse=False))
    assert SECRET.encode() not in b"".join(rows.values())
    await site.settle(channel)
    assert (await b.chat.upkeep.check(channel)).differences == []
    await b.chat.upkeep.rebuild(channel)
    assert (await site.another().call("o1", "messages.list", channel=channel))["messages"][-1]["deleted"]


async def test_what_was_written_in_open_conversations_that_were_closed_is_found(site: Site) -> None:
    await _closed_ones(site)


async def test_it_is_on_dynamodb(dynamodb_calls: Site) -> None:
    await _closed_ones(dynamodb_calls)


async def _closed_ones(site: Site) -> None:
    """The user wrote there, and has no role but in one of them."""
    a, b = site.replicas
    ops = {"shut": ["close"], "again": ["close", "reopen"], "twice": ["close", "reopen", "close"]}
    ops |= {"gone": ["close", "delete"], "role": ["close"]}
    channels: dict[str, str] = {}
    for name, changes in ops.items():
        made = await a.call("o1", "conversations.create", type="open", id=name)
        channels[name] = channel = str(made["channel"])
        await b.call(USER, "messages.send", channel=channel, text=f"in {name}")
        if name == "role":
            await a.call("o1", "members.role", channel=channel, user=USER, role="moderator")
        for change in changes:
            await a.call("o1", f"conversations.{change}", channel=channel)
            if change == "reopen":
                await b.call(USER, "messages.send", channel=channel, text=f"again in {name}")
    for step in range(2):
        found = sorted(one["text"] for one in await exported(b, limit=1))
        assert found == ["again in again", "again in twice", "in again", "in role", "in shut", "in twice"]
        for name in ("shut", "again", "twice", "role"):
            assert (await a.chat.upkeep.check(channels[name])).differences == []
            if step == 0:  # made again from the log
                await a.chat.upkeep.rebuild(channels[name])
    assert await erased(b) == 4
    for name in ("shut", "again", "twice", "role"):
        naive = NaiveFold()
        for entry in await site.log(channels[name]):
            naive.apply(*entry)
        assert live(naive.view()) == {}
    assert await exported(a) == []
    assert await erased(a) == 0
