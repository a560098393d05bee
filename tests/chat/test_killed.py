"""Processes that serve conversations are killed under load (C06)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import GRANTS
from services.shared.redis.client import redis_client
from services.shared.redis.pipeline import RedisPipeline
from tests.chat.test_service import append, check, item
from tests.persistence.test_replicas import Process
from tests.support.chat import GROUP, ChatSite
from tests.support.full import sized
from tests.support.persistence import Site
from tests.support.redis import RedisServer
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub
from thalamus.persistence.v1 import persistence_pb2
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub

USERS = ["u1", "u2", "u3"]


class Client:
    """Appends through any process, again with the same id until it is known."""

    def __init__(self, processes: list[Process]) -> None:
        self._channels = [grpc.aio.insecure_channel(f"127.0.0.1:{one.grpc_port}") for one in processes]
        self.stubs = [ChatServiceStub(channel) for channel in self._channels]

    async def create(self) -> None:
        stub = PersistenceServiceStub(self._channels[0])
        made = [item("u1", {"kind": "conversation", "op": "create"}, GROUP)]
        made += [item("u1", {"kind": "member", "op": "add", "user": user}, GROUP) for user in USERS[1:]]
        for one in made:
            terms = persistence_pb2.AppendTerms(publication_id=one.publication_id, flags=GRANTS)
            key = one.publication_id.hex()
            plain = persistence_pb2.AppendItem(
                channel=GROUP, publication=one.publication, key=key, history_size=99, history_ttl_s=600, terms=terms
            )
            batches = iter([persistence_pb2.AppendBatch(items=[plain])])
            async for _ in stub.Append(batches, timeout=60, wait_for_ready=True):
                pass

    async def append(self, rng: Random, author: str, event: dict[str, Any]) -> pb.EventResult:
        one = item(author, event, GROUP)
        async with asyncio.timeout(30):
            while True:
                try:
                    (result,) = await append(rng.choice(self.stubs), one)
                    if result.refusal.code != 100:
                        return result
                except (grpc.aio.AioRpcError, KeyError):
                    pass
                await asyncio.sleep(0.05)

    async def connected(self) -> None:
        """Wait for connections: after one that was refused gRPC tries again later."""
        async with asyncio.timeout(20):
            await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@pytest.fixture
async def processes(own_redis: RedisServer, tmp_path: Path) -> AsyncIterator[list[Process]]:
    made = [Process(own_redis.url, tmp_path / "shared.sqlite3") for _ in range(2)]
    try:
        await asyncio.gather(*(one.start() for one in made))
        yield made
    finally:
        for one in made:
            one.close()


@pytest.mark.slow
async def test_what_a_killed_process_left_is_in_the_read_model_soon(
    processes: list[Process], own_redis: RedisServer, tmp_path: Path
) -> None:
    rng, client = Random(6), Client(processes)
    await client.create()
    first = (await client.append(rng, "u1", {"kind": "message", "text": "root"})).position.offset
    appended: list[int] = []
    stopped = asyncio.Event()

    async def talk(author: str) -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            some: list[dict[str, Any]] = [
                {"kind": "message", "text": f"{author} {number}"},
                {"kind": "message", "text": "reply", "thread": first},
                {"kind": "reaction", "of": first, "name": f"{author}{number % 50}", "op": "add"},
                {"kind": "message", "text": "quiet", "silent": True},
            ]
            result = await client.append(rng, author, rng.choice(some))
            if result.HasField("position"):
                appended.append(result.position.offset)

    talking = [asyncio.create_task(talk(user)) for user in USERS]
    for _ in range(sized(3, 20)):
        await asyncio.sleep(rng.uniform(0.5, 1.5))
        victim = rng.choice(processes)
        victim.kill()
        await victim.start()
    stopped.set()
    await asyncio.gather(*talking)
    assert len(appended) > 20
    assert len(set(appended)) == len(appended)

    connection, pipeline = redis_client(own_redis.url), RedisPipeline(own_redis.url)
    chat = ChatSite(Site(connection, pipeline, tmp_path / "shared.sqlite3"))
    try:
        async with asyncio.timeout(20):
            while await connection.zcard(keys.chat_pending()):
                await asyncio.sleep(0.1)
        await client.connected()
        (told,) = await check(client.stubs[0], (GROUP, "u2"))
        log = await chat.log()
        assert told.as_of.offset == log[-1].offset == len(log)
        loaded = await chat.store.load(GROUP)
        assert loaded is not None
        assert loaded.position > first
        found = await chat.replica().view()
        expected = (await chat.naive()).view()
        assert found == expected
        assert found["messages"][str(first)]["replies"] > 0
    finally:
        await client.close()
        await chat.close()
        await pipeline.aclose()
        await connection.aclose()
