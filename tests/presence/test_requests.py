"""What presence refuses over gRPC, whoever asks: nothing of it reaches the roster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.presence.adapters.redis_roster import RedisRoster
from services.presence.service import PresenceServicer
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.server import start_grpc_server
from thalamus.common.v1 import common_pb2
from thalamus.presence.v1 import presence_pb2 as pb
from thalamus.presence.v1 import presence_pb2_grpc as rpc

NAMES = ["", "chat:" + "x" * 1_020, "chat:a b", "chat:a}b", "chat:ü", "chat:a\n"]
LEASE = {"edge": "edge-a", "generation": 1}


@pytest.fixture
async def stub(redis_pipeline: RedisPipeline) -> AsyncIterator[rpc.PresenceServiceAsyncStub]:
    servicer = PresenceServicer(RedisRoster(redis_pipeline), 60.0)
    server = await start_grpc_server(
        lambda grpc: rpc.add_PresenceServiceServicer_to_server(servicer, grpc),
        host="127.0.0.1",
        port=0,
        service_token=None,
        service="presence",
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield rpc.PresenceServiceStub(channel)
    await server.stop(0.0)


def entering(channel: str = "chat:room", *, grace_s: float = 0.0, announce: bool = True, **info: object) -> pb.Change:
    who = common_pb2.ClientInfo(**{"client": "c1", "user": "ann", **info})  # type: ignore[arg-type]
    return pb.Change(channel=channel, info=who, enter=pb.Enter(announce=announce, grace_s=grace_s))


async def changed(
    stub: rpc.PresenceServiceAsyncStub, *changes: pb.Change, lease: dict[str, object] = LEASE
) -> list[int]:
    batch = pb.ChangeBatch(lease=pb.Lease(**lease), changes=changes)  # type: ignore[arg-type]
    responses = [response async for response in stub.Change(iter([batch]), timeout=60)]
    return [status for response in responses for status in response.statuses]


async def refused(stub: rpc.PresenceServiceAsyncStub, *changes: pb.Change, lease: dict[str, object] = LEASE) -> bool:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await changed(stub, *changes, lease=lease)
    return caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def members(stub: rpc.PresenceServiceAsyncStub, channel: str) -> list[str]:
    pages = stub.Members(pb.MembersRequest(channel=channel), timeout=60)
    return [member.client async for page in pages for member in page.members]


WRONG = {
    **{f"channel-{name[:9]!r}": entering(name) for name in NAMES},
    "no-client": entering(client=""),
    "long-client": entering(client="c" * 256),
    "newline-in-client": entering(client="a\nb"),
    "long-user": entering(user="u" * 8_193),
    "conn-info-is-no-json": entering(conn_info=b'{"a":1}}'),
    "chan-info-is-no-json": entering(chan_info=b"NaN"),
    "negative-grace": entering(grace_s=-1),
    "endless-grace": entering(grace_s=float("inf")),
    "grace-is-no-number": entering(grace_s=float("nan")),
    "neither-enters-nor-leaves": pb.Change(channel="chat:room", info=common_pb2.ClientInfo(client="c1")),
    "leaves-in-the-past": pb.Change(
        channel="room", info=common_pb2.ClientInfo(client="c1"), leave=pb.Leave(at_most_s=-1.0)
    ),
    "began-before-all-time": pb.Change(
        channel="room", info=common_pb2.ClientInfo(client="c1"), enter=pb.Enter(since_ms=-1)
    ),
    "a-connection-in-a-channel": pb.Change(
        channel="room", info=common_pb2.ClientInfo(client="c1", user="ann"), enter=pb.Enter(), online=True
    ),
    "a-connection-of-nobody": pb.Change(info=common_pb2.ClientInfo(client="c1"), enter=pb.Enter(), online=True),
    "leaves-no-channel": pb.Change(info=common_pb2.ClientInfo(client="c1"), leave=pb.Leave(clean=True)),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_change_is_refused_alone(stub: rpc.PresenceServiceAsyncStub, name: str) -> None:
    ok, invalid = common_pb2.ITEM_STATUS_OK, common_pb2.ITEM_STATUS_INVALID
    assert await changed(stub, entering(client="before"), WRONG[name], entering(client="after")) == [ok, invalid, ok]
    assert sorted(await members(stub, "chat:room")) == ["after", "before"]


@pytest.mark.parametrize(
    "lease",
    [{"edge": ""}, {"edge": "e" * 65}, {"edge": "a b"}, {"edge": "a\n"}, {"edge": "a", "generation": 2**53 + 1}],
    ids=repr,
)
async def test_a_wrong_lease_is_refused(stub: rpc.PresenceServiceAsyncStub, lease: dict[str, object]) -> None:
    assert await refused(stub, lease=lease)


@pytest.mark.parametrize("name", NAMES)
async def test_questions_about_what_is_no_channel_are_refused(stub: rpc.PresenceServiceAsyncStub, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await members(stub, name)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Stats(pb.StatsRequest(channels=["chat:room", name]), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_questions_that_are_too_large_or_about_nobody_are_refused(stub: rpc.PresenceServiceAsyncStub) -> None:
    questions: list[Any] = [
        stub.ListMembers(pb.ListMembersRequest(channel="no channel"), timeout=60),
        stub.ListMembers(pb.ListMembersRequest(channel="chat:room", limit=1_001), timeout=60),
        stub.ListMembers(pb.ListMembersRequest(channel="chat:room", cursor="\u00e9"), timeout=60),
        stub.Channels(pb.ChannelsRequest(user=""), timeout=60),
        stub.Channels(pb.ChannelsRequest(user="ann", limit=1_001), timeout=60),
        stub.Channels(pb.ChannelsRequest(user="ann", cursor="/w=="), timeout=60),
        stub.Online(pb.OnlineRequest(users=["ann", ""]), timeout=60),
        stub.Online(pb.OnlineRequest(users=["ann"] * 1_001), timeout=60),
        stub.Online(pb.OnlineRequest(users=["u" * 8_193]), timeout=60),
    ]
    for question in questions:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await question
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await stub.ListMembers(pb.ListMembersRequest(channel="chat:room"), timeout=60)).cursor == ""
    assert len((await stub.Online(pb.OnlineRequest(users=["ann"] * 1_000), timeout=60)).users) == 1_000


async def test_members_of_all_sizes_come_as_they_went(stub: rpc.PresenceServiceAsyncStub) -> None:
    """Their bytes are put into the answers as they are, each behind its length."""
    sizes = (0, 90, 120, 127, 128, 200, 16_383, 16_384, 20_000)
    sent = [
        common_pb2.ClientInfo(client=f"c{number}", user="ann", conn_info=b'"%s"' % (b"x" * size) if size else b"")
        for number, size in enumerate(sizes)
    ]
    changes = [pb.Change(channel="chat:sizes", info=info, enter=pb.Enter(announce=False, grace_s=0.0)) for info in sent]

    async def batches() -> AsyncIterator[pb.ChangeBatch]:
        yield pb.ChangeBatch(lease=pb.Lease(edge="edge-a", generation=1), changes=changes)

    statuses = [set(answer.statuses) async for answer in stub.Change(batches(), timeout=60)]
    assert statuses == [{common_pb2.ITEM_STATUS_OK}]
    page = await stub.ListMembers(pb.ListMembersRequest(channel="chat:sizes", limit=len(sizes) - 1), timeout=60)
    assert list(page.members) == sent[:-1]
    assert page.cursor
    streamed = stub.Members(pb.MembersRequest(channel="chat:sizes"), timeout=60)
    members = [member async for page in streamed for member in page.members]
    assert sorted(members, key=lambda one: one.client) == sent
