"""Pages that are read while others write are what the log says at `as_of`."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from services.shared.dynamodb.client import DynamoDb
from tests.chat.traffic import READERS, Answer, Traffic, Truth
from tests.support.chat import new_event
from tests.support.chat_calls import Site


@pytest.mark.parametrize("seed", range(6))
async def test_pages_are_the_fold_at_the_position_that_they_name(site: Site, seed: int) -> None:
    await play(site, seed, writes=150, reads=150)


@pytest.mark.parametrize("seed", range(2))
async def test_so_they_are_on_dynamodb(dynamodb_calls: Site, seed: int) -> None:
    await play(dynamodb_calls, seed, writes=60, reads=60)


async def test_a_page_of_50_takes_a_query_of_the_log_and_one_of_the_overlays(
    dynamodb_calls: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = dynamodb_calls.replicas
    channel = str((await a.call("u1", "conversations.create"))["channel"])
    await asyncio.gather(*(a.call("u1", "messages.send", channel=channel, text=str(one)) for one in range(120)))
    for of in range(60, 110, 10):
        await a.call("u1", "reactions.add", channel=channel, of=of, name="x")
    await dynamodb_calls.settle(channel)
    await b.call("u1", "conversations.get", channel=channel)
    real, made = DynamoDb.call, list[tuple[str, str]]()

    async def counted(self: DynamoDb, op: str, **arguments: Any) -> Any:
        made.append((op, arguments.get("TableName", "").rpartition("-")[2]))
        return await real(self, op, **arguments)

    monkeypatch.setattr(DynamoDb, "call", counted)
    page = await b.call("u1", "messages.list", channel=channel, limit=50)
    assert len(page["messages"]) == 50
    assert sum(one["reactions"] != {} for one in page["messages"]) == 3
    assert sorted(made) == [("get_item", "log"), ("query", "chat"), ("query", "log")]  # the item: what was removed


async def test_a_page_is_read_however_fast_the_conversation_changes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = site.replicas
    channel = str((await a.call("u1", "conversations.create"))["channel"])
    for number in range(30):
        await a.call("u1", "messages.send", channel=channel, text=str(number))
    read = site.rows.read_counted

    async def slowly(channel: str, **asked: Any) -> Any:
        found = await read(channel, **asked)
        if asked["reverse"]:  # as pages are read, and no fold
            await asyncio.sleep(0.03)
        return found

    monkeypatch.setattr(site.rows, "read_counted", slowly)
    is_over = False

    async def react() -> None:
        while not is_over:
            for op in ("add", "remove"):
                await a.appender.append(new_event("u1", {"kind": "reaction", "of": 9, "name": "x", "op": op}, channel))
                await asyncio.sleep(0.005)

    async def edit() -> None:
        while not is_over:
            await b.call("u1", "messages.edit", channel=channel, of=20, text="again")
            await asyncio.sleep(0.005)

    writers = [asyncio.create_task(react()), asyncio.create_task(edit())]
    traffic = Traffic(random.Random(1), site, channel)
    try:
        for replica, asked in zip(site.replicas, ({"limit": 25}, {"limit": 10, "around": 15}), strict=True):
            await traffic.ask(replica, "u1", asked)
    finally:
        is_over = True
        await asyncio.gather(*writers)
    truth = Truth(channel, await site.log(channel))
    assert len(traffic.pages) == 2
    for answer in traffic.pages:
        truth.check(answer)


async def play(site: Site, seed: int, writes: int, reads: int) -> None:
    """Write and read at random, then compare every page with the log."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    settings = {"history": rng.choice(["all", "joined"])}
    made = await site.replicas[0].call("u0", "conversations.create", users=["u1", "u2"], settings=settings)
    traffic = Traffic(rng, site, made["channel"])
    await traffic.run(writes, reads)
    await site.another().call("", "conversations.get", channel=traffic.channel)  # it has only what is kept
    for _ in range(40):
        await traffic.read(rng)
    truth = Truth(traffic.channel, await site.log(traffic.channel))
    for answer in traffic.pages:
        truth.check(answer)
    assert len(traffic.pages) > reads // 4, "hardly anybody could read"
    top = len(truth.log)
    await check_threads(site, truth, top)
    for user in READERS:  # nobody writes any more, so a refusal has a position, too
        may_read = truth.visible_from(user, top) is not None
        for replica in site.replicas:
            response = await replica.ask(user, "messages.list", channel=traffic.channel)
            assert response.refusal.code == (0 if may_read else 103), f"{user}: {response}"


async def check_threads(site: Site, truth: Truth, top: int) -> None:
    """Nobody writes any more: every thread has its answers, or there is none."""
    for user in READERS:
        if truth.visible_from(user, top) is None:
            continue
        roots = {one["offset"] for one in truth.messages(user, top)}
        for root in range(1, top + 2):
            replica = site.replicas[root % len(site.replicas)]
            asked = {"thread": root, "limit": 1 + root % 3}
            response = await replica.ask(user, "messages.thread", channel=truth.channel, **asked)
            assert response.refusal.code == (0 if root in roots else 404), f"{user}: {root}"
            if root in roots:
                truth.check(Answer(user, asked, json.loads(response.result)))
