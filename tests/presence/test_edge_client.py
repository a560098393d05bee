"""The edge's reconciler against a real presence server and a real Redis.

It converges whatever happened meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis.asyncio

from services.edge.adapters import presence_client
from services.edge.adapters.presence_client import PresenceClient
from services.edge.domain.model import ClientInfo
from services.edge.domain.presence.client_presence import ClientPresence, MadeBy
from services.edge.domain.presence.data import checked
from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import Change, Lease, Renewal
from services.presence.domain.sweeper import sweep
from services.presence.service import PresenceServicer
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.json_text import InvalidJson
from services.shared.namespaces import Namespace
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import GrpcServer, TlsPort, start_grpc_server
from tests.support.certificates import Folder
from tests.support.lateness import Lateness
from thalamus.common.v1 import common_pb2
from thalamus.presence.v1 import presence_pb2_grpc as rpc

LEASE_S = 1.0
CHANNEL = "chat:room"


class LateRoster(RedisRoster):
    """Some changes are executed long after their caller gave up.

    As by a Redis that was stopped.
    """

    def __init__(self, redis: RedisPipeline) -> None:
        super().__init__(redis)
        self.late_by: Callable[[], float] = lambda: 0.0
        self.late: set[asyncio.Task[bool]] = set()

    async def change(self, lease: Lease, changes: Sequence[Change]) -> bool:
        late_by = self.late_by()
        if not late_by:
            return await super().change(lease, changes)
        task = asyncio.create_task(self._change_late(lease, changes, late_by))
        self.late.add(task)
        task.add_done_callback(self.late.discard)
        return await asyncio.shield(task)

    async def _change_late(self, lease: Lease, changes: Sequence[Change], late_by: float) -> bool:
        await asyncio.sleep(late_by)
        return await super().change(lease, changes)


class Presence:
    """A presence server that can be killed and started on the same port."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self.roster = LateRoster(pipeline)
        self.port = 0
        self._server: GrpcServer | None = None

    async def start(self) -> None:
        servicer = PresenceServicer(self.roster, LEASE_S)
        self._server = await start_grpc_server(
            lambda server: rpc.add_PresenceServiceServicer_to_server(servicer, server),
            host="127.0.0.1",
            port=self.port,
            service_token=b"secret",
            service="presence",
        )
        self.port = self._server.port
        self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await sweep(self.roster)
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        if self._server is not None:
            await end_task(self._sweeping)
            await self._server.stop(0.0)
            self._server = None


@pytest.fixture
async def presence(redis_pipeline: RedisPipeline) -> AsyncIterator[Presence]:
    made = Presence(redis_pipeline)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(presence: Presence) -> AsyncIterator[PresenceClient]:
    replicas = Replicas(f"127.0.0.1:{presence.port}", service="edge", service_token=b"secret")
    await replicas.start()
    made = PresenceClient(replicas, "edge-x")
    await made.start()
    yield made
    await made.close()
    await replicas.close()


async def test_new_certificates_cost_neither_a_generation_of_the_lease_nor_an_answer(
    redis_pipeline: RedisPipeline, redis_conn: redis.asyncio.Redis, tmp_path: Path
) -> None:
    """The stream goes on over the new connection between two batches."""
    folder = Folder(tmp_path)
    servicer = PresenceServicer(LateRoster(redis_pipeline), LEASE_S)
    server = await start_grpc_server(
        lambda made: rpc.add_PresenceServiceServicer_to_server(servicer, made),
        host="127.0.0.1",
        port=0,
        service_token=None,
        service="presence",
        tls=TlsPort(folder.identity("presence"), 0, alone=True),
    )
    replicas = Replicas(
        f"127.0.0.1:{server.tls_port}",
        service="edge",
        service_token=None,
        identity=folder.identity("edge"),
        server_name="presence",
    )
    await replicas.start()
    client = PresenceClient(replicas, "edge-x")
    await client.start()
    assert await enter(client, "c0")
    for number in range(1, 4):
        before = dict(replicas.channels)
        folder.renew()
        await replicas.refresh()
        assert dict(replicas.channels) != before
        assert await enter(client, f"c{number}")
        assert len(await client.members(CHANNEL)) == number + 1
    await asyncio.sleep(3.2)  # the old connections have ended
    assert await enter(client, "last")
    assert await redis_conn.hget("t:presence:generations", "edge-x") == b"1"
    await client.close()
    await replicas.close()
    await server.stop(0.0)


async def enter(client: PresenceClient, name: str, user: str = "ann", owner: object = None) -> bool:
    client.enter(CHANNEL, ClientInfo(user, name), owner=owner, announce=True, grace_s=0.0)
    return await client.written(CHANNEL, name)


async def leave(client: PresenceClient, name: str, owner: object = None) -> bool:
    client.leave(CHANNEL, name, owner=owner, stays_s=0.0)
    return await client.written(CHANNEL, name)


async def converge(client: PresenceClient, expected: set[str], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    found: set[str] = set()
    while True:
        try:
            found = {info.client for info in await client.members(CHANNEL)}
        except Unavailable:
            found = set()
        if found == expected:
            return
        assert time.monotonic() < deadline, f"{found} is not {expected}"
        await asyncio.sleep(0.05)


async def test_who_enters_is_there_and_who_leaves_is_not(client: PresenceClient) -> None:
    assert await enter(client, "c1")
    assert await enter(client, "c2", "bob")
    assert {info.client for info in await client.members(CHANNEL)} == {"c1", "c2"}
    assert await client.stats(CHANNEL) == (2, 2)
    assert await leave(client, "c1")
    assert [info.user for info in await client.members(CHANNEL)] == ["bob"]
    assert await leave(client, "nobody")


async def test_an_outage_of_presence_converges_and_nobody_waits_for_it(
    client: PresenceClient, presence: Presence
) -> None:
    assert await enter(client, "before")
    assert await enter(client, "leaves meanwhile")
    await presence.stop()
    async with Lateness() as late:
        assert not await enter(client, "meanwhile")
    assert late.took_s < 1.0
    await asyncio.sleep(0.2)
    async with Lateness() as late:
        assert not await leave(client, "leaves meanwhile")
        with pytest.raises(Unavailable):
            await client.members(CHANNEL)
    assert late.took_s < 1.0
    await presence.start()
    await converge(client, {"before", "meanwhile"})


async def test_an_outage_longer_than_the_lease_enters_everyone_again(
    client: PresenceClient, presence: Presence
) -> None:
    assert await enter(client, "stays")
    assert await enter(client, "goes")
    await presence.stop()
    await leave(client, "goes")
    await asyncio.sleep(LEASE_S * 1.3)  # Redis' own clock
    await presence.start()
    await converge(client, {"stays"})


async def test_a_redis_that_lost_everything_is_told_again(
    client: PresenceClient, redis_conn: redis.asyncio.Redis
) -> None:
    """And nobody sees them come a second time; who left meanwhile is seen leaving."""
    names = [f"c{number}" for number in range(600)]
    await asyncio.gather(*(enter(client, name) for name in names))
    async with redis_conn.pubsub() as pubsub:
        await pubsub.subscribe(keys.pub(CHANNEL))
        await pubsub.get_message(timeout=60)  # the confirmation
        await redis_conn.flushall()
        await leave(client, "c0")
        await enter(client, "new")
        await converge(client, {*names[1:], "new"})
        told = []
        while (message := await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1)) is not None:
            payload: bytes = message["data"]
            if payload[:1] == keys.JOINS:
                told += [f"+{info.client}" for info in common_pb2.ClientInfos.FromString(payload[1:]).infos]
            else:
                told.append(f"-{common_pb2.ClientInfo.FromString(payload[1:]).client}")
        assert sorted(told) == ["+new", "-c0"]


async def test_presence_says_how_often_it_wants_to_hear_of_an_edge(client: PresenceClient, presence: Presence) -> None:
    renewals = []
    renew = presence.roster.renew

    async def counted(lease: Lease, ttl_s: float, *, held: bool, roster: str = "") -> Renewal:
        renewals.append(time.monotonic())
        return await renew(lease, ttl_s, held=held, roster=roster)

    presence.roster.renew = counted  # type: ignore[method-assign]
    assert await enter(client, "c1")
    await asyncio.sleep(LEASE_S * 2.1)  # an edge that kept to 4 s would have lost its lease
    assert len(renewals) >= 4
    assert [info.client for info in await client.members(CHANNEL)] == ["c1"]


async def test_entering_and_leaving_at_once_ends_as_asked_last(client: PresenceClient) -> None:
    for number in range(50):
        name = f"c{number}"
        await asyncio.gather(enter(client, name), leave(client, name))
    await asyncio.gather(leave(client, "c1"), enter(client, "c1"))
    await converge(client, {"c1"})


async def test_an_entry_belongs_to_who_entered_last(client: PresenceClient) -> None:
    assert await enter(client, "c1", owner="first")
    assert await enter(client, "c1", owner="second")
    await leave(client, "c1", owner="first")
    await converge(client, {"c1"})
    await leave(client, "c1", owner="second")
    await converge(client, set())


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_carried_out_late_changes_nothing(
    seed: int, client: PresenceClient, presence: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that were given up and sent anew reach Redis behind newer ones."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr(presence_client, "BATCH_S", 0.1)
    names = [f"c{number}" for number in range(6)]
    assert await enter(client, "c0")
    there = {"c0"}
    presence.roster.late_by = lambda: rng.choice((0.0, 0.0, 0.15, 0.3))
    for _ in range(40):
        name = rng.choice(names)
        if name in there:
            client.leave(CHANNEL, name, owner=None, stays_s=0.0)
        else:
            client.enter(CHANNEL, ClientInfo("ann", name), owner=None, announce=True, grace_s=0.0)
        there ^= {name}
        await asyncio.sleep(rng.choice((0.0, 0.01, 0.05)))
    presence.roster.late_by = lambda: 0.0
    if presence.roster.late:
        await asyncio.wait(presence.roster.late)
    await converge(client, there)
    await asyncio.sleep(0.1)
    await converge(client, there, limit_s=0.0)


async def test_members_of_whom_much_is_said_do_not_keep_the_others_away(client: PresenceClient) -> None:
    """A backend may give a subscription up to a MiB of info.

    A message of gRPC has at most four.
    """
    info = b'"%s"' % (b"x" * 700_000)
    for number in range(8):
        who = ClientInfo("ann", f"c{number}", b"", info)
        client.enter(CHANNEL, who, owner=None, announce=False, grace_s=0.0)
    await enter(client, "last")
    await converge(client, {"last", *(f"c{number}" for number in range(8))})


async def test_the_deepest_data_beside_what_a_token_gave_is_taken(client: PresenceClient) -> None:
    """Presence refuses a deeper one, with all that the edge sends from then on."""
    eve = ClientPresence(client)
    eve.set_who(ClientInfo("eve", "c1"))
    namespace = Namespace(name="chat", presence=True)
    token = SimpleNamespace(channel=CHANNEL, info=ClientInfo("eve", "c1", b"", b'{"a":1}'), announces=True)
    eve.enter(CHANNEL, namespace, MadeBy.CLIENT, checked(b"[" * 99 + b"]" * 99), cast(Any, token))
    assert await client.written(CHANNEL, "c1")
    with pytest.raises(InvalidJson):
        checked(b"[" * 100 + b"]" * 100)


async def test_a_member_that_presence_refuses_keeps_no_other_one_away(client: PresenceClient) -> None:
    client.enter(CHANNEL, ClientInfo("eve", "wrong", b"NaN"), owner=object(), announce=True, grace_s=0.0)
    owner = object()
    client.enter(CHANNEL, ClientInfo("ann", "right"), owner=owner, announce=True, grace_s=0.0)
    assert await client.written(CHANNEL, "right")
    assert [member.client for member in await client.members(CHANNEL)] == ["right"]
    client.leave(CHANNEL, "right", owner=owner, stays_s=0.0)
    assert await client.written(CHANNEL, "right")
    assert await client.members(CHANNEL) == []
