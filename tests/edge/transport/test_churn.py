"""Connections of every kind come and go by the thousand.

No object stays, and nothing for the garbage collector.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter

import pytest
from fastapi import FastAPI, Request

from tests.edge.transport.support import CLOSE, LIMIT_S, TEXT, Raw, Serve, close_payload, frame, head

SEED = 20_261_128
WARM, MEASURED, AT_A_TIME = 40, 200, 20

app = FastAPI()


@app.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())


def post(size: int, path: str = "/length") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()


async def keep_alive(client: Raw, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 5)):
        client.write(post(3) + b"abc")
        await client.head()
        await client.reader.readexactly(1)


async def mid_body(client: Raw, rng: random.Random) -> None:
    client.write(post(50) + b"a" * rng.randrange(50))
    await _sent(client, rng)


async def mid_head(client: Raw, rng: random.Random) -> None:
    client.write(post(50)[: rng.randrange(1, 40)])
    await _sent(client, rng)


async def pipelined(client: Raw, rng: random.Random) -> None:
    client.write((post(3) + b"abc") * rng.randrange(20))
    await _sent(client, rng)


async def not_found(client: Raw, rng: random.Random) -> None:
    client.write(post(0, "/nowhere"))
    await client.head()


async def refused(client: Raw, rng: random.Random) -> None:
    client.write(
        rng.choice([head("Origin: http://evil.example"), head(without="Upgrade"), b"\x16\x03\x01", b"GET /\r\n"])
    )
    await client.rest()


async def websocket_clean(client: Raw, rng: random.Random) -> None:
    await _opened(client)
    client.write(frame(TEXT, b"a") + frame(CLOSE, close_payload(1000)))
    await client.rest()


async def websocket_reset(client: Raw, rng: random.Random) -> None:
    await _opened(client)
    client.write(frame(TEXT, b"a", fin=rng.random() < 0.5))
    await _sent(client, rng)


async def websocket_broken(client: Raw, rng: random.Random) -> None:
    await _opened(client)
    client.write(frame(TEXT, b"\xff"))
    await client.rest()


async def _opened(client: Raw) -> None:
    client.write(head())
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")


async def _sent(client: Raw, rng: random.Random) -> None:
    await client.writer.drain()
    await asyncio.sleep(rng.choice([0, 0, 0.002]))
    if rng.random() < 0.7:
        client.writer.transport.abort()


KINDS = [keep_alive, mid_body, mid_head, pipelined, not_found, refused]
KINDS += [websocket_clean, websocket_reset, websocket_broken]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_nothing_stays_of_connections_that_are_gone(serve: Serve, kind: object) -> None:
    assert callable(kind)
    served, rng = await serve(app=app), random.Random(SEED)
    admission = served.listener.admission

    async def come_and_go(count: int) -> None:
        async def some() -> None:
            for _ in range(count // AT_A_TIME):
                async with Raw(served.port) as client:
                    await kind(client, rng)

        await asyncio.gather(*(some() for _ in range(AT_A_TIME)))
        async with asyncio.timeout(LIMIT_S):
            while admission.open:
                await asyncio.sleep(0.005)
        served.handlers.clear()
        await asyncio.sleep(0.01)

    def counted() -> Counter[str]:
        return Counter(type(found).__qualname__ for found in gc.get_objects())

    await come_and_go(WARM)
    gc.collect()
    gc.disable()
    try:
        before = counted()
        await come_and_go(MEASURED)
        grown = {name: more for name, more in (counted() - before).items() if more >= MEASURED // 4}
        assert grown == {}, SEED
    finally:
        gc.enable()
