"""A burst is not an overload.

1,000 clients publish at the same moment, and all of it is taken.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from tests.support.stack import Stack
from verify.socket import Socket, open_socket

CLIENTS, EACH = 1_000, 5
DATA = {"text": "x" * 89}  # 100 bytes
CHANNELS = 200
OPENING_AT_ONCE = 50
WITHIN_S = 30.0  # a bound on the test, not a promise: what it took is printed


@pytest.fixture
def fresh_stack() -> Iterator[Stack]:
    """Two edges of this test's own.

    All defaults but one: everything shares a few cores here, so a publication may be expected to wait for longer.
    """
    with Stack(edges=2, environment={"EDGE_MAX_PUBLISH_WAIT_S": "5"}) as running:
        yield running


async def test_a_thousand_clients_publish_five_times_at_once_and_all_of_it_is_acknowledged(fresh_stack: Stack) -> None:
    replies: Counter[int] = Counter()
    answered = asyncio.Event()
    sockets: list[tuple[Socket, str]] = []
    some = asyncio.Semaphore(OPENING_AT_ONCE)

    def on_reply(reply: dict[str, dict[str, int]]) -> None:
        replies[reply.get("error", {}).get("code", 0)] += 1
        if replies.total() == CLIENTS * EACH:
            answered.set()

    async def client(number: int) -> None:
        async with some:
            url = fresh_stack.ws_urls[number % 2]
            socket = await open_socket(url, lambda push: None, lambda code: None)
            await socket.call(30.0, connect={"token": fresh_stack.token(f"burst{number}")})
            channel = f"burst-{number % CHANNELS}"
            await socket.call(30.0, subscribe={"channel": channel})
            socket.on_other_reply = on_reply
            sockets.append((socket, channel))

    await asyncio.gather(*map(client, range(CLIENTS)))
    await asyncio.sleep(2.0)
    frames = [
        [
            msgspec.json.encode({"id": 1_000 + number, "publish": {"channel": channel, "data": DATA}})
            for number in range(EACH)
        ]
        for _, channel in sockets
    ]
    began = time.monotonic()
    for (socket, _), lines in zip(sockets, frames, strict=True):
        for line in lines:
            socket.send_text(line)
    async with asyncio.timeout(WITHIN_S):
        await answered.wait()
    took_s = time.monotonic() - began
    for socket, _ in sockets:
        socket.close()
    print(f"{CLIENTS} x {EACH}: replies by error code {dict(replies)}, the last after {took_s:.2f} s")
    assert replies == {0: CLIENTS * EACH}
