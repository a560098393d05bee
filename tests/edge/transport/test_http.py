"""Everything that is not WebSocket.

An application behind our reader of requests, on the same port.
"""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request

from tests.edge.transport.support import LIMIT_S, PATH, Raw, Serve, head

app = FastAPI()


@app.get("/hello")
async def hello(name: str = "you") -> dict[str, str]:
    return {"hello": name}


@app.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())


@app.get("/never")
async def never() -> None:
    await asyncio.Event().wait()


def get(path: str = "/hello", *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def response(client: Raw) -> tuple[int, bytes]:
    """Status and body of the next response."""
    start = await client.head()
    size = int(start.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(start.split(b" ")[1]), await asyncio.wait_for(client.reader.readexactly(size), LIMIT_S)


async def test_http_is_served_beside_websocket(serve: Serve) -> None:
    served = await serve(app=app)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
        response = await client.get("/hello", params={"name": "wörld"})
        assert response.json() == {"hello": "wörld"}
        assert "date" in response.headers
        assert "server" not in response.headers
        assert (await client.get("/nowhere")).status_code == 404
    socket = await served.raw()
    socket.writer.close()
    counters = served.server.counters
    assert (counters.accepted_https, counters.accepted_websockets) == (1, 1)


@pytest.mark.parametrize("size", [0, 10, 70_000, 3_000_000])
async def test_bodies_of_any_size_arrive_whole(serve: Serve, size: int) -> None:
    served = await serve(app=app)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
        assert (await client.post("/length", content=b"a" * size)).json() == size

        async def chunks() -> object:
            for _ in range(3):
                yield b"a" * (size // 3)

        assert (await client.post("/length", content=chunks())).json() == size // 3 * 3  # type: ignore[arg-type]


async def test_a_head_in_pieces_is_handed_over_whole(serve: Serve) -> None:
    served = await serve(app=app)
    async with Raw(served.port) as client:
        for byte in get("/hello?name=slow"):
            client.write(bytes((byte,)))
            await client.writer.drain()
        assert await response(client) == (200, b'{"hello":"slow"}')


async def test_requests_share_a_connection_one_after_the_other_and_pipelined(serve: Serve) -> None:
    served = await serve(app=app)
    async with Raw(served.port) as client:
        for name in ("a", "b"):
            client.write(get(f"/hello?name={name}"))
            assert await response(client) == (200, b'{"hello":"%s"}' % name.encode())
        client.write(get("/hello?name=c") + get("/hello?name=d"))
        assert await response(client) == (200, b'{"hello":"c"}')
        assert await response(client) == (200, b'{"hello":"d"}')
    assert served.server.counters.accepted_https == 1


async def test_a_websocket_upgrade_on_a_used_connection_is_never_101(serve: Serve) -> None:
    served = await serve(app=app)
    async with Raw(served.port) as client:
        client.write(get())
        await response(client)
        client.write(head())
        rest = await client.rest()
    assert rest.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nUpgrade: websocket\r\n" in rest
    assert not served.handlers


async def test_an_upgrade_elsewhere_is_never_101(serve: Serve) -> None:
    served = await serve(app=app)
    _, response = await served.answer(head(line="GET /hello HTTP/1.1"))
    assert response.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in response
    assert not served.handlers


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(get("/hello", "Folded: a\r\n b"), 400, id="B05-folded"),
        pytest.param(get("/hello", "Space : a"), 400, id="B05-space-before-colon"),
        pytest.param(get("/hello", "Nul: \0"), 400, id="B05-nul"),
        pytest.param(get("/hello", "Bare: a\nb: c"), 400, id="B05-bare-lf"),
        pytest.param(get("/hello", "Host: y"), 400, id="B03-two-hosts"),
        pytest.param(b"GET /hello HTTP/1.1\r\n\r\n", 400, id="B03-no-host"),
        pytest.param(get("/" + "a" * 8_192), 414, id="B06-long-line"),
        pytest.param(get("/hello", *["A: b"] * 128), 431, id="B06-many-headers"),
        pytest.param(get("/hello", "A: " + "a" * 8_192), 431, id="B06-long-header"),
        pytest.param(get("/hello", *[f"A{i}: " + "a" * 8_000 for i in range(9)]), 431, id="B06-long-head"),
        pytest.param(get("/hello", "Content-Length: 1", "Transfer-Encoding: chunked"), 400, id="length-and-coding"),
        pytest.param(get("/hello", "Content-Length: " + "9" * 5_000), 400, id="endless-length"),
        pytest.param(b"GET /hello HTTP/2.0\r\nHost: x\r\n\r\n", 505, id="http-2.0"),
        pytest.param(b"GET hello HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="no-target"),
        pytest.param(b"GET ftp://x/hello HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="foreign-scheme"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, id="tls"),
        pytest.param(b"\r\n\r\n" + get(), 200, id="blank-lines"),
        pytest.param(b"\r\n" * 20 + get(), 400, id="too-many-blank-lines"),
        pytest.param(b"GET http://y/hello HTTP/1.1\r\nHost: x\r\n\r\n", 200, id="absolute"),
        pytest.param(get("/hell%6F"), 200, id="percent-encoded"),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 99], ids=["first", "second", "hundredth"])
async def test_heads_are_held_to_the_same_rules_on_every_request(
    serve: Serve, data: bytes, expected: int, before: int
) -> None:
    served = await serve(app=app, http_keep_alive_s=0)
    async with Raw(served.port) as client:
        client.write(get() * before + data)
        for _ in range(before):
            assert (await response(client))[0] == 200
        rest = await client.rest()
    assert int(rest.split(b" ", 2)[1]) == expected
    await served.http_over()
    assert sum(served.refused.values()) == (expected != 200)


async def test_a_second_head_without_end_is_refused_in_bounded_memory(serve: Serve) -> None:
    served = await serve(app=app)
    async with Raw(served.port) as client:
        client.write(get())
        await response(client)
        client.write(get()[:-2] + b"A: " + b"a" * 1_000_000)
        rest = await client.rest()
    assert rest.startswith(b"HTTP/1.1 431 ")
    await served.http_over()


@pytest.mark.parametrize("data", [b"GET /hel", b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_b07_half_a_second_request_is_closed_in_time(serve: Serve, data: bytes) -> None:
    served = await serve(app=app, handshake_timeout_s=0.05)
    async with Raw(served.port) as client:
        client.write(get())
        await response(client)
        client.write(data)
        assert await client.rest() == b""


async def test_an_idle_connection_is_closed_in_time(serve: Serve) -> None:
    served = await serve(app=app, http_keep_alive_s=0)
    async with Raw(served.port) as client:
        client.write(get())
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_takes_too_long_is_cut(serve: Serve) -> None:
    served = await serve(app=app, http_request_timeout_s=0.05, close_timeout_s=0.05)
    status, _ = await served.answer(get("/never"))
    assert status == 0


async def test_b08_http_counts_towards_the_cap_and_is_refused_over_it(serve: Serve) -> None:
    served = await serve(app=app, max_connections=1)
    async with Raw(served.port) as client:
        client.write(get())
        assert (await response(client))[0] == 200
        status, rest = await served.answer(get())
        assert status == 503
        assert b"\r\nRetry-After: " in rest
        client.write(get())
        assert (await response(client))[0] == 200


async def test_http_1_0_is_served_and_its_connection_closed(serve: Serve) -> None:
    served = await serve(app=app)
    status, _ = await served.answer(b"GET /hello HTTP/1.0\r\n\r\n")
    assert status == 200


async def test_the_websocket_path_by_plain_http_is_426_without_asking_the_application(serve: Serve) -> None:
    served = await serve(app=app)
    status, _ = await served.answer(get(PATH))
    assert status == 426
    assert served.refused == {"no_upgrade": 1}
