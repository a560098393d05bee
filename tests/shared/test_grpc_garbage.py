"""What can't be parsed: refused by who sent it first, then as an argument.

It leaves no flood in the log.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.support.grpc import ScriptedServer, Status

TOKEN = b"the-token-of-this-deployment"
IDENTITY = (("authorization", f"Bearer {TOKEN.decode()}"),)
SERVICE = "/thalamus.persistence.v1.PersistenceService"
HEALTH = "/grpc.health.v1.Health"
GARBAGE = b"\xff\xff\xff garbage"
SEED = 20_261_128


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    running = ScriptedServer(TOKEN)
    await running.start()
    yield running
    await running.stop()


def status_of(method: str, channel: Any, metadata: Any, garbage: bytes = GARBAGE) -> Any:
    name = method.rpartition("/")[2]

    async def ask() -> tuple[Status, str]:
        call: Any
        if name == "Append":
            call = channel.stream_stream(method)(iter([garbage]), metadata=metadata, timeout=60)
        elif name in ("Read", "Watch"):
            call = channel.unary_stream(method)(garbage, metadata=metadata, timeout=5)
        else:
            call = channel.unary_unary(method)(garbage, metadata=metadata, timeout=5)
        return await call.code(), await call.details()

    return ask()


METHODS = [f"{SERVICE}/{name}" for name in ("Open", "RemoveHistory", "Kept", "Read", "Append")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)], ids=["none", "wrong"])
async def test_a_stranger_is_refused_before_anything_is_parsed(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture, method: str, metadata: Any
) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        with caplog.at_level(logging.INFO):
            for size in (0, 1_000_000):
                code, _ = await status_of(method, channel, metadata, GARBAGE + b"\xff" * size)
                assert code is Status.UNAUTHENTICATED
    assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("method", [*METHODS, f"{HEALTH}/Check", f"{HEALTH}/Watch"])
async def test_garbage_of_a_service_is_an_invalid_argument_and_a_line_at_most(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    rng = random.Random(SEED)
    async with grpc.aio.insecure_channel(server.address) as channel:
        with caplog.at_level(logging.INFO):
            for _ in range(20):
                code, detail = await status_of(method, channel, IDENTITY, GARBAGE + rng.randbytes(rng.randrange(200)))
                assert (code, detail) == (Status.INVALID_ARGUMENT, "the request can't be parsed")
    assert len(caplog.records) <= 1
    assert not any(record.exc_info for record in caplog.records)
    assert server.log.batches == []


async def test_a_healthy_watch_still_hears(server: ScriptedServer) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="thalamus.persistence"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_bytes_that_are_no_http2_and_calls_that_are_given_up_leave_no_line(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    with caplog.at_level(logging.INFO):
        for index in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * (index % 2) + rng.randbytes(500))
            await writer.drain()
            writer.transport.abort()
        server.log.go.clear()
        async with grpc.aio.insecure_channel(server.address) as made:
            channel: Any = made
            for _ in range(20):
                call = channel.unary_unary(f"{SERVICE}/Open")(b"", metadata=IDENTITY)
                await asyncio.sleep(0.005)
                call.cancel()
        server.log.go.set()
        await asyncio.sleep(0.1)
    assert [record.getMessage() for record in caplog.records] == []
    assert capfd.readouterr().err == ""
