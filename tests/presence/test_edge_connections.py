"""The edge's client of presence: users' connections, updates, pages.

Against a real server and a real Redis, and against servers of an earlier version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import redis.asyncio

from services.edge.adapters import presence_client
from services.edge.adapters.presence_client import PresenceClient
from services.edge.domain.model import ClientInfo
from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import Change, Lease, connections_of
from services.presence.service import PresenceServicer
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import GrpcServer, start_grpc_server
from tests.presence.events import kinds
from tests.presence.test_edge_client import CHANNEL, enter, leave
from tests.presence.test_roster import Ear, ear
from tests.support.waiting import until
from thalamus.presence.v1 import presence_pb2 as pb
from thalamus.presence.v1 import presence_pb2_grpc as rpc

__all__ = ["ear"]  # a fixture
LEASE_S = 2.0


class EarlierServicer(PresenceServicer):
    """Answers as the version before users' connections did."""

    async def Change(
        self, request_iterator: AsyncIterator[pb.ChangeBatch], context: Any
    ) -> AsyncIterator[pb.ChangeResults]:
        async for batch in request_iterator:
            if any(not change.channel for change in batch.changes):
                raise ThalamusError("no channel", ErrorCode.BAD_REQUEST)
            answer = await self._apply(batch)
            answer.version = 0
            yield answer

    async def ListMembers(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    Channels = Online = ListMembers


class Server:
    """A presence server; `serve` replaces it by another one, on the same port."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self.roster = RedisRoster(pipeline)
        self.port = 0
        self._server: GrpcServer | None = None

    async def serve(self, kind: type[PresenceServicer] | None) -> None:
        if self._server is not None:
            await self._server.stop(0.0)
        self._server = None
        if kind is None:
            return
        servicer = kind(self.roster, LEASE_S)
        self._server = await start_grpc_server(
            lambda server: rpc.add_PresenceServiceServicer_to_server(servicer, server),
            host="127.0.0.1",
            port=self.port,
            service_token=b"secret",
            service="presence",
        )
        self.port = self._server.port


@pytest.fixture
async def server(redis_pipeline: RedisPipeline) -> AsyncIterator[Server]:
    made = Server(redis_pipeline)
    await made.serve(PresenceServicer)
    yield made
    await made.serve(None)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[PresenceClient]:
    replicas = Replicas(f"127.0.0.1:{server.port}", service="edge", service_token=b"secret")
    await replicas.start()
    made = PresenceClient(replicas, "edge-x")
    await made.start()
    yield made
    await made.close()
    await replicas.close()


async def connections(server: Server, user: str = "ann") -> int:
    (found,) = await server.roster.online([user])
    return found.connections


async def test_connections_go_together_and_no_member_waits_for_them(
    client: PresenceClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    change = server.roster.change

    async def counting(lease: Lease, changes: Sequence[Change]) -> bool:
        batches.append(len(changes))
        return await change(lease, changes)

    monkeypatch.setattr(server.roster, "change", counting)
    client.online("bob", "c0", since_ms=1)

    async def all_there() -> bool:
        return await connections(server, "bob") == 1

    await until(all_there)
    batches.clear()
    monkeypatch.setattr(presence_client, "_LINGER_S", 600.0)
    for number in range(40):
        client.online(f"u{number}", f"c{number}", since_ms=1)
        await asyncio.sleep(0.002)
    async with asyncio.timeout(30):  # or a member waited for connections
        assert await enter(client, "c0")
    assert sum(batches) == 41
    assert len(batches) == 1, "they did not go together"


async def test_connections_come_and_go_and_say_who_is_away(
    client: PresenceClient, server: Server, redis_conn: redis.asyncio.Redis
) -> None:
    since_ms = int(1_000 * time.time()) - 5_000
    client.online("", "anonymous", since_ms=since_ms)
    client.online("ann", "c1", since_ms=since_ms, events=True)
    client.online("ann", "c2", since_ms=since_ms + 1_000, away=True, events=True)

    async def both() -> bool:
        return await connections(server) == 2

    await until(both)
    assert await client.online_of(["ann", "bob"]) == [(2, False, since_ms, 0), (0, False, 0, 0)]
    client.offline("ann", "nobody", stays_s=0.0)
    client.online("ann", "c1", since_ms=since_ms, away=True, events=True)

    async def away() -> bool:
        return (await client.online_of(["ann"]))[0].away

    await until(away)
    client.offline("ann", "c1", stays_s=0.0)
    client.offline("ann", "c2", stays_s=0.0)

    async def neither() -> bool:
        return await connections(server) == 0

    await until(neither)
    ((_, _, _, last_seen_ms),) = await client.online_of(["ann"])
    assert last_seen_ms > since_ms
    found = [one for one in await kinds(redis_conn, "") if "anonymous" not in one]
    assert sorted(found) == ["connect c1", "connect c2", "disconnect c1", "disconnect c2", "update c1"]
    assert await redis_conn.exists(f"t:presence:{{{connections_of('')}}}") == 0


async def test_an_update_is_sent_once_and_is_not_lost_behind_another_change(
    client: PresenceClient, server: Server, ear: Ear
) -> None:
    assert await enter(client, "c1")

    def change(data: bytes, *, updated: bool) -> None:
        info = ClientInfo("ann", "c1", b"", data)
        client.enter(CHANNEL, info, owner=None, announce=True, grace_s=0.0, updated=updated)

    change(b"1", updated=True)
    change(b"2", updated=False)  # before the update was sent
    assert await client.written(CHANNEL, "c1")
    change(b"3", updated=False)
    assert await client.written(CHANNEL, "c1")
    await leave(client, "c1")
    assert await ear.listen(0.3) == ["+c1", "~c1=2", "-c1"]


async def test_who_enters_again_without_data_before_its_leave_was_sent_has_none(
    client: PresenceClient, ear: Ear
) -> None:
    """Others would see the data of before for ever."""
    client.enter(CHANNEL, ClientInfo("ann", "c1", b"", b"1"), owner=None, announce=True, grace_s=0.0)
    assert await client.written(CHANNEL, "c1")
    client.leave(CHANNEL, "c1", owner=None, stays_s=0.0)
    assert await enter(client, "c1")
    assert await ear.listen(0.3) == ["+c1", "~c1="]


async def test_who_was_told_of_by_a_join_is_told_of_by_a_leave(client: PresenceClient, ear: Ear) -> None:
    """Also if a subscription came in between whose token says that nobody is told."""
    assert await enter(client, "c1")
    client.enter(CHANNEL, ClientInfo("ann", "c1"), owner=None, announce=False, grace_s=0.0)
    assert await client.written(CHANNEL, "c1")
    assert await leave(client, "c1")
    assert await ear.listen(0.3) == ["+c1", "-c1"]


async def test_a_user_who_is_there_does_not_leave_with_a_client_that_redis_lost(
    client: PresenceClient, redis_conn: redis.asyncio.Redis, ear: Ear
) -> None:
    await enter(client, "c0", "bob")
    await leave(client, "c0")  # Redis knows the script, so what is sent first is done first
    for name in ("c1", "c2"):
        info = ClientInfo("ann", name)
        client.enter(CHANNEL, info, owner=None, announce=True, grace_s=0.0, by_user=True)
        assert await client.written(CHANNEL, name)
    await redis_conn.flushall()
    await leave(client, "c1")
    assert [info.client for info in await client.members(CHANNEL)] == ["c2"]
    assert await ear.listen(0.3) == ["+c0", "-c0", "+c1"]


async def test_members_and_channels_come_in_pages(client: PresenceClient) -> None:
    for number in range(7):
        info = ClientInfo("ann", f"c{number}")
        client.enter(f"chat:{number}", info, owner=None, announce=False, grace_s=0.0)
        client.enter(CHANNEL, info, owner=None, announce=False, grace_s=0.0)
    assert await client.written(CHANNEL, "c6")
    first = await client.page(CHANNEL, limit=4, cursor="")
    second = await client.page(CHANNEL, limit=4, cursor=first.cursor)
    assert [[info.client for info in page.members] for page in (first, second)] == [
        ["c0", "c1", "c2", "c3"],
        ["c4", "c5", "c6"],
    ]
    assert second.cursor == ""
    names = await client.channels_of("ann", limit=5, cursor="")
    rest = await client.channels_of("ann", limit=5, cursor=names.cursor)
    assert [*names.channels, *rest.channels] == sorted([CHANNEL, *(f"chat:{number}" for number in range(7))])
    assert rest.cursor == ""
    assert await client.stats_of([CHANNEL, "chat:1", "chat:none"]) == [(7, 1), (1, 1), (0, 0)]
    for wrong in ("?", "c0", "YQ"):
        with pytest.raises(ThalamusError) as caught:
            await client.page(CHANNEL, limit=4, cursor=wrong)
        assert caught.value.code is ErrorCode.BAD_REQUEST


async def test_connections_wait_while_presence_is_of_an_earlier_version(
    client: PresenceClient, server: Server, redis_conn: redis.asyncio.Redis
) -> None:
    """An update of presence that is undone half way loses nothing."""
    await server.serve(EarlierServicer)
    client.online("ann", "c1", since_ms=1)

    async def entered() -> bool:
        return await enter(client, "c1")

    await until(entered)
    await asyncio.sleep(0.2)
    assert await connections(server) == 0
    with pytest.raises(Unavailable):
        await client.page(CHANNEL, limit=10, cursor="")
    generations = await redis_conn.hget("t:presence:generations", "edge-x")
    await redis_conn.delete("t:presence:channels:ann")  # the earlier version would not have written it

    await server.serve(PresenceServicer)

    async def online() -> bool:
        return await connections(server) == 1

    await until(online)
    assert await client.written(CHANNEL, "c1")
    assert (await client.channels_of("ann", limit=10, cursor="")).channels == [CHANNEL]
    assert await redis_conn.hget("t:presence:generations", "edge-x") == b"%d" % (int(generations or 0) + 1)

    await server.serve(EarlierServicer)
    client.offline("ann", "c1", stays_s=0.0)
    await until(entered)
    assert await connections(server) == 1
    await server.serve(PresenceServicer)

    async def offline() -> bool:
        return await connections(server) == 0

    await until(offline)
