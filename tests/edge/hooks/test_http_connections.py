"""Connections to a backend over HTTP: what is read, kept, and closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import h11
import pytest

from services.edge.adapters.hooks.http_connections import AnswerTooLong, Connections, Headers
from tests.support.hook_backend import response

MOST_BYTES = 1_000
LONG_S = 30.0
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Backend:
    """A server that counts connections, and calls `serve` for each question."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.opened = 0
        self.ended = asyncio.Event()  # a connection has ended

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended.set()
            writer.close()


@contextlib.asynccontextmanager
async def asking(serve: Serve, kept_s: float = LONG_S) -> AsyncIterator[tuple[Backend, Connections]]:
    backend = Backend(serve)
    server = await asyncio.start_server(backend.run, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections("127.0.0.1", port, tls=None, most_bytes=MOST_BYTES, kept_s=kept_s)
    try:
        async with asyncio.timeout(30):
            yield backend, connections
    finally:
        connections.close()
        server.close()


def takes_all(status: int, headers: Headers) -> None:
    """Refuse nothing."""


async def ask(connections: Connections) -> bytes:
    return await connections.post(b"/", [(b"Host", b"x"), (b"Content-Length", b"2")], b"{}", takes_all)


def says(*parts: bytes) -> Serve:
    """Write these; an empty one ends the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            if not part:
                raise ConnectionResetError
            writer.write(part)
            await writer.drain()

    return serve


async def test_questions_one_after_the_other_take_one_connection() -> None:
    async with asking(says(response(b"{}"))) as (backend, connections):
        assert [await ask(connections) for _ in range(3)] == [b"{}"] * 3
        assert backend.opened == 1


async def test_questions_at_the_same_time_have_a_connection_each() -> None:
    waits = asyncio.Barrier(3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await waits.wait()
        writer.write(response(b"{}"))

    async with asking(serve) as (backend, connections):
        for _ in range(2):
            assert await asyncio.gather(*(ask(connections) for _ in range(3))) == [b"{}"] * 3
        assert backend.opened == 3


async def test_bytes_that_come_while_nothing_is_asked_answer_no_question() -> None:
    poison = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"{}"))
        await poison.wait()
        writer.write(response(b'{"user":"another"}'))

    async with asking(serve) as (backend, connections):
        assert await ask(connections) == b"{}"
        poison.set()
        await backend.ended.wait()
        assert await ask(connections) == b"{}"
        assert backend.opened == 2


async def test_an_unused_connection_is_closed_after_its_time() -> None:
    async with asking(says(response(b"{}")), kept_s=0.05) as (backend, connections):
        await ask(connections)
        await backend.ended.wait()
        await ask(connections)
        assert backend.opened == 2


async def test_a_connection_that_the_backend_closed_is_not_used() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"{}"))
        await writer.drain()
        raise ConnectionResetError

    async with asking(serve) as (backend, connections):
        for _ in range(3):
            assert await ask(connections) == b"{}"
            await backend.ended.wait()
            backend.ended.clear()
            await asyncio.sleep(0.05)  # until the end of the connection has arrived
        assert backend.opened == 3


async def test_a_connection_that_the_backend_wants_closed_is_not_kept() -> None:
    async with asking(says(response(b"{}", "200 OK", "Connection: close"))) as (backend, connections):
        for _ in range(2):
            assert await ask(connections) == b"{}"
        assert backend.opened == 2


@pytest.mark.parametrize(
    "parts",
    [
        [response(b"x" * MOST_BYTES)],
        [response(b"x" * MOST_BYTES)[:-1], b"x"],
        [b"HTTP/1.1 200 OK\r\n\r\n", b"x" * MOST_BYTES, b""],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n", response(b"x" * MOST_BYTES)],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1_000, b"\r\n0\r\n\r\n"],
    ],
    ids=["at once", "in parts", "until the end of the connection", "after a hint", "chunked"],
)
async def test_a_body_of_the_most_bytes_is_read(parts: list[bytes]) -> None:
    async with asking(says(*parts)) as (_, connections):
        assert await ask(connections) == b"x" * MOST_BYTES


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"],  # and nothing more: it is not waited for
        [b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MOST_BYTES + 1)],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1_001],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 300],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n" * 300],
    ],
    ids=["by its length", "until the end of the connection", "chunked", "in crumbs", "hints only"],
)
async def test_an_answer_beyond_the_bound_is_not_read_any_further(parts: list[bytes]) -> None:
    async with asking(says(*parts)) as (backend, connections):
        with pytest.raises(AnswerTooLong):
            await ask(connections)
        await backend.ended.wait()  # the connection is closed


async def test_of_ten_megabytes_the_least_part_is_read() -> None:
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while written < 10 << 20:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    async with asking(serve) as (backend, connections):
        with pytest.raises(AnswerTooLong):
            await ask(connections)
        await backend.ended.wait()
        assert written < 10 << 20


@pytest.mark.parametrize("whole", [True, False])
async def test_what_a_judge_refuses_ends_the_question_and_a_whole_response_leaves_the_connection(whole: bool) -> None:
    moved = response(b"moved", "302 Found")
    sent = moved if whole else moved[:-1]

    def refuse(status: int, headers: Headers) -> None:
        raise LookupError(status, dict(headers)[b"content-length"])

    async with asking(says(sent)) as (backend, connections):
        for _ in range(2):
            with pytest.raises(LookupError, match=r"302.*5"):
                await connections.post(b"/", [(b"Host", b"x"), (b"Content-Length", b"2")], b"{}", refuse)
        assert backend.opened == (1 if whole else 2)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["another protocol", "a head without an end", "a length that is none"],
)
async def test_what_is_no_http_ends_the_question(said: bytes) -> None:
    async with asking(says(said)) as (backend, connections):
        with pytest.raises(h11.ProtocolError):
            await ask(connections)
        await backend.ended.wait()


@pytest.mark.parametrize("parts", [[b""], [response(b"{}")[:-1], b""]], ids=["before the answer", "in the answer"])
async def test_a_connection_that_ends_too_early_ends_the_question(parts: list[bytes]) -> None:
    async with asking(says(*parts)) as (_, connections):
        with pytest.raises((OSError, h11.ProtocolError)):
            await ask(connections)


async def test_a_question_that_is_cancelled_closes_its_connection() -> None:
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()

    async with asking(serve) as (backend, connections):
        task = asyncio.create_task(ask(connections))
        await asked.wait()
        task.cancel()
        await backend.ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_to_close_them_ends_what_is_under_way() -> None:
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()

    async with asking(serve) as (backend, connections):
        task = asyncio.create_task(ask(connections))
        await asked.wait()
        connections.close()
        with pytest.raises(ConnectionError):
            await task
        await backend.ended.wait()


async def test_what_has_come_unread_behind_an_answer_is_not_read_as_the_next_one() -> None:
    """The event loop had other things to do when it came."""
    written, opened = threading.Event(), 0

    def serve() -> None:
        nonlocal opened
        for extra in (response(b'{"of":"another"}'), b""):
            taken, _ = server.accept()
            with taken, contextlib.suppress(ConnectionError):
                opened += 1
                taken.recv(1_000)
                taken.sendall(response(b"{}"))
                if extra:
                    go.wait(5)
                    taken.sendall(extra)
                    written.set()
                taken.recv(1_000)

    go = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        thread = threading.Thread(target=serve)
        thread.start()
        connections = Connections("127.0.0.1", server.getsockname()[1], tls=None, most_bytes=MOST_BYTES, kept_s=LONG_S)
        try:
            async with asyncio.timeout(30):
                assert await ask(connections) == b"{}"
                go.set()
                assert written.wait(5)  # the event loop does nothing meanwhile
                assert await ask(connections) == b"{}"
            assert opened == 2
        finally:
            connections.close()
            await asyncio.to_thread(thread.join)


async def test_an_address_that_does_not_answer_does_not_keep_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have an address of IPv6 that leads nowhere."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
        port = silent.getsockname()[1]
        for _ in range(4):  # once they wait to be accepted, nothing answers to more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        server = await asyncio.start_server(Backend(says(response(b"{}"))).run, "127.0.0.1", port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
        connections = Connections("backend.test", port, tls=None, most_bytes=MOST_BYTES, kept_s=LONG_S)

        async def ask_once() -> bytes:
            async def getaddrinfo(*_: object, **__: object) -> object:
                return found

            monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", getaddrinfo)
            try:
                async with asyncio.timeout(30):
                    return await ask(connections)
            finally:
                connections.close()

        try:
            assert await ask_once() == b"{}"
        finally:
            server.close()
