"""Appends of durability `queued`, over real gRPC."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.domain.model import Publication
from services.shared.incarnation.calls import Known
from tests.support.grpc import Rig, ScriptedLog, ScriptedServer
from thalamus.persistence.v1 import persistence_pb2 as pb


class Queued(ScriptedLog):
    """Says on its stream of queued appends what it has seen of Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[str] = []
        self.streams = 0

    async def AppendQueued(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.AppendResults]:
        self.streams += 1

        async def noted() -> AsyncIterator[pb.AppendBatch]:
            async for batch in request_iterator:
                self.queued += [item.key for item in batch.items]
                yield batch

        async for results in super().Append(noted(), context):  # type: ignore[no-untyped-call]
            results.generation, results.writes = 3, 41
            yield results


class Before(ScriptedLog):
    """A replica of an earlier version."""

    async def AppendQueued(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.AppendResults]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        yield pb.AppendResults()


async def append(store: PersistenceClient, key: str) -> None:
    publication = Publication(b"x", None, {}, os.urandom(16), "", 1)
    await store.append("chat:q", publication, key_user="u", key=key, history_size=10, history_ttl_s=60, queued=True)


async def run(until: Callable[[], bool], *logs: ScriptedLog, **options: Any) -> list[Known]:
    """Append one after another, and a last one; what the edge was told of Redis."""
    seen: list[Known] = []
    servers = [ScriptedServer() for _ in logs]
    for server, log in zip(servers, logs, strict=True):
        server.log = log
        await server.start()
    rig = Rig(*servers)
    store = PersistenceClient(rig.replicas, saw=seen.append, **options)
    await rig.replicas.start()
    await store.start()
    try:
        async with asyncio.timeout(30):
            while not until():
                await append(store, os.urandom(4).hex())
        await append(store, "last")
    finally:
        await store.close()
        await rig.close()
    return seen


async def test_queued_appends_have_a_stream_of_their_own_which_says_what_redis_has() -> None:
    log = Queued()
    seen = await run(lambda: bool(log.queued), log)
    assert "last" in log.queued
    assert set(seen) == {Known(3, 41)}


async def test_while_a_replica_of_an_earlier_version_is_there_all_are_stored_first() -> None:
    now, before = Queued(), Before()
    await run(lambda: bool({*now.keys, *before.keys} - {*now.queued}), now, before)
    assert "last" in now.keys + before.keys
    assert "last" not in now.queued


async def test_an_edge_without_queued_namespaces_opens_no_stream_for_them() -> None:
    log = Queued()
    await run(lambda: len(log.keys) > 5, log, has_queued=False)
    assert "last" in log.keys
    assert log.streams == 0
