"""Receipts: who is told of what others have read, and how often (C45).

Real Redis. Events are looked at where edges get them, on the pub/sub channels of conversations.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from services.persistence.chat.markers import receipts as module
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from tests.support.chat_calls import CallRefused, Replica, Site
from tests.support.full import sized
from tests.support.waiting import until
from thalamus.common.v1.common_pb2 import Publication

Json = dict[str, Any]
LONGEST_S = 20.0


class Frames:
    """Everything that is published to edges, in the order of its arrival."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub
        self.all: list[tuple[str, bytes]] = []

    async def follow(self) -> None:
        async for message in self._pubsub.listen():
            if message["type"] == "pmessage":
                self.all.append((message["channel"].decode(), message["data"]))

    def events(self, channel: str) -> list[Json]:
        """Ephemeral events of a conversation."""
        found = [data for name, data in self.all if name == keys.pub(channel) and data[:1] == keys.EPHEMERAL]
        return [json.loads(Publication.FromString(data[1:]).data) for data in found]

    def of(self, channel: str, user: str) -> list[Json]:
        return [event for event in self.events(channel) if event["user"] == user]


@pytest.fixture
async def edge(redis_conn: redis.asyncio.Redis) -> AsyncIterator[Any]:
    """What an edge is subscribed to."""
    pubsub = redis_conn.pubsub()
    await pubsub.subscribe(keys.control(), keys.ephemeral_readers())
    yield pubsub
    await pubsub.aclose()  # type: ignore[no-untyped-call]


@pytest.fixture
async def frames(redis_conn: redis.asyncio.Redis) -> AsyncIterator[Frames]:
    pubsub = redis_conn.pubsub()
    await pubsub.psubscribe("*:pub")
    found = Frames(pubsub)
    task = asyncio.create_task(found.follow())
    yield found
    task.cancel()
    await pubsub.aclose()  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is a fifth of one; whether edges read is asked anew each time."""
    monkeypatch.setattr(module, "GAP_S", 0.2)
    monkeypatch.setattr(module, "_YES_S", 0.0)
    monkeypatch.setattr(module, "_NO_S", 0.0)


async def group(replica: Replica, *others: str, messages: int = 3, **create: Any) -> str:
    channel = str((await replica.call("u1", "conversations.create", users=list(others), **create))["channel"])
    for number in range(messages):
        await replica.call("u1", "messages.send", channel=channel, text=str(number))
    return channel


async def who_read(replica: Replica, user: str, channel: str, offset: int, **more: Any) -> tuple[list[str], list[str]]:
    said = await replica.call(user, "receipts.list", channel=channel, offset=offset, **more)
    return [one["user"] for one in said["read"]], [one["user"] for one in said["delivered"]]


async def test_members_are_told_who_has_read(a: Replica, edge: Any, frames: Frames) -> None:
    channel = await group(a, "u2", "u3")
    await a.call("u2", "markers.read", channel=channel, offset=5)
    await a.call("u3", "markers.delivered", channel=channel, offset=6)
    await until(lambda: len(frames.events(channel)) == 2)
    assert frames.events(channel) == [
        {"kind": "receipt", "user": "u2", "read": 5, "delivered": 5},
        {"kind": "receipt", "user": "u3", "read": 0, "delivered": 6},
    ]
    assert await who_read(a, "u1", channel, 4) == (["u2"], ["u2", "u3"])
    assert await who_read(a, "u1", channel, 5) == (["u2"], ["u2", "u3"])
    assert await who_read(a, "u1", channel, 6) == ([], ["u3"])
    assert await who_read(a, "u2", channel, 5) == ([], ["u3"]), "of others only"


async def test_what_moved_nothing_or_back_is_not_told(a: Replica, edge: Any, frames: Frames) -> None:
    channel = await group(a, "u2", messages=6)
    await a.call("u2", "markers.read", channel=channel, offset=7)
    await until(lambda: frames.of(channel, "u2"))
    await a.call("u2", "markers.read", channel=channel, offset=4)
    await a.call("u2", "markers.delivered", channel=channel, offset=5)
    await a.call("u2", "markers.unread", channel=channel, offset=3)
    await asyncio.sleep(0.3)  # more than the time between two receipts
    await a.chat.receipts.sweep()
    await a.call("u1", "markers.read", channel=channel, offset=1)
    await until(lambda: frames.of(channel, "u1"))
    assert len(frames.events(channel)) == 2
    assert await who_read(a, "u1", channel, 4) == ([], ["u2"]), "who marked it as unread has not read it"


async def test_c45_nobody_ever_sees_what_a_private_user_read(a: Replica, b: Replica, edge: Any, frames: Frames) -> None:
    channel = await group(a, "u2", "secretive")
    await a.call("secretive", "me.preferences", receipts="private")
    for replica in (a, b):
        await replica.call("secretive", "markers.read", channel=channel, offset=4)
        await replica.call("secretive", "markers.read", channel=channel, offset=5)
        await replica.call("secretive", "markers.delivered", channel=channel, offset=6)
        assert await who_read(replica, "u1", channel, 3) == ([], [])
    await a.chat.receipts.sweep()
    await b.call("u2", "markers.read", channel=channel, offset=4)
    await until(lambda: frames.of(channel, "u2"))
    assert [name for name, data in frames.all if b"secretive" in data and data[:1] == keys.EPHEMERAL] == []
    await b.call("secretive", "me.preferences", receipts="members")
    assert await who_read(a, "u1", channel, 3) == (["secretive", "u2"], ["secretive", "u2"])


async def test_c45_a_receipt_that_waits_is_not_sent_once_the_user_is_private(
    a: Replica, edge: Any, frames: Frames, redis_conn: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GAP_S", 3_600.0)
    channel = await group(a, "u2", "u3")
    await a.call("u2", "markers.read", channel=channel, offset=3)
    await a.call("u2", "markers.read", channel=channel, offset=5)  # this one waits
    await a.call("u2", "me.preferences", receipts="private")
    monkeypatch.setattr(module, "GAP_S", 0.0)
    await redis_conn.zadd(keys.receipts_due(), {keys.pair("u2", channel): 1})
    await a.chat.receipts.sweep()
    await a.call("u3", "markers.read", channel=channel, offset=5)
    await until(lambda: frames.of(channel, "u3"))
    assert frames.of(channel, "u2") == [{"kind": "receipt", "user": "u2", "read": 3, "delivered": 3}]


@pytest.mark.parametrize(("members", "told"), [(100, True), (101, False)])
async def test_c45_a_large_group_is_told_nothing(
    site: Site, a: Replica, edge: Any, frames: Frames, members: int, told: bool
) -> None:
    channel = await group(a, *(f"m{number}" for number in range(99)), messages=1)
    for number in range(99, members - 1):
        await a.call("u1", "members.add", channel=channel, user=f"m{number}")
    for number in range(5):
        await a.call(f"m{number}", "markers.read", channel=channel, offset=2)
    await a.chat.receipts.sweep()
    small = await group(a, "u2", messages=1)
    await a.call("u2", "markers.read", channel=small, offset=2)
    await until(lambda: frames.events(small))
    if told:
        assert {event["user"] for event in frames.events(channel)} == {f"m{number}" for number in range(5)}
        assert len((await who_read(a, "u1", channel, 2))[0]) == 5
    else:
        assert frames.events(channel) == []
        with pytest.raises(CallRefused) as refused:
            await who_read(a, "u1", channel, 2)
        assert (refused.value.code, refused.value.why) == (106, "too_many")


async def test_an_open_conversation_is_told_nothing(a: Replica, edge: Any, frames: Frames) -> None:
    channel = str((await a.call("u1", "conversations.create", type="open", id="receipts"))["channel"])
    await a.call("u2", "markers.read", channel=channel, offset=1)
    await a.call("u1", "markers.read", channel=channel, offset=1)
    await a.chat.receipts.sweep()
    small = await group(a, "u2", messages=1)
    await a.call("u2", "markers.read", channel=small, offset=2)
    await until(lambda: frames.events(small))
    assert frames.events(channel) == []


@pytest.mark.parametrize("seed", range(sized(1, 10)))
async def test_c45_a_burst_is_one_event_per_user_and_second_and_the_last_one_comes(
    a: Replica, b: Replica, edge: Any, frames: Frames, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """By the clock of Redis, which decides when one may be sent."""
    chance = random.Random(seed)
    sent: dict[str, list[int]] = defaultdict(list)
    lease_ms = int(module._LEASE_S * 1_000)  # noqa: SLF001
    for replica in (a, b):
        monkeypatch.setattr(replica.chat.receipts, "_run", noting(replica.chat.receipts._run, sent, lease_ms))  # noqa: SLF001
    users = [f"m{number}" for number in range(99)]
    channel = await group(a, *users, messages=30)
    moves = [(user, offset) for user in users for offset in chance.sample(range(2, 32), 4)]
    chance.shuffle(moves)
    turns = asyncio.Semaphore(8)

    async def move(user: str, offset: int) -> None:
        async with turns:
            await chance.choice([a, b]).call(user, "markers.read", channel=channel, offset=offset)

    await asyncio.gather(*(move(user, offset) for user, offset in moves))
    newest = {user: max(offset for one, offset in moves if one == user) for user in users}

    def is_told() -> bool:
        last = {event["user"]: event["read"] for event in frames.events(channel)}
        return last == newest

    await until(is_told)
    for user, times in sent.items():
        gaps = [later - earlier for earlier, later in itertools.pairwise(sorted(times))]
        assert all(gap >= 200 for gap in gaps), (seed, user, gaps)
    assert len(frames.events(channel)) <= sum(map(len, sent.values())), seed


def noting(run: Any, sent: dict[str, list[int]], lease_ms: int) -> Any:
    """Note when receipts may be sent, in ms by the clock of Redis."""

    async def noted(script: Any, *arguments: Any) -> Any:
        found = await run(script, *arguments)
        if script is module.TELL:
            mark, wait_ms = found
            if not wait_ms:
                sent[str(arguments[0])].append(int(mark) - lease_ms)
        elif script is module.TAKE:
            for name, mark in zip(found[::2], found[1::2], strict=True):
                sent[name.decode()].append(int(mark) - lease_ms)
        return found

    return noted


async def test_a_slow_replica_does_not_have_the_last_word(
    a: Replica, b: Replica, edge: Any, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await group(a, "u2", messages=9)
    event, read, go_on = a.chat.receipts._event, asyncio.Event(), asyncio.Event()  # noqa: SLF001

    async def slow(of: Any) -> bytes | None:
        found = await event(of)
        read.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(a.chat.receipts, "_event", slow)
    monkeypatch.setattr(a.chat.receipts, "sweep", b.chat.receipts.sweep)
    first = asyncio.create_task(a.call("u2", "markers.read", channel=channel, offset=3))
    await read.wait()
    await b.call("u2", "markers.read", channel=channel, offset=9)
    await until(lambda: frames.of(channel, "u2"))
    go_on.set()
    await first
    await until(lambda: len(frames.of(channel, "u2")) >= 3)
    assert [one["read"] for one in frames.of(channel, "u2")][:3] == [9, 3, 9]


async def test_a_receipt_of_a_replica_that_died_is_sent_by_another_one(
    a: Replica, b: Replica, edge: Any, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEASE_S", 0.1)
    channel = await group(a, "u2")

    async def dies(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(a.chat.receipts, "_send", dies)
    monkeypatch.setattr(a.chat.receipts, "sweep", dies)
    with pytest.raises(ZeroDivisionError):
        await a.call("u2", "markers.read", channel=channel, offset=5)
    await until(lambda: frames.of(channel, "u2"))
    assert frames.of(channel, "u2")[0]["read"] == 5


async def test_a_conversation_that_cannot_be_read_holds_up_no_other_one(
    a: Replica, edge: Any, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEASE_S", 0.1)
    await a.rest()
    channels = [await group(a, "u2") for _ in range(3)]
    current, ill = a.conversations.current, [channels[1]]

    async def fails(channel: str, **more: Any) -> Any:
        if channel in ill:
            raise Unavailable("it can't be folded")
        return await current(channel, **more)

    for channel in channels:
        for offset in (3, 4):
            await a.call("u2", "markers.read", channel=channel, offset=offset)
    monkeypatch.setattr(a.conversations, "current", fails)

    def last(channel: str) -> int:
        return int(frames.of(channel, "u2")[-1]["read"])

    async with asyncio.timeout(LONGEST_S):
        while not all(last(channel) == 4 for channel in (channels[0], channels[2])):
            await a.chat.receipts.sweep()
            await asyncio.sleep(0.01)
    assert last(channels[1]) == 3
    ill.clear()
    async with asyncio.timeout(LONGEST_S):
        while last(channels[1]) != 4:
            await a.chat.receipts.sweep()
            await asyncio.sleep(0.01)


async def test_as_long_as_an_edge_cannot_read_events_nothing_is_sent(
    a: Replica, edge: Any, frames: Frames, redis_conn: redis.asyncio.Redis
) -> None:
    channel = await group(a, "u2")
    of_before = redis_conn.pubsub()
    await of_before.subscribe(keys.control())
    await of_before.get_message(timeout=60)
    await a.call("u2", "markers.read", channel=channel, offset=3)
    await of_before.aclose()  # type: ignore[no-untyped-call]

    async def is_gone() -> bool:
        (_, edges), (_, readers) = await redis_conn.pubsub_numsub(keys.control(), keys.ephemeral_readers())
        return bool(edges == readers)

    async with asyncio.timeout(LONGEST_S):
        while not await is_gone():
            await asyncio.sleep(0.01)
    await a.call("u1", "markers.read", channel=channel, offset=3)
    await until(lambda: frames.of(channel, "u1"))
    assert frames.of(channel, "u2") == []


async def test_who_could_not_see_a_message_has_not_read_it(a: Replica) -> None:
    channel = await group(a, "u2", messages=5)
    await a.call("u1", "members.add", channel=channel, user="u3", **{"from": 6})
    for user in ("u2", "u3"):
        await a.call(user, "markers.read", channel=channel, offset=8)
    assert (await who_read(a, "u1", channel, 6))[0] == ["u2"]
    assert (await who_read(a, "u1", channel, 7))[0] == ["u2", "u3"]


async def test_readers_come_page_by_page(a: Replica) -> None:
    users = [f"m{number:02}" for number in range(9)]
    channel = await group(a, *users, messages=1)
    for user in users[::2]:
        await a.call(user, "markers.read", channel=channel, offset=2)
    found, cursor = [], ""
    while True:
        said = await a.call("u1", "receipts.list", channel=channel, offset=2, limit=4, cursor=cursor)
        found += [one["user"] for one in said["read"]]
        if "cursor" not in said:
            break
        cursor = said["cursor"]
    assert found == users[::2]
    with pytest.raises(CallRefused) as refused:
        await who_read(a, "u1", channel, 1_000)
    assert refused.value.code == 107
