"""A connection hears and says the same past the core as through it, however the bytes are cut."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest

from services.edge.transport import websocket
from services.edge.transport.metrics import TransportCounters
from services.edge.transport.options import TransportOptions
from services.edge.transport.outbox import Flusher
from services.edge.transport.plain_frames import FOR_CORE
from services.edge.transport.websocket import WebSocketConnection
from tests.edge.transport.support import BINARY, CLOSE, CONT, PONG, TEXT, close_payload, frame

LIMIT = 1_000


class FakeTransport:
    """Takes everything that is written."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class FakePort:
    """What a connection asks of its port."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.options = TransportOptions(max_message_bytes=LIMIT, max_fragments=4, max_control_frames_per_s=10)
        self.counters = TransportCounters()
        self.flusher = Flusher(self.loop, self.counters, max_outbox_bytes=1 << 20, max_total_bytes=1 << 24)


class Echo:
    """Answers each message, and closes at one that says so."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.heard: list[Any] = []

    def message(self, payload: bytes, *, binary: bool) -> None:
        self.heard.append((payload, binary))
        if payload == b"close":
            self.connection.close(3000, "asked")
        self.connection.send(b"<%d>" % len(payload))

    def websocket_pong(self) -> None:
        self.heard.append("pong")

    def replies_taken(self) -> None: ...

    def closed(self, *, clean: bool) -> None:
        self.heard.append(("closed", clean))


async def outcome(chunks: list[bytes]) -> tuple[Any, ...]:
    """What a connection heard and wrote."""
    port, transport = FakePort(), FakeTransport()
    connection = WebSocketConnection(cast(Any, port), cast(Any, transport), "")
    handler = Echo(connection)
    connection.start(cast(Any, handler))
    for chunk in chunks:
        connection.data_received(chunk)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    if connection._timer is not None:
        connection._timer.cancel()
    return handler.heard, transport.written, transport.ended, connection._state, port.counters.messages_received


def some_frame(rng: random.Random) -> bytes:
    """Nearly always a good text; else what a client could do, less pings: the core answers them behind all else."""
    text = rng.choice([b"", b"a", b"{}", b"x" * 125, b"y" * 126, b"z" * LIMIT, "hällo".encode()])
    return rng.choice(
        [
            *[frame(TEXT, text)] * 12,
            frame(TEXT, b"close") if rng.random() < 0.1 else frame(TEXT, b"closer"),
            frame(BINARY, text),
            frame(PONG),
            frame(TEXT, b"fr", fin=False) + rng.choice([b"", frame(PONG, b"q")]) + frame(CONT, "ä".encode()),
            *(
                rng.choice(
                    [
                        frame(TEXT, b"\xff"),
                        frame(TEXT, b"fr", fin=False) + frame(TEXT, b"no"),
                        frame(CONT, b"a"),
                        frame(TEXT, b"a", masked=False),
                        frame(TEXT, b"a", rsv=4),
                        frame(3, b"a"),
                        frame(TEXT, b"w" * (LIMIT + 1)),
                        frame(CLOSE, close_payload(1000)),
                        frame(CLOSE, b"x"),
                        b"\x81\xfe\x00\x05" + b"\0\0\0\0short",
                        b"\x81\xff" + b"\x7f" * 8,
                        rng.randbytes(9),
                    ]
                )
                for _ in range(rng.random() < 0.3)
            ),
        ]
    )


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    """Into pieces as a network might."""
    chunks = []
    while data:
        size = rng.choice([1, 2, 5, 20, 300, 3_000])
        chunks.append(data[:size])
        data = data[size:]
    return chunks


@pytest.mark.parametrize("seed", range(300))
async def test_a_connection_hears_and_says_the_same_with_a_core_from_the_start(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    chunks = cut(rng, b"".join(some_frame(rng) for _ in range(rng.randint(1, 30))))
    found = await outcome(chunks)
    monkeypatch.setattr(websocket, "read_plain", lambda data, max_bytes: ([], 0, FOR_CORE))
    assert found == await outcome(chunks), f"seed {seed}"
