"""The internal port over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from services.shared.process.config import ConfigError
from services.shared.process.internal_http import InternalHttp, start_internal_http


@pytest.fixture
def checks() -> dict[str, bool]:
    return {"redis": True, "presence": True}


@pytest.fixture
async def server(checks: dict[str, bool]) -> AsyncIterator[InternalHttp]:
    running = await start_internal_http("127.0.0.1", 0, ready=lambda: checks)
    yield running
    await running.close()


async def get(server: InternalHttp, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.request(method, f"http://127.0.0.1:{server.port}{path}")


async def test_ready_while_every_check_holds(server: InternalHttp) -> None:
    answer = await get(server, "/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "failing": [], "degraded": []})


async def test_not_ready_names_what_fails(server: InternalHttp, checks: dict[str, bool]) -> None:
    checks["redis"] = False
    answer = await get(server, "/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "failing": ["redis"], "degraded": []})


async def test_a_service_that_cannot_be_reached_degrades(checks: dict[str, bool]) -> None:
    server = await start_internal_http(
        "127.0.0.1", 0, ready=lambda: checks, reachable=lambda: {"auth": True, "presence": False}
    )
    answer = await get(server, "/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "failing": [], "degraded": ["presence"]})
    text = (await get(server, "/metrics")).text
    assert 'thalamus_service_reachable{service="presence"} 0.0' in text
    assert 'thalamus_service_reachable{service="auth"} 1.0' in text
    await server.close()


async def test_healthy_though_not_ready(server: InternalHttp, checks: dict[str, bool]) -> None:
    checks["redis"] = False
    assert (await get(server, "/healthz")).status_code == 200


async def test_tasks_of_the_loop_are_counted(server: InternalHttp) -> None:
    async def tasks() -> float:
        text = (await get(server, "/metrics")).text
        (line,) = [line for line in text.splitlines() if line.startswith("thalamus_asyncio_tasks ")]
        return float(line.split()[1])

    before = await tasks()
    more = [asyncio.create_task(asyncio.sleep(60)) for _ in range(5)]
    assert await tasks() == before + 5
    for task in more:
        task.cancel()


async def test_metrics_are_prometheus_text(server: InternalHttp) -> None:
    answer = await get(server, "/metrics?x=1")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "python_info" in answer.text


async def test_anything_else_is_not_found_and_only_reading_is_allowed(server: InternalHttp) -> None:
    assert (await get(server, "/")).status_code == 404
    assert (await get(server, "/readyz", "POST")).status_code == 405
    assert (await get(server, "/readyz", "POST")).headers["allow"] == "GET, HEAD"
    head = await get(server, "/readyz", "HEAD")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("sent", [b"", b"GET", b"\r\n\r\n", b"\x00" * 20_000, b"GET /healthz\r\n\r\n"])
async def test_what_is_no_request_harms_nobody(server: InternalHttp, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 2)
    writer.close()
    assert (await get(server, "/healthz")).status_code == 200


async def test_closing_does_not_wait_for_the_silent(server: InternalHttp) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await get(server, "/healthz")
    await asyncio.wait_for(server.close(), 1)
    assert await asyncio.wait_for(reader.read(), 1) == b""
    writer.close()


async def test_a_port_that_is_taken_is_named(server: InternalHttp) -> None:
    with pytest.raises(ConfigError, match=str(server.port)):
        await start_internal_http("127.0.0.1", server.port, ready=dict)
