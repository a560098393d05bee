"""Keeps HTTP/1.1 connections to one backend; on each one question at a time.

**Purpose.** The edge asks hooks from its own event loop, between the messages of clients. So a question must cost
little, and an answer that is too long must not be read.

**Rules.**

1. Reading and writing of HTTP is done by h11. Here are only the connections: asyncio opens them and TLS is its own.
2. A response is judged when its head is there. Its body has a bound, and so has the number of pieces it comes in,
   since each takes time. What is refused by any of these is not read any further: a `Content-Length` above the bound
   is refused before a byte of the body.
3. A connection is used again only if the response is complete and nothing followed it. Bytes that come while nothing
   is asked close it. They would be read as the answer to the next question, which may be about another user. Before
   each question the socket is asked, too: the event loop may not have got to them yet.
4. An unused connection is closed after `kept_s`. How many there are is bounded by the caller, who bounds questions.
5. A question that is cancelled closes its connection. Nothing is sent twice.
6. If an address of a name does not answer within 0.25 s, the next one is tried as well.

**Trade-off.** These are 200 lines of our own where an HTTP client could be. httpcore takes six times the CPU, and
aiohttp breaks rule 3. Decision, with figures: docs/decisions/0048-hooks.md.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from asyncio.staggered import staggered_race
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import h11

_MOST_HEAD_BYTES = 16_384  # of a response; h11 refuses what is longer
_NEXT_ADDRESS_S = 0.25  # as RFC 8305 recommends
_PIECE_BYTES = 256  # the least that a piece of a body has on average; the first 256 pieces may be shorter

Headers = Sequence[tuple[bytes, bytes]]  # the names of a response are lower case
Judge = Callable[[int, Headers], None]  # takes status and headers; raises what the question ends with


class AnswerTooLong(Exception):
    """The body of a response is over the bound."""


class _Connection(asyncio.Protocol):
    """One connection. `on_unusable` is called once, when it can't be used any more."""

    def __init__(self, most_bytes: int, on_unusable: Callable[[_Connection], None]) -> None:
        self._most_bytes, self._on_unusable = most_bytes, on_unusable
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD_BYTES)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[bytes] | None = None
        self._judge: Judge
        self._body = bytearray()
        self.unused_since = 0.0  # time of the event loop

        self._pieces = 0
        self._refused: Exception | None = None  # what the judge raised

    @property
    def is_usable(self) -> bool:
        """Whether a question can be asked now."""
        return self._transport is not None and self._http.our_state is h11.IDLE

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come that was not read yet.

        The end of the connection counts as something that has come.
        """
        assert self._transport is not None
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    async def ask(self, target: bytes, headers: Headers, body: bytes, judge: Judge) -> bytes:
        """Return the body of the response to a POST. Closes the connection if that fails."""
        assert self._transport is not None
        self._judge, self._refused, self._body, self._pieces = judge, None, bytearray(), 0
        self._waiter = asyncio.get_running_loop().create_future()
        http = self._http
        parts = (
            http.send(h11.Request(method=b"POST", target=target, headers=list(headers))),
            http.send(h11.Data(data=body)),
            http.send(h11.EndOfMessage()),
        )
        self._transport.write(b"".join(part or b"" for part in parts))
        try:
            return await self._waiter
        finally:
            self._waiter = None
            if not self.is_usable:
                self.close()

    def close(self) -> None:
        """Close the connection; what is under way on it fails."""
        if self._transport is not None:
            self._transport.abort()
            self._end(ConnectionAbortedError("closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._is_waiting:
            self._read(data)
        else:
            self.close()

    def eof_received(self) -> None:
        if self._is_waiting:
            self._read(b"")  # ends a body without a length
        else:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionResetError("the connection was closed"))

    @property
    def _is_waiting(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _read(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while self._is_waiting:
                event = self._http.next_event()
                if type(event) is h11.Response:
                    self._on_head(event)
                elif type(event) is h11.EndOfMessage:
                    self._on_end()
                elif type(event) is h11.Data:
                    self._on_data(event)
                elif type(event) is h11.InformationalResponse:
                    self._count_piece()
                else:  # h11 has no more
                    break
            if self._is_waiting and self._refused is not None:
                raise self._refused
        except Exception as error:  # of h11, of the judge, or for an answer too long
            self._fail(error)
            self.close()

    def _on_head(self, response: h11.Response) -> None:
        headers = list(response.headers)
        try:
            self._judge(response.status_code, headers)
        except Exception as error:  # raised when it is known whether the response has ended already
            self._refused = error
            return
        length = int(dict(headers).get(b"content-length", b"0"))  # h11 has checked it
        if length > self._most_bytes:
            raise AnswerTooLong(f"the answer has {length:,} bytes, over {self._most_bytes:,}")

    def _on_data(self, data: h11.Data) -> None:
        self._count_piece()
        self._body += data.data
        if len(self._body) > self._most_bytes:
            raise self._refused or AnswerTooLong(f"the answer has over {self._most_bytes:,} bytes")

    def _count_piece(self) -> None:
        self._pieces += 1
        if self._pieces > 256 + self._most_bytes // _PIECE_BYTES:
            raise AnswerTooLong(f"the answer comes in over {self._pieces - 1:,} pieces")

    def _on_end(self) -> None:
        http = self._http
        if not http.trailing_data[0] and http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        if self._refused is not None:
            self._fail(self._refused)
        elif self._waiter is not None:
            self._waiter.set_result(bytes(self._body))

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _end(self, error: Exception) -> None:
        if self._transport is not None:
            self._transport = None
            self._fail(error)
            self._on_unusable(self)


class Connections:
    """The connections to one backend. See the module."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None, most_bytes: int, kept_s: float) -> None:
        """Take the address; connects to nothing yet.

        Args:
            host: A name or an address.
            port: Of the backend.
            tls: Whose certificates are good; None: there is no TLS.
            most_bytes: Longest body of a response.
            kept_s: How long an unused connection is kept, seconds.
        """
        self._host, self._port, self._tls = host, port, tls
        self._most_bytes, self._kept_s = most_bytes, kept_s
        self._open: set[_Connection] = set()
        self._unused: deque[_Connection] = deque()  # the one that was used last at the end
        self._timer: asyncio.TimerHandle | None = None

    async def post(self, target: bytes, headers: Headers, body: bytes, judge: Judge) -> bytes:
        """Return the body of the response to a POST.

        Args:
            target: Path and query.
            headers: All of them, with Host and Content-Length.
            body: What is sent.
            judge: Is called with status and headers of the response; what it raises is raised here.

        Raises:
            AnswerTooLong: the response is longer than `most_bytes`.
            OSError: there is no connection, or it broke.
            h11.ProtocolError: the response is not HTTP/1.1.
        """
        connection = self._take() or await self._connect()
        try:
            return await connection.ask(target, headers, body, judge)
        finally:
            if connection.is_usable:
                self._keep(connection)

    def close(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._open):
            connection.close()

    def _take(self) -> _Connection | None:
        """Return an unused connection; close those that something has come on."""
        while self._unused:
            connection = self._unused.pop()
            if connection.is_silent:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": self._tls, "server_hostname": self._host} if self._tls else {}
        make = lambda: _Connection(self._most_bytes, self._forget)  # noqa: E731
        connected = await _connected_socket(self._host, self._port)
        try:
            _, connection = await loop.create_connection(make, sock=connected, **options)
        except BaseException:
            connected.close()
            raise
        if not connection.is_usable:
            raise ConnectionResetError("the connection was closed")
        self._open.add(connection)
        return connection

    def _keep(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.unused_since = loop.time()
        self._unused.append(connection)
        if self._timer is None:
            self._timer = loop.call_later(self._kept_s, self._close_old)

    def _close_old(self) -> None:
        self._timer, loop = None, asyncio.get_running_loop()
        while self._unused and self._unused[0].unused_since + self._kept_s <= loop.time():
            self._unused.popleft().close()
        if self._unused:
            self._timer = loop.call_at(self._unused[0].unused_since + self._kept_s, self._close_old)

    def _forget(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._unused:
            self._unused.remove(connection)


async def _connected_socket(host: str, port: int) -> socket.socket:
    """Connect to the first address of a host that answers.

    uvloop by itself waits for one after the other.
    """
    loop = asyncio.get_running_loop()

    async def connect(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        made = socket.socket(family, kind, protocol)
        try:
            made.setblocking(False)
            await loop.sock_connect(made, address)
        except BaseException:
            made.close()
            raise
        return made

    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    attempts = [partial(connect, info) for info in found]
    connected, _, errors = await staggered_race(attempts, _NEXT_ADDRESS_S)
    if connected is None:
        raise next(error for error in errors if error is not None)
    return cast(socket.socket, connected)
