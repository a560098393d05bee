"""The internal port over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from prometheus_client import REGISTRY, Gauge

from services.shared.process import internal_http
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
    response = await get(server, "/readyz")
    assert (response.status_code, response.json()) == (200, {"ready": True, "failing": [], "degraded": []})


async def test_not_ready_names_what_fails(server: InternalHttp, checks: dict[str, bool]) -> None:
    checks["redis"] = False
    response = await get(server, "/readyz")
    assert (response.status_code, response.json()) == (503, {"ready": False, "failing": ["redis"], "degraded": []})


async def test_a_service_that_cannot_be_reached_degrades(checks: dict[str, bool]) -> None:
    server = await start_internal_http(
        "127.0.0.1", 0, ready=lambda: checks, reachable=lambda: {"auth": True, "presence": False}
    )
    response = await get(server, "/readyz")
    assert (response.status_code, response.json()) == (200, {"ready": True, "failing": [], "degraded": ["presence"]})
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
    response = await get(server, "/metrics?x=1")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "python_info" in response.text


async def test_metrics_are_neither_compressed_nor_filtered(server: InternalHttp) -> None:
    async with httpx.AsyncClient(
        headers={"Accept": "application/openmetrics-text", "Accept-Encoding": "gzip"}
    ) as client:
        response = await client.get(f"http://127.0.0.1:{server.port}/metrics?name[]=other")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "content-encoding" not in response.headers
    assert "python_info" in response.text


async def test_anything_else_is_not_found_and_only_reading_is_allowed(server: InternalHttp) -> None:
    assert (await get(server, "/")).status_code == 404
    assert (await get(server, "/readyz", "POST")).status_code == 405
    assert set((await get(server, "/readyz", "POST")).headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert (await get(server, "/readyz/")).status_code == 404
    head = await get(server, "/readyz", "HEAD")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("sent", [b"", b"GET", b"\r\n\r\n", b"\x00" * 20_000, b"GET /healthz\r\n\r\n"])
async def test_what_is_no_request_harms_nobody(server: InternalHttp, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    writer.write_eof()
    await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert (await get(server, "/healthz")).status_code == 200


@pytest.mark.parametrize("request_", [b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /healthz HTTP/1.0\r\n\r\n"])
async def test_the_first_request_is_answered_also_after_a_half_close(server: InternalHttp, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request_ * 2)
    writer.write_eof()
    response = await asyncio.wait_for(reader.read(), 30)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in response.lower()
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n", b"POST /metrics HTTP/1.1\r\n"])
async def test_a_connection_that_sends_no_whole_request_ends(
    server: InternalHttp, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(internal_http, "_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def test_more_connections_than_the_limit_are_closed(
    server: InternalHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internal_http, "_MAX_CONNECTIONS", 3)
    taken = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
    await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    for _, one in [*taken, (reader, writer)]:
        one.close()
    await asyncio.sleep(0.05)
    assert (await get(server, "/healthz")).status_code == 200


@pytest.fixture
def long_metrics() -> Iterator[None]:
    gauge = Gauge("test_internal_http_long", "More than buffers of sockets hold.", ["text"])
    for number in range(16):
        gauge.labels(f"{number}" + "x" * 1_000_000).set(1)
    yield
    REGISTRY.unregister(gauge)


@pytest.mark.usefixtures("long_metrics")
async def test_neither_time_nor_closing_wait_for_a_client_that_does_not_read(
    server: InternalHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await asyncio.wait_for(reader.read(8), 30) == b"HTTP/1.1"
        return reader, writer

    async def read_all(reader: asyncio.StreamReader) -> int:
        with contextlib.suppress(ConnectionResetError):
            return len(await asyncio.wait_for(reader.read(), 30))
        return 0

    monkeypatch.setattr(internal_http, "_TIMEOUT_S", 600.0)
    reader, late = await ask()
    await asyncio.wait_for(server.close(), 30)
    assert await read_all(reader) < 16_000_000
    late.close()
    await server.start("127.0.0.1", 0)
    monkeypatch.setattr(internal_http, "_TIMEOUT_S", 0.3)
    reader, slow = await ask()
    await asyncio.sleep(0.5)
    assert await read_all(reader) < 16_000_000
    slow.close()


async def test_a_collector_that_fails_is_a_500_and_a_line_in_the_log(
    checks: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> dict[str, bool]:
        raise RuntimeError("no checks today")

    server = await start_internal_http("127.0.0.1", 0, ready=broken)
    for path in ("/metrics", "/readyz"):
        caplog.clear()
        assert (await get(server, path)).status_code == 500
        assert "no checks today" in caplog.text
    assert (await get(server, "/healthz")).status_code == 200
    await server.close()


async def test_what_is_no_http_writes_no_line_in_the_log(
    server: InternalHttp, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 400 ")
    await get(server, "/healthz")
    writer.close()
    assert [one.getMessage() for one in caplog.records if one.name.startswith("uvicorn")] == []


async def test_settings_of_uvicorn_in_the_environment_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "none")
    server = await start_internal_http("127.0.0.1", 0, ready=dict)
    assert (await get(server, "/readyz")).status_code == 200
    await server.close()


async def test_closing_does_not_wait_for_the_silent(server: InternalHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal_http, "_TIMEOUT_S", 600.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await get(server, "/healthz")
    await asyncio.wait_for(server.close(), 30)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def test_a_port_that_is_taken_is_named(server: InternalHttp) -> None:
    with pytest.raises(ConfigError, match=str(server.port)):
        await start_internal_http("127.0.0.1", server.port, ready=dict)
