"""Each service is killed or stopped while clients chat.

What needs it stops, nothing else, and all comes back.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.support.lateness import Lateness
from tests.support.pipelined import Pipelined
from tests.support.stack import Stack
from tests.support.wire_client import WireClient
from thalamus.common.v1 import common_pb2

ANSWER_S = 3.0
LOAD_S = 3.0


@pytest.fixture(scope="module")
def faulty() -> Iterator[Stack]:
    """Two edges; what dies stays dead until the test starts it."""
    with Stack(restart=False, environment={"EDGE_COMMANDS_PER_S": "0"}) as running:
        yield running


class People:
    """Connected clients that end with the test."""

    def __init__(self, stack: Stack, exits: AsyncExitStack) -> None:
        self.stack = stack
        self._exits = exits

    async def join(self, edge: int, user: str, *channels: str, **options: Any) -> WireClient:
        client = await self._exits.enter_async_context(WireClient(self.stack.ws_urls[edge]))
        await client.connect(self.stack.token(user))
        for channel in channels:
            await client.subscribe(channel, **options)
        return client


@pytest.fixture
async def people(faulty: Stack) -> AsyncIterator[People]:
    for name in faulty.internal_urls:  # what the test before ended may have been back for a moment only
        await asyncio.to_thread(faulty.wait_ready, name)
    async with AsyncExitStack() as exits:
        yield People(faulty, exits)


async def timed(client: WireClient, **request: Any) -> tuple[dict[str, Any], float]:
    async with Lateness() as late:
        reply = await client.reply(await client.post(**request))
    return reply, late.took_s


async def until_acked(client: WireClient, channel: str, limit_s: float) -> float:
    """Publish again and again until it is acknowledged; how long that took."""
    async with Lateness() as late:
        while True:
            reply, _ = await timed(client, publish={"channel": channel, "data": "again"})
            if "error" not in reply:
                return late.took_s
            assert reply["error"]["code"] == 100, reply
            assert late.took_s < limit_s, reply
            await asyncio.sleep(0.05)


async def test_auth_killed_valid_tokens_still_connect_and_chat_goes_on(faulty: Stack, people: People) -> None:
    alice = await people.join(0, "alice", "chat:auth")
    await asyncio.to_thread(faulty.kill9, "auth")
    try:
        bob = await people.join(1, "bob", "chat:auth")
        await alice.publish("chat:auth", 1)
        assert (await bob.publication("chat:auth"))["data"] == 1
        async with httpx.AsyncClient(base_url=faulty.http_urls[0]) as http:
            response = await http.post("/auth/login", json={"username": "someone", "password": "a password"})
            assert response.status_code == 503
            assert response.headers["retry-after"]
    finally:
        await asyncio.to_thread(faulty.start, "auth")
    async with httpx.AsyncClient(base_url=faulty.http_urls[0]) as http:
        deadline = time.monotonic() + 30
        while True:
            response = await http.post("/auth/login", json={"username": "someone", "password": "a password"})
            if response.status_code == 401:
                break
            assert time.monotonic() < deadline, response.text
            await asyncio.sleep(0.1)


async def test_presence_killed_chat_is_unharmed_and_presence_answers_100_within_a_second(
    faulty: Stack, people: People
) -> None:
    alice = await people.join(0, "alice", "chat:presence")
    await asyncio.to_thread(faulty.kill9, "presence")
    try:
        for _ in range(2):
            reply, took_s = await timed(alice, presence={"channel": "chat:presence"})
            assert reply["error"]["code"] == 100
            assert took_s < 1.0
        bob = await people.join(1, "bob", "chat:presence")
        await alice.publish("chat:presence", 1)
        assert (await bob.publication("chat:presence"))["data"] == 1
    finally:
        await asyncio.to_thread(faulty.start, "presence")
    deadline = time.monotonic() + 60
    while True:
        reply, _ = await timed(alice, presence={"channel": "chat:presence"})
        users = sorted(info["user"] for info in reply.get("presence", {}).get("presence", {}).values())
        if users == ["alice", "bob"]:
            break
        assert time.monotonic() < deadline, reply
        await asyncio.sleep(0.1)


async def test_persistence_killed_live_is_unharmed_and_chat_answers_100_within_three_seconds(
    faulty: Stack, people: People
) -> None:
    alice = await people.join(0, "alice", "chat:store", "live:store")
    bob = await people.join(1, "bob", "chat:store", "live:store")
    await alice.publish("chat:store", 0)
    await asyncio.to_thread(faulty.kill9, "persistence")
    try:
        reply, took_s = await timed(alice, publish={"channel": "chat:store", "data": "refused"})
        assert reply["error"]["code"] == 100
        assert took_s < ANSWER_S + 0.2
        await alice.publish("live:store", 1)
        assert (await bob.publication("live:store"))["data"] == 1
    finally:
        await asyncio.to_thread(faulty.start, "persistence")
    await until_acked(alice, "chat:store", 10.0)


async def test_redis_killed_sockets_stay_and_the_first_ack_comes_within_five_seconds_of_its_return(
    faulty: Stack, people: People
) -> None:
    alice = await people.join(0, "alice", "chat:redis", "live:redis")
    bob = await people.join(1, "bob", "chat:redis", "live:redis")
    for channel in ("chat:redis", "live:redis"):
        await alice.publish(channel, "before")
    await asyncio.sleep(1.2)  # appendfsync everysec: what is older than a second is on the disk
    await asyncio.to_thread(faulty.kill9, "redis")
    for channel in ("chat:redis", "live:redis"):
        reply, took_s = await timed(alice, publish={"channel": channel, "data": "refused"})
        assert reply["error"]["code"] == 100
        assert took_s < ANSWER_S + 0.2
    await asyncio.to_thread(faulty.start, "redis")
    for channel in ("chat:redis", "live:redis"):
        assert await until_acked(alice, channel, 5.0) < 5.0
        await alice.publish(channel, "last")
        seen: list[Any] = []
        while not seen or seen[-1] != "last":
            seen.append((await bob.publication(channel))["data"])
        assert seen[0] == "before"
        assert "unsubscribe" not in [kind for push in bob.pushes(channel) for kind in push]


@pytest.mark.slow
async def test_an_edge_killed_its_members_leave_once_and_others_notice_nothing_else(
    faulty: Stack, people: People
) -> None:
    alice = await people.join(0, "alice", "chat:edge", join_leave=True)
    await people.join(1, "bob", "chat:edge")
    await people.join(1, "carol", "chat:edge")
    for _ in range(3):
        await alice.push("chat:edge", "join")
    await asyncio.to_thread(faulty.kill9, "edge-2")
    try:
        async with Lateness() as late:
            left = {(await alice.push("chat:edge", "leave", 60.0))["leave"]["info"]["user"] for _ in range(2)}
        assert left == {"bob", "carol"}
        assert late.took_s <= 15.0  # lease and 2 s, and a second
        await alice.publish("chat:edge", 1)
        assert (await alice.publication("chat:edge"))["data"] == 1
    finally:
        await asyncio.to_thread(faulty.start, "edge-2")
    bob = await people.join(1, "bob", "chat:edge")
    await alice.publish("chat:edge", 2)
    assert (await bob.publication("chat:edge"))["data"] == 2
    assert len(alice.pushes("chat:edge", "leave")) == 2


def rows(stack: Stack, channel: str) -> list[tuple[int, bytes]]:
    with sqlite3.connect(stack.data / "persistence.sqlite3") as db:
        found = db.execute(
            "SELECT offset, publication FROM log WHERE channel = ? ORDER BY offset", (channel,)
        ).fetchall()
    return [(offset, common_pb2.Publication.FromString(payload).data) for offset, payload in found]


async def test_persistence_stopped_nobody_sees_what_was_not_stored_and_then_all_see_the_same_once(
    faulty: Stack, people: People
) -> None:
    channel = "chat:frozen"
    alice = await people.join(0, "alice", channel)
    bob = await people.join(1, "bob", channel)
    await alice.publish(channel, 0)
    assert (await bob.publication(channel))["data"] == 0
    faulty.stop("persistence")
    try:
        for number in range(1, 4):
            reply, took_s = await timed(alice, publish={"channel": channel, "data": number})
            assert reply["error"]["code"] == 100
            assert took_s < ANSWER_S + 0.2
        assert len(bob.pushes(channel, "pub")) == 1
    finally:
        faulty.cont("persistence")
    await until_acked(alice, channel, 10.0)
    await alice.publish(channel, "marker")
    for client in (alice, bob):
        while client.pushes(channel, "pub")[-1]["pub"]["data"] != "marker":
            await client.publication(channel)
    stored = rows(faulty, channel)
    assert [offset for offset, _ in stored] == list(range(1, len(stored) + 1))
    for client in (alice, bob):
        got = [(push["pub"]["offset"], push["pub"]["data"]) for push in client.pushes(channel, "pub")]
        assert [(offset, str(data)) for offset, data in got] == [
            (offset, data.decode().strip('"')) for offset, data in stored
        ]


def metric(text: str, name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


async def scrape(stack: Stack) -> dict[str, str]:
    async with httpx.AsyncClient() as http:
        found = {}
        for name, url in stack.internal_urls.items():
            response = await http.get(f"{url}/metrics")
            assert response.status_code == 200
            found[name] = response.text
        return found


async def test_metrics_of_every_service_move_under_a_chat(faulty: Stack, people: People) -> None:
    before = await scrape(faulty)
    alice = await people.join(0, "alice", "chat:metrics", "live:metrics")
    bob = await people.join(1, "bob", "chat:metrics", "live:metrics")
    for channel in ("chat:metrics", "live:metrics"):
        await alice.publish(channel, 1)
        await bob.publication(channel)
    async with httpx.AsyncClient(base_url=faulty.http_urls[0]) as http:
        await http.post("/auth/login", json={"username": "nobody-here", "password": "a password"})
    after = await scrape(faulty)
    moved = {
        "edge-1": [
            "thalamus_edge_sessions",
            "thalamus_edge_subscriptions",
            "thalamus_edge_published_total",
            "thalamus_edge_deliveries_total",
            "thalamus_edge_grpc_client_seconds_count",
            "thalamus_edge_redis_seconds_count",
        ],
        "edge-2": ["thalamus_edge_publications_received_total", "thalamus_edge_deliveries_total"],
        "presence": ["thalamus_presence_joins_total", "thalamus_presence_redis_seconds_count"],
        "persistence": [
            "thalamus_persistence_stored_total",
            "thalamus_persistence_batches_total",
            "thalamus_persistence_redis_seconds_count",
            "thalamus_persistence_grpc_seconds_count",
        ],
        "auth": ["thalamus_auth_logins_total", "thalamus_auth_grpc_seconds_count"],
    }
    still = [
        name
        for service, names in moved.items()
        for name in names
        if metric(after[service], name) <= metric(before[service], name)
    ]
    assert still == []


async def test_many_publishers_share_batches_and_each_batch_is_one_commit(faulty: Stack) -> None:
    """As fast as forty connections go.

    The rate is printed, the ratio is what must hold.
    """
    before = (await scrape(faulty))["persistence"]
    publishers = [
        await Pipelined.connect(faulty.ws_urls[number % 2], faulty.token(f"user{number}"), f"chat:load{number}")
        for number in range(40)
    ]
    started = time.monotonic()
    for one in publishers:
        one.keep_going(until=started + LOAD_S, under_way=4)
    await asyncio.sleep(LOAD_S)
    async with asyncio.timeout(30):
        while any(one.sent for one in publishers):
            await asyncio.sleep(0.01)
    rate = sum(one.acked for one in publishers) / (time.monotonic() - started)
    after = (await scrape(faulty))["persistence"]

    def grown(name: str) -> float:
        return metric(after, name) - metric(before, name)

    batches = grown("thalamus_persistence_batches_total")
    items = grown("thalamus_persistence_batch_items_sum")
    print(f"{rate:.0f} publishes/s, {items / batches:.1f} per batch")
    assert items == sum(one.acked for one in publishers)
    assert not any(one.errors or one.holes for one in publishers)
    assert items / batches >= 4
    assert grown("thalamus_persistence_store_commits_total") == batches
    for one in publishers:
        one.socket.close()
