"""Changed profiles are told in conversations, though whoever served them died.

Two edges, both SDKs. Auth and persistence on SQLite and on DynamoDB.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from services.shared.rpc.replicas import Replicas
from tests.integration.test_profiles import fresh
from tests.integration.test_users import bearer
from tests.support import waiting
from tests.support.chat_client import Backend, ChatClient
from tests.support.dynamodb_tables import environment_on_dynamodb
from tests.support.full import FULL, sized
from tests.support.participants import Participant, commands
from tests.support.stack import Stack
from thalamus.auth.v1 import users_pb2 as pb
from thalamus.auth.v1.users_pb2_grpc import UserServiceStub

SEEN_S = 10.0
STORES = ["sqlite", "dynamodb"] if FULL else ["sqlite"]
CASES = [("js", "protobuf"), ("python", "json"), *([("js", "json"), ("python", "protobuf")] if FULL else [])]


@pytest.fixture(scope="module", params=STORES)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    environment: dict[str, str] = {}
    if request.param == "dynamodb":
        environment = asyncio.run(environment_on_dynamodb(request.getfixturevalue("dynamodb"), "auth", "persistence"))
    with Stack(edges=2, environment=environment) as running:
        yield running


@pytest.fixture
async def exits() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
async def backend(stack: Stack) -> AsyncIterator[Backend]:
    async with Backend(stack) as made:
        yield made


async def join(stack: Stack, exits: AsyncExitStack, user: str, edge: int, *channels: str) -> ChatClient:
    client = await exits.enter_async_context(ChatClient(stack.ws_urls[edge], deadline_s=20))
    await client.connect(stack.token(user))
    for channel in channels:
        assert "subscribe" in await client.try_subscribe(channel)
    return client


def versions(client: ChatClient, channel: str, user: str) -> list[int]:
    """Those of the events about a user that a client was pushed in a channel."""
    events = [pub for pub in client.heard(channel) if pub["data"].get("kind") == "profile"]
    assert all("offset" not in pub and "info" not in pub for pub in events)
    return [pub["data"]["version"] for pub in events if pub["data"]["user"] == user]


async def until_told(client: ChatClient, channel: str, user: str, version: int, within_s: float = SEEN_S) -> float:
    """Wait until a version was told; return the seconds that it took."""
    began = time.monotonic()
    await waiting.until(lambda: version in versions(client, channel, user), within_s, f"{user}, {version}")
    return time.monotonic() - began


async def rename(stack: Stack, user: str, name: str, edge: int = 0) -> int:
    async with httpx.AsyncClient(base_url=stack.http_urls[edge], timeout=10) as http:
        answer = await http.post("/auth/profile", json={"display_name": name}, headers=bearer(stack.token(user)))
    assert answer.status_code == 200, answer.text
    version: int = answer.json()["result"]["version"]
    return version


async def rename_at_auth(stack: Stack, user: str, name: str) -> int:
    """Change a profile as an edge does that dies before it tells anybody."""
    token = stack.plan.service_token_file.read_bytes().strip()
    replicas = Replicas(stack.plan.service_address("auth"), service_token=token, service="edge")
    await replicas.start()
    try:
        request = pb.UpdateUserRequest(id=user, change=pb.ProfileChange(display_name=name), create=True)
        async with asyncio.timeout(20):
            while not replicas.is_ready():
                await asyncio.sleep(0.02)
        changed: pb.User = await UserServiceStub(replicas.any()).UpdateUser(request, timeout=60)
        return changed.profile.version
    finally:
        await replicas.close()


async def test_whoever_shares_a_conversation_is_told_on_every_edge_and_nobody_else(
    stack: Stack, backend: Backend, exits: AsyncExitStack
) -> None:
    ann, bob, cid, eve = (fresh(name) for name in ("ann", "bob", "cid", "eve"))
    shared, without = await backend.group(ann, bob, cid), await backend.group(bob, cid, eve)
    followers = [await join(stack, exits, user, edge, shared, without) for user in (bob, cid) for edge in (0, 1)]
    own, stranger = await join(stack, exits, ann, 1, shared), await join(stack, exits, eve, 1, without)
    for number, change in enumerate((rename, rename_at_auth), start=1):
        assert await change(stack, ann, f"Ann {number}") == number
        for client in (*followers, own):
            await until_told(client, shared, ann, number)
    await asyncio.sleep(5)  # the second look tells nobody twice
    assert [versions(client, shared, ann) for client in (*followers, own)] == [[1, 2]] * 5
    assert all(not versions(client, without, ann) for client in (*followers, stranger))
    async with httpx.AsyncClient(base_url=stack.http_urls[1]) as http:
        found = await http.post("/auth/profiles", json={"users": [ann]}, headers=bearer(stack.token(bob)))
    assert found.json()["result"]["profiles"][0]["display_name"] == "Ann 2"
    log = await backend.log(shared)
    assert all(entry["data"]["kind"] != "profile" for entry in log), "it is in no history"


async def test_a_change_is_told_though_the_edge_or_auth_dies_at_any_moment(
    stack: Stack, backend: Backend, exits: AsyncExitStack
) -> None:
    ann, bob = fresh("ann"), fresh("bob")
    channel = await backend.group(ann, bob)
    follower = await join(stack, exits, bob, 0, channel)
    known = 0
    for number in range(sized(3, 20)):
        asked = asyncio.create_task(rename(stack, ann, f"Ann {number}", edge=1))
        await asyncio.sleep(0.004 * number)
        await asyncio.to_thread(stack.kill9, "edge-2")
        await asyncio.gather(asked, return_exceptions=True)
        version = await version_at_auth(stack, ann)
        if version > known:
            await until_told(follower, channel, ann, version)
        known = version
        await asyncio.to_thread(stack.start, "edge-2")
    version = await rename_at_auth(stack, ann, "Ann before auth dies")
    await asyncio.to_thread(stack.kill9, "auth")
    await asyncio.to_thread(stack.start, "auth")
    await until_told(follower, channel, ann, version)


async def version_at_auth(stack: Stack, user: str) -> int:
    async with Backend(stack) as backend:
        answer = await backend.raw("users_get", user=user)
    found: Any = answer.get("result", {"version": 0})
    return int(found["version"])


async def test_who_follows_the_same_open_conversation_is_told_within_two_seconds(
    stack: Stack, backend: Backend, exits: AsyncExitStack
) -> None:
    ann, bob, cid = (fresh(name) for name in ("ann", "bob", "cid"))
    channel = (await backend.do("conversations.create", ann, type="open", id=fresh("lobby")))["channel"]
    clients = [await join(stack, exits, user, edge, channel) for user, edge in ((ann, 0), (bob, 1), (cid, 0))]
    version = await rename(stack, ann, "Ann", edge=1)
    for client in clients:
        await until_told(client, channel, ann, version)
    assert await rename(stack, fresh("dan"), "Dan") == 1
    await asyncio.sleep(1)
    assert {pub["data"]["user"] for client in clients for pub in client.heard(channel) if "offset" not in pub} == {ann}


@pytest.mark.slow
@pytest.mark.parametrize(("sdk", "encoding"), CASES)
async def test_both_sdks_see_the_event_and_keep_their_position(
    sdk: str, encoding: str, stack: Stack, backend: Backend, exits: AsyncExitStack, javascript: list[str]
) -> None:
    ann, bob = fresh("ann"), fresh("bob")
    channel = await backend.group(ann, bob)
    participant = await exits.enter_async_context(
        Participant(commands(javascript)[sdk], stack.ws_urls[0], stack.token(bob), channel, encoding=encoding)
    )
    await participant.wait("subscribed")
    version = await rename(stack, ann, "Ann", edge=1)
    event = await participant.wait("publication")
    assert event["pub"]["data"] == {"kind": "profile", "user": ann, "version": version}
    sent = await backend.do("messages.send", ann, channel=channel, text="Hello")
    await participant.wait("publication", 2)
    await asyncio.to_thread(stack.kill9, "edge-1")
    await asyncio.to_thread(stack.start, "edge-1")
    back = await participant.wait("subscribed", 2)
    assert back["recovered"]
    assert back["position"]["offset"] == sent["offset"]
