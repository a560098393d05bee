"""Watched inboxes on a whole stack: three edges, two replicas of persistence."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from services.shared.hotlog import keys
from tests.support.chat_client import Backend, ChatClient, Refused, some_key
from tests.support.chat_stack import EDGES, ChatStack
from tests.support.full import sized
from tests.support.waiting import until

CUT_S = sized(3, 20)
ROUNDS = sized(1, 20)
ONLINE = sized(45, 999)  # members of one group, each with a client
PER_S, BURST_S = 50, sized(3, 30)


def changes(client: Any, channel: str) -> list[dict[str, Any]]:
    """Changes of inboxes that a client was pushed."""
    return [change for push in client.heard(channel) for change in push["data"]["changes"]]


def offsets(client: Any, channel: str) -> list[int]:
    return [change["offset"] for change in changes(client, channel)]


async def test_members_on_all_edges_are_told_and_others_are_not(
    chat_stack: ChatStack, exits: AsyncExitStack, backend: Backend
) -> None:
    run = some_key()[:8]
    ann, bob, eve = (f"{run}-{name}" for name in ("ann", "bob", "eve"))
    channel = await backend.group(ann, bob)
    watched = f"inbox:#{bob}"
    clients = [await chat_stack.join(exits, bob, edge) for edge in range(EDGES)]
    for client in clients:
        assert "error" not in await client.try_subscribe(watched)
    other = await chat_stack.join(exits, eve, 0)
    assert (await other.try_subscribe(watched))["error"]["code"] == 103
    assert "error" not in await other.try_subscribe(f"inbox:#{eve}")
    listed = await clients[0].do("inbox.list")
    assert [one["channel"] for one in listed["conversations"]] == [channel]
    first = await backend.do("messages.send", ann, channel=channel, text="h")
    for client in clients:  # until then an edge may still ask whether bob, who was just added, is a member
        await until(lambda client=client: offsets(client, watched)[-1:] == [first["offset"]])  # type: ignore[misc]
    sent = await backend.do("messages.send", ann, channel=channel, text="hi")
    for client in clients:
        await until(lambda client=client: offsets(client, watched)[-1:] == [sent["offset"]])  # type: ignore[misc]
        change = changes(client, watched)[-1]
        assert (change["channel"], change["offset"], change["n"]) == (channel, sent["offset"], 2)
        assert (change["author"], change["flags"]) == (ann, 1)
    added = await backend.do("members.add", ann, channel=channel, user=eve)
    await until(lambda: changes(other, f"inbox:#{eve}"))
    assert changes(other, f"inbox:#{eve}")[0]["offset"] >= added["offset"]
    await backend.do("members.remove", ann, channel=channel, user=eve)
    await until(lambda: changes(other, f"inbox:#{eve}")[-1].get("removed"))


class Watcher:
    """A client that watches the inbox of a user, and what it knows."""

    def __init__(self, chat_stack: ChatStack, exits: AsyncExitStack, user: str, edge: int) -> None:
        self._stack, self._exits, self.user, self._edge = chat_stack, exits, user, edge
        self.client: ChatClient
        self._listed: dict[str, tuple[int, int]] = {}

    async def begin(self) -> None:
        """Connect, watch, and then ask for the whole inbox."""
        self.client = await self._stack.join(self._exits, self.user, self._edge)
        assert "error" not in await self.client.try_subscribe(f"inbox:#{self.user}")
        self._listed = places(await self.client.do("inbox.list"))

    def known(self) -> dict[str, tuple[int, int]]:
        """Offset and number of messages of each conversation."""
        found = dict(self._listed)
        for change in changes(self.client, f"inbox:#{self.user}"):
            if change.get("removed"):
                found.pop(change["channel"], None)
            elif change["offset"] >= found.get(change["channel"], (0, 0))[0]:  # the list may be newer
                found[change["channel"]] = change["offset"], change["n"]
        return found


def places(answer: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {one["channel"]: (one["offset"], one["n"]) for one in answer["conversations"]}


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_c42_watchers_know_the_truth_after_faults_on_all_edges(
    round_: int, chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """One edge is long without Redis, one is killed, and a replica of persistence.

    Mutant: after a gap of the feed nobody is asked for again.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, stack, run = random.Random(seed), chat_stack.stack, some_key()[:8]
    users = [f"{run}-{number}" for number in range(4)]
    channels = [await backend.group(users[0], *rng.sample(users[1:], 2)) for _ in range(5)]
    watchers = [Watcher(chat_stack, exits, user, edge) for user in users[:2] for edge in range(EDGES)]
    for watcher in watchers:
        await watcher.begin()
    acked: dict[str, int] = {}
    ended = asyncio.Event()

    async def write() -> None:
        while not ended.is_set():
            channel, user = rng.choice(channels), rng.choice(users[1:])
            method = rng.choice(["messages.send"] * 8 + ["members.add", "members.remove"])
            about = {"text": "x"} if method == "messages.send" else {"user": user}
            with contextlib.suppress(Refused):  # some are no members
                done = await backend.do(method, users[0], channel=channel, key=some_key(), **about)
                acked[channel] = max(acked.get(channel, 0), done.get("offset", 0))
            await asyncio.sleep(0.02)

    writing = asyncio.create_task(write())
    try:
        chat_stack.cut_redis()
        try:
            await asyncio.to_thread(stack.kill9, "edge-3")
            await asyncio.sleep(rng.uniform(0.2, CUT_S / 2))
            victim = rng.choice(chat_stack.replicas.names)
            await asyncio.to_thread(chat_stack.replicas.kill9, victim)
            await asyncio.sleep(rng.uniform(0.2, CUT_S / 2))
            await asyncio.to_thread(chat_stack.replicas.start, victim)
            with redis.Redis.from_url(stack.redis_url) as client:  # so much came that the edge can't go on where it was
                for shard in range(keys.FEED_SHARDS):
                    client.xtrim(keys.commits(shard), maxlen=0, approximate=False)
        finally:
            chat_stack.heal_redis()
            await asyncio.to_thread(stack.start, "edge-3")
        for watcher in watchers[2::EDGES]:
            await watcher.begin()
        await asyncio.sleep(0.5)
    finally:
        ended.set()
        await writing
    true = {user: places(await backend.do("inbox.list", user)) for user in users[:2]}
    assert acked.keys() <= set(channels)
    for channel, offset in acked.items():
        assert true[users[0]][channel][0] >= offset
    await until(lambda: all(one.known() == true[one.user] for one in watchers), 60)


@pytest.mark.slow
async def test_c43_a_busy_group_pushes_to_each_member_once_a_second(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutant: each hint is pushed at once."""
    run = some_key()[:8]
    users = [f"{run}-{number}" for number in range(ONLINE)]
    channel = await backend.group(*users[:100])
    for user in users[100:]:
        await backend.do("members.add", users[0], channel=channel, user=user)
    watchers = [Watcher(chat_stack, exits, user, number % EDGES) for number, user in enumerate(users)]
    for watcher in watchers:
        await watcher.begin()
    before = {one.user: len(one.client.heard(f"inbox:#{one.user}")) for one in watchers}
    began, sent = time.monotonic(), 0
    while time.monotonic() < began + BURST_S:
        await backend.do("messages.send", users[sent % len(users)], channel=channel, text="x")
        sent += 1
        await asyncio.sleep(max(0.0, began + sent / PER_S - time.monotonic()))
    true = places(await backend.do("inbox.list", users[0]))
    assert true[channel][1] == sent
    await until(lambda: all(one.known() == true for one in watchers), 60)
    took = time.monotonic() - began
    for one in watchers:
        pushes = len(one.client.heard(f"inbox:#{one.user}")) - before[one.user]
        assert 1 <= pushes <= 1 + 1.1 * took, (one.user, pushes, took)
