"""In which conversations users are, as edges are told."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from services.edge.adapters.memberships_client import MembershipsClient
from services.persistence.chat.memberships import MAX_CONVERSATIONS, Memberships
from services.shared.errors import ThalamusError, Unavailable
from services.shared.rpc.replicas import Replicas
from tests.persistence.test_replicas import Process
from tests.support.chat_methods import ChatServer
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub

OPTIONS = pb.NamespaceOptions(
    history_size=100, history_ttl_s=3_600, feed=True, group_max_members=100, max_data_bytes=4_096
)
MEMBER = b'{"type":"group","role":"member"}'
WITHIN_S = 3.0  # the list is a second behind, and kept for a second; edges look again after 4 s


class Listed:
    """As much of a `ChatStore` as is used: lists, and who read them."""

    def __init__(self) -> None:
        self.lists: dict[str, list[tuple[str, bytes]]] = {}
        self.reads: list[str] = []
        self.go = asyncio.Event()
        self.is_away = False

    async def conversations_of(self, user: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        self.reads.append(user)
        found = [one for one in self.lists.get(user, []) if one[0] > after][:limit]
        await self.go.wait()
        if self.is_away:
            raise Unavailable("the store is away")
        return found


async def test_a_list_is_read_once_for_all_who_ask_at_about_the_same_time() -> None:
    store, now = Listed(), [100.0]
    store.lists["u1"] = [(f"conv:g.{number:04}", MEMBER) for number in range(2_000)]
    memberships = Memberships(store, lambda: now[0])  # type: ignore[arg-type]  # all it uses
    asked = [asyncio.create_task(memberships.channels_of(["u1", "u2"])) for _ in range(50)]
    await asyncio.sleep(0.01)
    store.lists["u1"] = []
    store.go.set()
    for answer in await asyncio.gather(*asked):
        assert answer == [[f"conv:g.{number:04}" for number in range(MAX_CONVERSATIONS)], []]
    now[0] += 1.0
    assert len((await memberships.channels_of(["u1"]))[0]) == MAX_CONVERSATIONS
    assert sorted(store.reads) == ["u1", "u2"]
    now[0] += 0.1
    assert await memberships.channels_of(["u1"]) == [[]], "no answer is older than a second"


async def test_what_can_not_be_read_is_read_again_by_who_asks_next() -> None:
    store = Listed()
    store.go.set()
    store.is_away = True
    memberships = Memberships(store)  # type: ignore[arg-type]  # all it uses
    with pytest.raises(Unavailable):
        await memberships.channels_of(["u1"])
    store.is_away = False
    store.lists["u1"] = [("conv:g.1", MEMBER)]
    assert await memberships.channels_of(["u1"]) == [["conv:g.1"]]


@pytest.fixture
async def process(redis_url: str, tmp_path: Path) -> AsyncIterator[Process]:
    made = Process(redis_url, tmp_path / "log.sqlite3")
    try:
        await made.start()
        yield made
    finally:
        made.close()


async def test_members_alone_are_in_a_conversation_neither_who_is_invited_nor_who_has_left(process: Process) -> None:
    replicas = Replicas(f"127.0.0.1:{process.grpc_port}", service_token=None, service="edge")
    await replicas.start()
    try:
        async with asyncio.timeout(15):
            while not replicas.is_ready():
                await asyncio.sleep(0.02)
        stub, client = ChatServiceStub(replicas.any()), MembershipsClient(replicas)

        async def call(user: str, method: str, params: str) -> bytes:
            request = pb.CallRequest(method=method, params=params.encode(), namespace="conv", options=OPTIONS)
            request.info.user = user
            request.key_user, request.key = f"u:{user}", uuid.uuid4().hex
            response: pb.CallResponse = await stub.Call(request, timeout=60)
            assert not response.HasField("refusal"), response.refusal
            return response.result

        made = await call("ann", "conversations.create", '{"type":"group","users":["bob","cid"]}')
        channel = made.split(b'"channel":"')[1].split(b'"')[0].decode()
        await call("ann", "members.invite", f'{{"channel":"{channel}","user":"dan"}}')
        await call("cid", "conversations.leave", f'{{"channel":"{channel}"}}')
        expected = {"ann": [channel], "bob": [channel], "cid": [], "dan": [], "eve": []}
        async with asyncio.timeout(WITHIN_S + 10):
            while {user: list(names) for user, names in (await client.channels_of(list(expected))).items()} != expected:
                await asyncio.sleep(0.1)
        for users in (["ann"] * 11, [""]):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Memberships(pb.MembershipsRequest(users=users), timeout=60)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    finally:
        await replicas.close()


async def test_a_persistence_of_before_is_said_to_be_unavailable() -> None:
    async with ChatServer(knows_chat=False) as server:
        assert server.replicas is not None
        with pytest.raises(ThalamusError):
            await MembershipsClient(server.replicas).channels_of(["ann"])
