"""Members of conversations, with real Redis and persistence processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from tests.support.alike import assert_alike
from tests.support.conversations import ConversationSite, Edge, Talker
from tests.support.full import sized
from tests.support.redis import RedisServer
from tests.support.waiting import until

PUBLISHERS = ["ann", "cid", "dan", "eve"]
NOWHERE = "conv:g.aaaaaaaaaaaaaaaaaaaaaaaaaa"


@pytest.fixture
async def site(own_redis: RedisServer, tmp_path: Path) -> AsyncIterator[ConversationSite]:
    async with ConversationSite(own_redis, tmp_path) as made:
        yield made


def message(text: str) -> dict[str, Any]:
    return {"kind": "message", "text": text}


async def test_c11_c12_the_removal_is_the_last_that_the_removed_get_and_do(site: ConversationSite) -> None:
    """Victim on three edges; one is cut from Redis, another loses its pub/sub."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(sized(3, 200)):
        await _a_removal(site, rng)


async def _a_removal(site: ConversationSite, rng: random.Random) -> None:
    channel = await site.group("ann", "bob", "cid", "dan", "eve")
    bobs = [await site.connected(edge, "bob") for edge in site.edges]
    others = [await site.connected(edge, user) for edge in site.edges for user in PUBLISHERS]
    for client in (*bobs, *others):
        reply = await client.ask(subscribe={"channel": channel})
        assert "subscribe" in reply, reply
        client.since = reply["subscribe"]["offset"]
    going = True
    acked: dict[Talker, list[tuple[int, float]]] = {client: [] for client in (*bobs, *others)}

    async def publish(client: Talker) -> None:
        for number in itertools.count():
            if not going:
                return
            reply = await client.ask(publish={"channel": channel, "data": message(f"{number}")})
            if "publish" in reply:
                acked[client].append((reply["publish"].get("offset", 0), time.monotonic()))
            await asyncio.sleep(rng.uniform(0, 0.02))

    cut, deaf = rng.sample(site.edges, 2)
    async with asyncio.TaskGroup() as group:
        for client in acked:
            group.create_task(publish(client))
        group.create_task(_cut_off(cut, rng.uniform(0.1, 0.5), sized(1, 8)))
        group.create_task(_kill_pubsub(site, deaf, rng.uniform(0.1, 0.6)))
        await asyncio.sleep(rng.uniform(0.2, 0.7))
        removed = await site.call("members.remove", "ann", channel=channel, user="bob")
        over = time.monotonic()
        await asyncio.sleep(0.3)
        going = False
    k = removed["offset"]
    assert removed["applied"]
    last = await site.call("messages.send", "ann", channel=channel, text="the last")
    await until(lambda: all(last["offset"] in one.offsets(channel) for one in others))
    for client in others:
        assert client.offsets(channel) == list(range(client.since + 1, last["offset"] + 1))
        assert not client.ends(channel)
    await until(lambda: all(one.ends(channel) for one in bobs))
    for bob in bobs:
        assert bob.ends(channel) == [2100]
        assert bob.offsets(channel) == list(range(bob.since + 1, k + 1))
        assert all(offset < k for offset, _ in acked[bob])
        assert all(at < over for _, at in acked[bob][:-1])
        assert await bob.code(subscribe={"channel": channel}) == 103
        assert await bob.code(publish={"channel": channel, "data": message("again")}) == 103
    page = await others[0].ask(history={"channel": channel, "since": {"offset": k, "epoch": removed["epoch"]}})
    assert all(one["info"]["user"] != "bob" for one in page["history"].get("publications", []))
    assert sum(map(len, acked.values())) > 100
    for client in (*bobs, *others):
        await client.hang_up()


async def _cut_off(edge: Edge, after_s: float, for_s: float) -> None:
    await asyncio.sleep(after_s)
    edge.way.cut()
    await asyncio.sleep(for_s)
    edge.way.heal()


async def _kill_pubsub(site: ConversationSite, edge: Edge, after_s: float) -> None:
    """Redis drops the pub/sub connections of all edges."""
    await asyncio.sleep(after_s)
    client = redis.asyncio.Redis(port=site.redis.port)
    await client.client_kill_filter(_type="pubsub")
    await client.aclose()


async def test_c13_who_was_away_when_removed_gets_nothing_and_after_joining_again_what_follows(
    site: ConversationSite,
) -> None:
    channel = await site.group("ann", "bob", history="joined")
    edge = site.edges[0]
    bob = await site.connected(edge, "bob")
    first = (await bob.ask(subscribe={"channel": channel}))["subscribe"]
    await bob.hang_up()
    await site.call("messages.send", "ann", channel=channel, text="secret of before")
    await site.call("members.remove", "ann", channel=channel, user="bob")
    await site.call("messages.send", "ann", channel=channel, text="secret without bob")
    asks = {"channel": channel, "recover": True, "offset": first["offset"], "epoch": first["epoch"]}
    operations: list[dict[str, Any]] = [
        {"subscribe": asks},
        {"subscribe": {"channel": channel}},
        {"history": {"channel": channel, "limit": 100}},
        {"history": {"channel": channel, "limit": 100, "reverse": True}},
        {"presence": {"channel": channel}},
        {"presence_stats": {"channel": channel}},
        {"publish": {"channel": channel, "data": message("hello?")}},
    ]
    texts = b""
    for at in site.edges:
        bob = await site.connected(at, "bob")
        for operation in operations:
            assert await bob.code(**operation) == 103, operation
        texts += b"".join(bob.texts)
    added = await site.call("members.add", "ann", channel=channel, user="bob")
    after = await site.call("messages.send", "ann", channel=channel, text="welcome back")
    for at in site.edges:
        bob = await site.connected(at, "bob")
        page = (await bob.ask(history={"channel": channel, "limit": 100}))["history"]
        assert [one["offset"] for one in page["publications"]] == [after["offset"]]
        assert page["offset"] == after["offset"]
        back = (await bob.ask(history={"channel": channel, "limit": 100, "reverse": True}))["history"]
        assert [one["offset"] for one in back["publications"]] == [after["offset"]]
        result = (await bob.ask(subscribe=asks))["subscribe"]
        assert result["recovered"]
        got = [one["offset"] for one in result.get("publications", [])] + bob.offsets(channel)
        assert got == [after["offset"]]
        assert result["offset"] == added["offset"]
        texts += b"".join(bob.texts)
    assert b"secret" not in texts


async def test_c14_while_persistence_is_away_members_stay_and_nobody_new_gets_in(site: ConversationSite) -> None:
    channel = await site.group("ann", "bob", "cid")
    edge = site.edges[0]
    bob = await site.connected(edge, "bob")
    assert await bob.code(subscribe={"channel": channel}) == 0
    pids = [process._process.pid for process in site.processes if process._process is not None]  # noqa: SLF001
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for user in ("cid", "stranger"):
            newcomer = await site.connected(edge, user)
            assert await newcomer.code(subscribe={"channel": channel}) == 100
            assert await newcomer.code(history={"channel": channel, "limit": 5}) == 100
        assert await bob.code(presence={"channel": channel}) == 0
        assert (
            await bob.code(history={"channel": channel, "limit": 5}) == 0
        )  # Redis has it, the subscription permits it
        assert channel in bob.session.subscriptions
        assert not bob.ends(channel)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    cid = await site.connected(edge, "cid")
    async with asyncio.timeout(30):
        while await cid.code(subscribe={"channel": channel}) == 100:
            await asyncio.sleep(0.1)
    stranger = await site.connected(edge, "stranger")
    assert await stranger.code(subscribe={"channel": channel}) == 103
    sent = await site.call("messages.send", "ann", channel=channel, text="hi")
    await until(lambda: sent["offset"] in bob.offsets(channel) and sent["offset"] in cid.offsets(channel))


async def test_c10_refusals_take_as_long_whether_or_not_there_is_a_conversation(site: ConversationSite) -> None:
    """In the same bytes; the medians of interleaved refusals differ by little."""
    channel = await site.group("ann", "bob")
    await site.call("messages.send", "ann", channel=channel, text="hi")
    stranger = await site.connected(site.edges[0], "stranger")
    stranger.pause_s = 0
    asked: list[tuple[str, dict[str, Any]]] = [
        *(("subscribe", {}), ("history", {"limit": 5}), ("publish", {"data": message("hi")}))
    ]
    for name, more in asked:
        said: set[str] = set()

        async def once(at: str, name: str = name, more: dict[str, Any] = more, said: set[str] = said) -> float:
            began = time.perf_counter()
            reply = await stranger.ask(**{name: {"channel": at, **more}})
            took = time.perf_counter() - began
            said.add(str(reply["error"]))
            return took

        print(name)
        await assert_alike(once, channel, NOWHERE, samples=sized(60, 500))
        assert len(said) == 1
