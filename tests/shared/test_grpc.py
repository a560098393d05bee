"""gRPC servers and single calls.

Identity, statuses, deadlines, turns, metrics, a graceful end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.process.config import ConfigError
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import Refused
from tests.support.grpc import Rig, ScriptedServer, Status, Stub, pages
from tests.support.lateness import Lateness
from tests.support.waiting import until
from thalamus.persistence.v1 import persistence_pb2 as pb

TOKEN = b"the-token-of-this-deployment"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    running = ScriptedServer(TOKEN)
    await running.start()
    yield running
    running.log.go.set()
    await running.stop()


@pytest.fixture
async def rig(server: ScriptedServer) -> AsyncIterator[Rig]:
    made = Rig(server, service_token=TOKEN)
    await made.replicas.start()
    yield made
    await made.close()


async def call_open(replicas: Replicas, timeout_s: float = 20.0, name: str = "chat:1") -> pb.OpenResponse:
    return await replicas.call(lambda channel: Stub(channel).Open(pb.OpenRequest(channel=name)), timeout_s)


async def test_a_call_with_the_token_is_served(rig: Rig) -> None:
    assert (await call_open(rig.replicas)).top.offset == 7


@pytest.mark.parametrize("token", [None, b"another"])
async def test_b33_a_call_without_the_identity_is_unauthenticated(server: ScriptedServer, token: bytes | None) -> None:
    rig = Rig(service_token=token)
    rig.addresses = {server.address}
    await rig.replicas.start()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call_open(rig.replicas)
    assert refused.value.code() is Status.UNAUTHENTICATED
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pages(Stub(rig.replicas.any()).Read(pb.ReadRequest(limit=1)))
    assert refused.value.code() is Status.UNAUTHENTICATED
    await rig.close()


async def test_b33_a_stream_without_the_identity_opens_the_breaker(server: ScriptedServer) -> None:
    rig = Rig(service_token=b"another")
    rig.addresses = {server.address}
    stream = await rig.open_stream(deadline_s=1.0)
    for _ in range(5):  # a first connection may take longer than the deadline
        async with Lateness() as late:
            with pytest.raises(Unavailable) as caught:
                await stream.submit(pb.AppendItem(key="x"))
        if "nobody answers" in str(caught.value):
            break
    assert "nobody answers" in str(caught.value)
    assert late.took_s < 0.3
    assert server.log.batches == []
    await rig.close()


async def test_b33_a_message_over_four_mebibytes_is_refused(server: ScriptedServer) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).Open(
                pb.OpenRequest(channel="x" * (4 << 20)), metadata=(("authorization", f"Bearer {TOKEN.decode()}"),)
            )
    assert refused.value.code() is Status.RESOURCE_EXHAUSTED


async def test_a_message_that_is_too_large_is_no_overload(rig: Rig) -> None:
    """It never succeeds, however often it is repeated; gRPC has one status for both."""
    for size in (4 << 20, 5 << 20):
        with pytest.raises(ThalamusError, match="too large") as refused:
            await call_open(rig.replicas, 5.0, "x" * size)
        assert refused.value.code is ErrorCode.LIMIT_EXCEEDED
        assert str(refused.value) == "the message is too large", "the text reaches the public: no address, no method"
        assert not refused.value.code.temporary
    rig.servers[0].log.failure = Busy("too much")
    with pytest.raises(grpc.aio.AioRpcError):
        await call_open(rig.replicas)


async def test_b33_reflection_is_off(server: ScriptedServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        # One message each way: a stream may fail to write before it reads why.
        reflect: Any = channel.unary_unary("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await reflect(b"")
    assert refused.value.code() is Status.UNIMPLEMENTED


async def test_health_needs_no_identity(server: ScriptedServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert response.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("failure", "status", "detail"),
    [
        (Busy("too much"), Status.RESOURCE_EXHAUSTED, "too much"),
        (ThalamusError("bad channel", ErrorCode.BAD_REQUEST), Status.INVALID_ARGUMENT, "bad channel"),
        (Refused(Status.ALREADY_EXISTS, "taken"), Status.ALREADY_EXISTS, "taken"),
        (ValueError("secret detail"), Status.INTERNAL, "internal error"),
        (ThalamusError("secret detail"), Status.INTERNAL, "internal error"),
    ],
)
async def test_what_a_servicer_raises_is_a_status(rig: Rig, failure: Exception, status: Status, detail: str) -> None:
    rig.servers[0].log.failure = failure
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call_open(rig.replicas)
    assert (refused.value.code(), refused.value.details()) == (status, detail)


async def test_a_refusal_carries_its_trailers(rig: Rig) -> None:
    rig.servers[0].log.failure = Refused(Status.RESOURCE_EXHAUSTED, "slowly", (("retry-after-s", "7"),))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call_open(rig.replicas)
    assert dict(refused.value.trailing_metadata())["retry-after-s"] == "7"


async def test_a_service_that_says_unavailable_is_unavailable(rig: Rig) -> None:
    rig.servers[0].log.failure = Unavailable("no store")
    with pytest.raises(Unavailable, match="PersistenceService/Open at log:9003: UNAVAILABLE"):
        await call_open(rig.replicas)


async def test_no_answer_in_time_is_unavailable(rig: Rig) -> None:
    rig.servers[0].log.go.clear()
    async with Lateness() as late:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
            await call_open(rig.replicas, timeout_s=0.2)
        assert time.monotonic() - began > 0.15
        assert late.took_s < 0.8


async def test_pages_of_a_stream_are_one_call(rig: Rig) -> None:
    read = await rig.replicas.call(lambda channel: pages(Stub(channel).Read(pb.ReadRequest(limit=3))), 2.0)
    assert [page.publications[0].offset for page in read] == [1, 2, 3]


async def test_calls_take_turns_and_leave_out_who_is_gone() -> None:
    servers = [ScriptedServer(), ScriptedServer()]
    for server in servers:
        await server.start()
    rig = Rig(*servers)
    await rig.replicas.start()
    await until(lambda: all(channel.get_state() is READY for channel in rig.replicas.channels.values()))
    assert {rig.replicas.any(), rig.replicas.any()} == set(rig.replicas.channels.values())
    await servers[0].stop()
    gone = rig.replicas.channels[servers[0].address]
    await until(lambda: gone.get_state() is not READY)
    assert rig.replicas.is_ready()
    for _ in range(4):
        await call_open(rig.replicas)
    await rig.close()


async def test_nobody_at_any_address_is_unavailable_at_once(rig: Rig) -> None:
    await call_open(rig.replicas)
    await rig.servers[0].stop()
    await until(lambda: not rig.replicas.is_ready())
    with pytest.raises(Unavailable):
        await call_open(rig.replicas)
    await until(lambda: state_of(rig) is grpc.ChannelConnectivity.TRANSIENT_FAILURE)
    with pytest.raises(Unavailable, match="nobody answers"):
        rig.replicas.any()
    await rig.servers[0].start()
    await until(rig.replicas.is_ready)


async def test_a_name_that_stops_resolving_leaves_the_last_addresses(rig: Rig) -> None:
    rig.addresses.clear()
    await rig.replicas.refresh()
    await call_open(rig.replicas)


async def test_the_systems_resolver_finds_this_machine(server: ScriptedServer) -> None:
    replicas = Replicas(f"127.0.0.1:{server.port}", service_token=TOKEN, service="test")
    await replicas.start()
    assert list(replicas.channels) == [server.address]
    await call_open(replicas)
    await replicas.close()


@pytest.mark.parametrize("target", ["", "host", ":9001", "host:", "host:0", "host:70000", "host:x"])
def test_an_address_that_is_none_is_a_wrong_setting(target: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Replicas(target, service_token=None, service="test")


async def test_a_port_that_is_taken_is_a_wrong_setting(server: ScriptedServer) -> None:
    second = ScriptedServer()
    second.port = server.port
    with pytest.raises(ConfigError, match=f"PERSISTENCE_GRPC_PORT.*{server.port}"):
        await second.start()


async def test_a_call_that_runs_is_finished_within_the_grace(rig: Rig) -> None:
    log = rig.servers[0].log
    log.go.clear()
    running = asyncio.ensure_future(call_open(rig.replicas))
    await until(lambda: rig.replicas.is_ready())
    await asyncio.sleep(0.05)
    stopping = asyncio.ensure_future(rig.servers[0].stop(grace_s=5.0))
    await asyncio.sleep(0.05)
    log.go.set()
    assert (await running).top.offset == 7
    await stopping


async def test_calls_are_measured_on_both_sides(rig: Rig) -> None:
    def count(name: str) -> float:
        labels = {"method": "PersistenceService/Open"}
        return REGISTRY.get_sample_value(f"thalamus_{name}_count", labels) or 0.0

    before = count("test_grpc_client_seconds"), count("persistence_grpc_seconds")
    await call_open(rig.replicas)
    assert count("test_grpc_client_seconds") == before[0] + 1
    assert count("persistence_grpc_seconds") == before[1] + 1


async def test_batches_are_measured_on_both_sides(rig: Rig) -> None:
    def sample(name: str) -> float:
        return REGISTRY.get_sample_value(f"thalamus_{name}", {"method": "PersistenceService/Append"}) or 0.0

    names = ["test_grpc_client_batch_items_sum", "test_grpc_client_seconds_count", "persistence_grpc_seconds_count"]
    before = [sample(name) for name in names]
    stream = await rig.open_stream()
    await asyncio.gather(*(stream.submit(pb.AppendItem(key=str(key))) for key in range(10)))
    assert [sample(name) - old for name, old in zip(names, before, strict=True)] == [10, 1, 1]


def state_of(rig: Rig) -> grpc.ChannelConnectivity:
    return next(iter(rig.replicas.channels.values())).get_state()


READY = grpc.ChannelConnectivity.READY
