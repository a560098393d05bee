"""Requests one behind the other.

In order, however they are cut, in bounded memory, and whatever their client does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random

import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from services.edge.transport.http.body import BodyReader
from services.edge.transport.http.connection import HttpConnection
from services.edge.transport.http.head import HeadReader
from services.edge.transport.http.refusal import Refused
from tests.edge.transport.support import LIMIT_S, Raw, Serve, set_send_buffer

SEED = 20_261_128

app = FastAPI()
runs = 0
go = asyncio.Event()


@app.get("/one")
async def one(name: str) -> str:
    return name


@app.post("/echo")
async def echo(request: Request) -> StreamingResponse:
    async def parts() -> object:
        async for part in request.stream():
            yield part

    return StreamingResponse(parts())  # type: ignore[arg-type]


@app.post("/size")
async def size(request: Request) -> int:
    return len(await request.body())


@app.get("/held")
async def held() -> int:
    global runs
    runs += 1
    await go.wait()
    return runs


@app.post("/unread")
async def unread() -> str:
    return "no body was read"


@app.get("/big")
async def big() -> str:
    global runs
    runs += 1
    return "a" * 100_000


@app.post("/big_unread")
async def big_unread() -> str:
    return "a" * 100_000


@app.get("/broken")
async def broken() -> None:
    raise ValueError("as the test wants")


@pytest.fixture(autouse=True)
def fresh() -> None:
    global runs, go
    runs, go = 0, asyncio.Event()


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def post(path: str, *headers: str) -> bytes:
    return get(path, *headers).replace(b"GET", b"POST", 1)


async def response(client: Raw) -> tuple[int, bytes]:
    """Status and body of the next response."""
    start = (await client.head()).lower()
    if b"transfer-encoding: chunked" not in start:
        size = int(start.split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(start.split(b" ")[1]), await asyncio.wait_for(client.reader.readexactly(size), LIMIT_S)
    body = b""
    while True:
        size = int((await asyncio.wait_for(client.reader.readuntil(b"\r\n"), LIMIT_S)), 16)
        part = await asyncio.wait_for(client.reader.readexactly(size + 2), LIMIT_S)
        body += part[:-2]
        if not size:
            return int(start.split(b" ")[1]), body


def chunked(body: bytes, rng: random.Random) -> bytes:
    """The body in chunks of any size, with extensions and trailers (RFC 9112)."""
    out, start = b"", 0
    while start < len(body):
        part = body[start : start + rng.randrange(1, 400)]
        start += len(part)
        out += f"{len(part):{rng.choice('xX')}}{rng.choice(['', ';a', ' ;a=b'])}\r\n".encode() + part + b"\r\n"
    return out + rng.choice([b"0\r\n\r\n", b"000\r\nTrailer: a\r\n\r\n"])


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
async def test_requests_are_answered_in_order_however_they_are_cut(serve: Serve, seed: int) -> None:
    served, rng = await serve(app=app), random.Random(seed)
    expected, sent = [], b""
    for number in range(60):
        match rng.randrange(4):
            case 0:
                body = rng.randbytes(rng.choice([0, 1, 700, 5_000]))
                sent += post("/echo", f"Content-Length: {len(body)}") + body
                expected.append(body)
            case 1:
                body = rng.randbytes(rng.choice([0, 1, 700, 5_000]))
                sent += post("/echo", "Transfer-Encoding: chunked") + chunked(body, rng)
                expected.append(body)
            case 2:
                body = rng.randbytes(rng.choice([0, 1, 700, 150_000]))
                sent += post("/unread", f"Content-Length: {len(body)}") + body
                expected.append(b'"no body was read"')
            case _:
                sent += b"\r\n" * rng.randrange(2) + get(f"/one?name={number}")
                expected.append(b'"%d"' % number)

    async def write(client: Raw) -> None:
        start = 0
        while start < len(sent):
            end = start + rng.choice([1, 10, 300, 5_000, 100_000])
            client.write(sent[start:end])
            start = end
            await client.writer.drain()
            if rng.random() < 0.3:
                await asyncio.sleep(0)

    async with Raw(served.port) as client:
        writing = asyncio.create_task(write(client))
        for index, body in enumerate(expected):
            assert await response(client) == (200, body), (seed, index)
        await writing
        assert (served.server.counters.https, served.refused) == (1, {})


async def test_one_request_of_a_connection_runs_and_the_rest_waits_unread(serve: Serve) -> None:
    served = await serve(app=app, http_request_timeout_s=30.0)
    assert served.http is not None
    async with Raw(served.port) as client:
        flood = get("/held") * 20_000  # 700 KB

        async def send() -> None:
            for start in range(0, 8 * len(flood), 65_536):
                client.write((flood * 2)[start % len(flood) :][:65_536])
                await client.writer.drain()

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.3)
        (connection,) = served.http.connections
        waiting = len(connection._waiting)  # noqa: SLF001  # memory that a peer can fill shows nowhere else
        assert waiting <= 16_384 + 262_144  # a read of uvloop on top
        assert runs == 1
        assert not sending.done()
        go.set()
        for number in range(1, 101):
            assert await response(client) == (200, b"%d" % number)
        sending.cancel()


async def test_a_client_that_does_not_read_gets_no_more_answers_and_ends_in_time(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve(app=app, http_request_timeout_s=0.5)
    client = await Raw(served.port, receive_buffer=4_096).__aenter__()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO):
        client.write(get("/big") * 2_000)
        async with asyncio.timeout(LIMIT_S):
            while not served.server.counters.https:
                await asyncio.sleep(0.01)
        await served.http_over()
    client.writer.close()
    assert 0 < runs < 200  # what fits into the buffers of the system
    assert [record.getMessage() for record in caplog.records] == []


async def test_connections_are_freed_at_their_end_without_the_collector(serve: Serve) -> None:
    served = await serve(app=app)
    gc.collect()
    gc.disable()
    try:
        for end in ("close", "reset", "mid-head", "mid-body", "pipelined", "refused"):
            client = await Raw(served.port).__aenter__()
            client.write(get("/one?name=a"))
            await response(client)
            match end:
                case "mid-head":
                    client.write(get("/one")[:-4])
                case "mid-body":
                    client.write(post("/echo", "Content-Length: 50") + b"a")
                case "pipelined":
                    client.write(get("/held") * 1_000)
                case "refused":
                    client.write(b"nonsense\r\n\r\n")
            await asyncio.sleep(0.02)
            if end == "close":
                client.writer.close()
            else:
                client.writer.transport.abort()
            await asyncio.sleep(0.01)
            go.set()
            await served.http_over()
            await asyncio.sleep(0.01)
            go.clear()
            assert not [found for found in gc.get_objects() if isinstance(found, HttpConnection)], end
    finally:
        gc.enable()


async def test_a_client_that_goes_in_the_middle_of_a_body_leaves_no_line(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve(app=app)
    with caplog.at_level(logging.INFO):
        for start in (
            post("/echo", "Content-Length: 50") + b"a",
            post("/echo", "Transfer-Encoding: chunked") + b"5\r\nab",
        ):
            for end in ("reset", "close", "half-close"):
                client = await Raw(served.port).__aenter__()
                client.write(start)
                await client.writer.drain()
                await asyncio.sleep(0.02)
                if end == "reset":
                    client.writer.transport.abort()
                elif end == "close":
                    client.writer.close()
                else:
                    client.writer.write_eof()
                    await client.rest()
                    client.writer.close()
        await served.http_over()
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_failing_application_is_500_and_a_line_now_and_then(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve(app=app)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            status, _ = await served.answer(get("/broken", "Connection: close"))
            assert status == 500
    assert len(caplog.records) <= 1


async def test_what_was_asked_before_a_half_close_is_answered(serve: Serve) -> None:
    served = await serve(app=app)
    async with Raw(served.port) as client:
        client.write(get("/one?name=a") + get("/one?name=b") + get("/one?name=c")[:-10])
        client.writer.write_eof()
        assert [await response(client) for _ in range(2)] == [(200, b'"a"'), (200, b'"b"')]
        assert await client.rest() == b""


async def test_all_that_was_asked_before_a_half_close_is_answered_to_a_client_that_reads_later(serve: Serve) -> None:
    served = await serve(app=app)
    async with Raw(served.port, receive_buffer=4_096) as client:
        client.write(get("/big") * 100)
        client.writer.write_eof()
        await asyncio.sleep(0.2)  # by now the system takes no more
        for _ in range(100):
            assert len((await response(client))[1]) == 100_002
        assert await client.rest() == b""
    await served.http_over()


SENT_TOO_MUCH = {
    "a line end": get("/big", "Connection: close") + b"\r\n",
    "another request": get("/big", "Connection: close") + get("/big"),
    "part of a body": post("/big_unread", "Content-Length: 9", "Connection: close") + b"a",
    "a body that is not asked for": post("/big_unread", "Content-Length: 9", "Expect: 100-continue"),
}


@pytest.mark.parametrize("sent", SENT_TOO_MUCH.values(), ids=list(SENT_TOO_MUCH))
async def test_the_last_answer_arrives_whole_at_a_client_that_reads_slowly(serve: Serve, sent: bytes) -> None:
    served = await serve(app=app)
    set_send_buffer(served.server, 8_192)
    async with Raw(served.port, receive_buffer=4_096) as client:
        client.write(sent)
        await client.head()
        body = b""
        async with asyncio.timeout(LIMIT_S):
            while part := await client.reader.read(2_500):
                body += part
                await asyncio.sleep(0.05)
        assert len(body) == 100_002
    await served.http_over()


async def test_who_does_not_take_the_last_answer_is_ended_in_time(serve: Serve) -> None:
    served = await serve(app=app, close_timeout_s=0.3)
    client = await Raw(served.port, receive_buffer=4_096).__aenter__()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.write(get("/big") * 40 + get("/big", "Connection: close") + b"\r\n")
    async with asyncio.timeout(LIMIT_S):
        while not served.server.counters.https:
            await asyncio.sleep(0.01)
    served.server.stop_accepting()  # the request that runs is the last one
    await served.http_over()
    client.writer.close()


async def test_a_client_that_waits_for_100_gets_it_once(serve: Serve) -> None:
    served = await serve(app=app)
    async with Raw(served.port) as client:
        for _ in range(2):
            client.write(post("/size", "Content-Length: 3", "Expect: 100-continue"))
            assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.write(b"abc")
            assert await response(client) == (200, b"3")
        client.write(post("/unread", "Content-Length: 3", "Expect: 100-continue") + b"abc")
        assert await response(client) == (200, b'"no body was read"')


async def test_a_client_that_was_answered_in_place_of_100_is_not_left_to_guess(serve: Serve) -> None:
    """What comes next may be the body or another request: neither is read.

    A proxy may take it for the next request.
    """
    served = await serve(app=app)
    async with Raw(served.port) as client:
        client.write(post("/unread", "Content-Length: 50", "Expect: 100-continue"))
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in head
        client.write(get("/held"))
        assert await client.rest() == b'"no body was read"'
    assert not runs


async def test_the_last_answer_arrives_though_more_is_sent(serve: Serve) -> None:
    """TCP is not closed on bytes that nobody has read.

    The client's system would forget the answer.
    """
    served = await serve(app=app)
    for line in (get("/one?name=a", "Connection: close"), get("/one?name=a").replace(b"HTTP/1.1", b"HTTP/1.0")):
        async with Raw(served.port) as client:
            client.write(line + b"x" * 500_000)
            assert await response(client) == (200, b'"a"')
            assert await client.rest() == b""
        await served.http_over()


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b"5\nabcde",
        b"5\r\nabcdefg",
        b"f" * 17 + b"\r\n",
        b"5;a=" + b"a" * 9_000,
        b"0\r\nno header\r\n\r\n",
        b"1\r\na\r\n\r\n0\r\n\r\n",
    ],
)
async def test_chunks_that_are_malformed_are_refused(serve: Serve, chunks: bytes) -> None:
    served = await serve(app=app)
    status, _ = await served.answer(post("/unread", "Transfer-Encoding: chunked") + chunks + b"\r\n" * 9)
    assert status in (200, 400)  # the application may have answered before it was known
    assert served.refused == {"malformed": 1}


async def test_many_tiny_chunks_are_read_a_few_at_a_time_and_to_the_end(serve: Serve) -> None:
    served = await serve(app=app)
    sent = post("/size", "Transfer-Encoding: chunked") + b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"
    async with Raw(served.port) as client, Raw(served.port) as other:
        client.write(sent + sent + get("/one?name=a"))
        client.writer.write_eof()
        other.write(get("/one?name=b"))
        assert await response(other) == (200, b'"b"')
        assert [await response(client) for _ in range(3)] == [(200, b"50000"), (200, b"50000"), (200, b'"a"')]
        assert await client.rest() == b""
    async with Raw(served.port) as client:  # the rest of a body never comes
        client.write(sent[:-5])
        client.writer.write_eof()
        await client.rest()
    await served.http_over()


def test_one_look_at_tiny_chunks_takes_a_few_of_them() -> None:
    """A segment of them would hold up everybody for a quarter of a second."""
    head = HeadReader().feed(post("/", "Transfer-Encoding: chunked"))
    assert head is not None
    waiting, bodies = bytearray(b"1\r\na\r\n" * 40_000), BodyReader(head)
    found = bodies.read(waiting)
    assert 0 < len(found) < 400
    assert len(found) * 6 + len(waiting) == pytest.approx(240_000, abs=6)


def test_a_body_in_chunks_is_the_same_however_it_is_cut() -> None:
    rng = random.Random(SEED)
    reader = HeadReader()
    head = reader.feed(post("/", "Transfer-Encoding: chunked"))
    assert head is not None
    for _ in range(200):
        body = rng.randbytes(rng.randrange(3_000))
        sent = chunked(body, rng) + b"next"
        found, waiting, bodies = b"", bytearray(), BodyReader(head)
        while sent:
            step = rng.choice([1, 7, 4_000])
            waiting += sent[:step]
            sent = sent[step:]
            if not bodies.is_whole:
                found += bodies.read(waiting)
        while waiting and not bodies.is_whole:
            found += bodies.read(waiting)
        assert (found, bytes(waiting), bodies.is_whole) == (body, b"next", True), SEED


def test_any_bytes_are_chunks_or_refused() -> None:
    rng = random.Random(SEED)
    head = HeadReader().feed(post("/", "Transfer-Encoding: chunked"))
    assert head is not None
    for _ in range(2_000):
        data = bytearray(rng.choices(b"0123af;\r\n\r\n:x\xff", k=rng.randrange(60)))
        size, bodies = len(data), BodyReader(head)
        with contextlib.suppress(Refused):
            assert len(bodies.read(data)) <= size
            assert bodies.is_whole or not data
