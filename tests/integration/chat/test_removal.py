"""Who is removed hears and says nothing any more (C11 to C14, C17).

Three edges, two replicas of persistence. Tried as mutants: see each test.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from functools import partial

import pytest
import redis

from tests.support.chat_client import Backend, ChatClient, Refused, some_key
from tests.support.chat_follower import NO_LONGER_A_MEMBER, Follower
from tests.support.chat_stack import EDGES, ChatStack
from tests.support.full import sized
from tests.support.wire_client import JsonObject

OWNER, VICTIM = "owner", "victim"
PUBLISHERS = sized(8, 20)
RATE_PER_S = sized(100, 500)
ROUNDS = sized(1, 200)
CUT_S = sized(3, 8)
RACES = sized(25, 1_000)
OUTAGE_S = sized(2, 30)


async def publish_until(ended: asyncio.Event, clients: list[ChatClient], channel: str, acked: list[JsonObject]) -> None:
    """Let every client publish on its schedule; what is unavailable is repeated."""

    async def one(client: ChatClient, number: int) -> None:
        count = 0
        while not ended.is_set():
            await asyncio.sleep(len(clients) / RATE_PER_S)
            count += 1
            text = f"{number} {count}"
            acked.append({**await client.do("messages.send", channel=channel, text=text, cid=text), "text": text})

    await asyncio.gather(*(one(client, number) for number, client in enumerate(clients)))


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_c11_removed_at_k_means_nothing_behind_k_on_any_edge(
    round_: int, chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """One edge is cut off from Redis around k, and pub/sub connections are killed.

    Mutant: a removal ends no subscription.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, stack = random.Random(seed), chat_stack.stack
    channel = await backend.group(OWNER, VICTIM, *(f"p{number}" for number in range(PUBLISHERS)))
    publishers = [await chat_stack.join(exits, f"p{number}", rng.choice((0, 2))) for number in range(PUBLISHERS)]

    async def followers(user: str) -> list[Follower]:
        made = [Follower(url, partial(stack.token, user), channel) for url in stack.ws_urls]
        return [await exits.enter_async_context(one) for one in made]

    victims, others = await followers(VICTIM), await followers(OWNER)
    for follower in (*victims, *others):
        await asyncio.wait_for(follower.is_live.wait(), 20)
    ended, acked = asyncio.Event(), list[JsonObject]()
    publishing = asyncio.create_task(publish_until(ended, publishers, channel, acked))
    try:
        await asyncio.sleep(rng.uniform(0.2, 0.6))
        chat_stack.cut_redis()
        try:
            await asyncio.sleep(rng.uniform(0, CUT_S))
            chat_stack.kill_pubsub()
            removed = await backend.do("members.remove", OWNER, channel=channel, user=VICTIM, key=some_key())
            chat_stack.kill_pubsub()
            await asyncio.sleep(rng.uniform(0.2, CUT_S))
        finally:
            chat_stack.heal_redis()
        await asyncio.sleep(rng.uniform(0.2, 0.6))
    finally:
        ended.set()
        await publishing
    k, top = removed["offset"], max(one["offset"] for one in acked)
    assert removed["applied"]
    assert top > k
    for victim in victims:
        await victim.until(lambda heard: bool(heard.unsubscribed or heard.refused), "out", 30)
        heard = victim.heard
        assert heard.offsets == list(range(heard.offsets[0], heard.offsets[0] + len(heard.offsets)))
        assert heard.offsets[-1] <= k
        assert heard.behind_the_end == []
        if heard.refused is None:
            assert heard.unsubscribed is not None
            assert heard.unsubscribed[0] == NO_LONGER_A_MEMBER
            assert heard.unsubscribed[1], "the SDK for Python needs a reason"
            assert heard.offsets[-1] == k, "his removal is the last thing that he hears"
        else:
            assert heard.refused == 103
    assert any(victim.heard.unsubscribed for victim in victims)
    for other in others:
        await other.until(lambda heard: bool(heard.offsets) and heard.offsets[-1] >= top, "whole", 30)
        assert other.heard.offsets == list(range(other.heard.offsets[0], other.heard.offsets[-1] + 1))
        assert other.heard.not_recovered == 0


async def race(chat_stack: ChatStack, posters: list[ChatClient], owner: Backend, rng: random.Random) -> None:
    """Remove a member who posts as fast as possible, by every way."""
    channel = await owner.group(OWNER, VICTIM)
    gone = asyncio.Event()
    acked: list[tuple[int, bool]] = []  # offset, and whether it was sent once the removal was acknowledged

    async def post(poster: ChatClient, number: int) -> None:
        for count in range(10_000):
            is_late = gone.is_set()
            cid = f"{number} {count}"
            data = {"kind": "message", "text": cid, "cid": cid}
            if number % 2:
                reply = await poster.reply(await poster.post(publish={"channel": channel, "data": data}))
                error, offset = reply.get("error"), reply.get("publish", {}).get("offset", 0)
            else:
                try:
                    error, offset = None, (await poster.do("messages.send", channel=channel, text=cid))["offset"]
                except Refused as refused:
                    error, offset = refused.error, 0
            if error is None:
                acked.append((offset, is_late))
            elif error["code"] == 103:
                return
            else:
                assert error["code"] == 100, error

    posting = [asyncio.create_task(post(poster, number)) for number, poster in enumerate(posters)]
    await asyncio.sleep(rng.uniform(0, 0.1))
    removed = await owner.do("members.remove", OWNER, channel=channel, user=VICTIM)
    gone.set()
    await asyncio.gather(*posting)
    assert [offset for offset, is_late in acked if is_late] == [], "acknowledged though he was removed before"
    log = await owner.log(channel)
    his = [one["offset"] for one in log if one.get("info", {}).get("user") == VICTIM]
    assert max(his, default=0) < removed["offset"], "a message of a removed member stands behind the removal"
    assert {offset for offset, _ in acked} <= set(his)


@pytest.mark.slow
async def test_c12_once_remove_is_acknowledged_no_publish_of_the_removed_is(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutant: the log gets no guard: what was decided before is numbered behind."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    posters = [await chat_stack.join(exits, VICTIM, number % EDGES) for number in range(2 * EDGES)]
    for _ in range(RACES):
        await race(chat_stack, posters, backend, rng)


@pytest.mark.slow
async def test_c12_the_removal_holds_when_redis_is_emptied_behind_it(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutant: `open` brings back epoch and top without the membership version."""
    victims = [await chat_stack.join(exits, VICTIM, edge) for edge in range(EDGES)]
    for number in range(sized(2, 20)):
        channel = await backend.group(OWNER, VICTIM, "u3")
        await victims[0].do("messages.send", channel=channel, text="before")
        removed = await backend.do("members.remove", OWNER, channel=channel, user=VICTIM)
        with redis.Redis.from_url(chat_stack.stack.redis_url) as client:
            for key in client.scan_iter(match=f"*{channel}*"):
                client.delete(key)
        for victim in victims:
            assert await victim.refused("messages.send", channel=channel, text="after") == 103
        sent = await backend.do("messages.send", "u3", channel=channel, text=f"still {number}")
        assert sent["offset"] == removed["offset"] + 1


async def test_c13_who_was_away_when_removed_gets_nothing_by_any_path(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutant: recovery is not checked."""
    channel = await backend.group(OWNER, VICTIM, "u3")
    victim = await chat_stack.join(exits, VICTIM, 0)
    position = await victim.subscribe(channel)
    await victim.call(unsubscribe={"channel": channel})
    await backend.do("messages.send", "u3", channel=channel, text="secret before k")
    await backend.do("members.remove", OWNER, channel=channel, user=VICTIM)
    await backend.do("messages.send", "u3", channel=channel, text="secret behind k")
    for edge in range(EDGES):
        again = await chat_stack.join(exits, VICTIM, edge)
        recover = {"recover": True, "offset": position.get("offset", 0), "epoch": position["epoch"]}
        for request in (
            {"subscribe": {"channel": channel, **recover}},
            {"subscribe": {"channel": channel}},
            {"history": {"channel": channel, "limit": 10}},
            {"presence": {"channel": channel}},
            {"presence_stats": {"channel": channel}},
            {"publish": {"channel": channel, "data": {"kind": "message", "text": "Hi"}}},
        ):
            assert (await again.error(**request))["code"] == 103, request
        for method, params in (
            ("messages.list", {}),
            ("messages.get", {"offset": position.get("offset", 0) + 1}),
            ("conversations.get", {}),
            ("members.list", {}),
        ):
            assert await again.refused(method, channel=channel, **params) == 103, method
        assert not any("secret" in str(line) for line in again.lines)
    assert not any("secret" in str(line) for line in victim.lines)


async def test_c13_who_is_added_again_sees_nothing_from_before_where_history_begins_at_joining(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutants: no cut at `history_from` in recovery; in both places of history."""
    channel = await backend.group(OWNER, VICTIM, "u3", history="joined")
    victim = await chat_stack.join(exits, VICTIM, 0)
    position = await victim.subscribe(channel)
    await victim.call(unsubscribe={"channel": channel})
    secret = await backend.do("messages.send", "u3", channel=channel, text="secret")
    await backend.do("members.remove", OWNER, channel=channel, user=VICTIM)
    await backend.do("messages.send", "u3", channel=channel, text="secret too")
    added = await backend.do("members.add", OWNER, channel=channel, user=VICTIM)
    j = added["offset"]
    reply_to = await backend.do("messages.send", "u3", channel=channel, text="seen", reply_to=secret["offset"])
    for edge in range(EDGES):
        again = await chat_stack.join(exits, VICTIM, edge)
        recovered = await again.subscribe(
            channel, recover=True, offset=position.get("offset", 0), epoch=position["epoch"]
        )
        assert recovered["recovered"]
        assert [one["offset"] for one in recovered["publications"]] == [reply_to["offset"]]
        for members in ({}, {"since": {"offset": 0, "epoch": position["epoch"]}}, {"reverse": True}):
            page = await again.call(history={"channel": channel, "limit": 100, **members})
            assert [one["offset"] for one in page["publications"]] == [reply_to["offset"]]
        listed = await again.do("messages.list", channel=channel)
        assert [one["offset"] for one in listed["messages"]] == [reply_to["offset"]]
        for offset in (secret["offset"], j):
            assert await again.refused("messages.get", channel=channel, offset=offset) == 404
        assert not any("secret" in str(line) for line in again.lines)


@pytest.mark.slow
async def test_c14_while_persistence_is_away_members_stay_and_nobody_comes_in_unchecked(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutant: who can't be checked is let in."""
    channel = await backend.group(OWNER, VICTIM)
    owner = await chat_stack.join(exits, OWNER, 0)
    await owner.subscribe(channel)
    asking = [await chat_stack.join(exits, user, edge) for edge in range(EDGES) for user in ("stranger", VICTIM)]
    for name in chat_stack.replicas.names:
        await asyncio.to_thread(chat_stack.replicas.stop, name)
    began = time.monotonic()
    try:
        while time.monotonic() < began + OUTAGE_S:
            for client in asking:
                reply = await client.reply(await client.post(subscribe={"channel": channel}), 10)
                assert reply["error"]["code"] == 100, reply
            data = {"kind": "message", "text": "Hi"}
            reply = await owner.reply(await owner.post(publish={"channel": channel, "data": data}), 10)
            assert reply["error"]["code"] == 100, reply
            await asyncio.sleep(0.2)
    finally:
        for name in chat_stack.replicas.names:
            await asyncio.to_thread(chat_stack.replicas.cont, name)
    for stranger, newcomer in zip(asking[::2], asking[1::2], strict=True):
        assert (await stranger.try_subscribe(channel))["error"]["code"] == 103
        assert "subscribe" in await newcomer.try_subscribe(channel)
    sent = await backend.do("messages.send", VICTIM, channel=channel, text="back")
    while (await owner.publication(channel))["offset"] < sent["offset"]:
        pass


@pytest.mark.slow
async def test_c14_while_auth_is_away_members_come_and_go(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    channel = await backend.group(OWNER, VICTIM)
    stack = chat_stack.stack
    await asyncio.to_thread(stack.kill9, "auth")
    try:
        member, stranger = await chat_stack.join(exits, VICTIM, 0), await chat_stack.join(exits, "stranger", 1)
        await member.subscribe(channel)
        assert (await stranger.try_subscribe(channel))["error"]["code"] == 103
        assert (await member.do("messages.send", channel=channel, text="Hi"))["applied"]
    finally:
        await asyncio.to_thread(stack.start, "auth")


@pytest.mark.slow
async def test_c14_an_edge_is_killed_while_somebody_is_removed(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    stack = chat_stack.stack
    channel = await backend.group(OWNER, VICTIM)
    followers: dict[str, Follower] = {
        user: await exits.enter_async_context(Follower(stack.ws_urls[2], partial(stack.token, user), channel))
        for user in (VICTIM, OWNER)
    }
    for follower in followers.values():
        await asyncio.wait_for(follower.is_live.wait(), 20)
    await backend.do("messages.send", OWNER, channel=channel, text="before")
    await asyncio.to_thread(stack.kill9, "edge-3")
    try:
        removed = await backend.do("members.remove", OWNER, channel=channel, user=VICTIM)
        after = await backend.do("messages.send", OWNER, channel=channel, text="after")
    finally:
        await asyncio.to_thread(stack.start, "edge-3")
    await followers[VICTIM].until(lambda heard: heard.refused is not None, "refused")
    assert followers[VICTIM].heard.refused == 103
    assert max(followers[VICTIM].heard.offsets, default=0) < removed["offset"]
    await followers[OWNER].until(lambda heard: after["offset"] in heard.offsets, "recovered")
    assert followers[OWNER].heard.not_recovered == 0


async def test_c17_followers_of_an_open_conversation_are_no_events_and_a_ban_ends_all_of_them(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutant: a ban ends no subscription."""
    made = await backend.do("conversations.create", OWNER, type="open", id=f"c17-{some_key()[:12]}")
    channel = made["channel"]
    stack = chat_stack.stack
    before = [one["offset"] for one in await backend.log(channel)]
    clients = [await chat_stack.join(exits, f"f{number}", number % EDGES) for number in range(sized(60, 2_000))]
    for client in clients:
        await client.subscribe(channel)
    assert [one["offset"] for one in await backend.log(channel)] == before
    victims = [
        await exits.enter_async_context(Follower(stack.ws_urls[edge], partial(stack.token, VICTIM), channel))
        for edge in range(EDGES)
    ]
    for victim in victims:
        await asyncio.wait_for(victim.is_live.wait(), 20)
    banned = await backend.do("members.ban", OWNER, channel=channel, user=VICTIM)
    after = await backend.do("messages.send", "f1", channel=channel, text="after")
    for victim in victims:
        await victim.until(lambda heard: heard.unsubscribed is not None, "out")
        assert victim.heard.unsubscribed is not None
        assert victim.heard.unsubscribed[0] == NO_LONGER_A_MEMBER
        assert victim.heard.offsets[-1] == banned["offset"]
        assert victim.heard.behind_the_end == []
    outside = await chat_stack.join(exits, VICTIM, 0)
    for request in ({"subscribe": {"channel": channel}}, {"history": {"channel": channel, "limit": 1}}):
        assert (await outside.error(**request))["code"] == 103
    for client in clients:
        while (await client.publication(channel))["offset"] < after["offset"]:
            pass
