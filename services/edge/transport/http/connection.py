"""One HTTP/1.1 connection: one request after the other, all with the same limits.

**Purpose.** HTTP shares the public port with WebSocket. The first head was read by `listener.HeadProtocol`; this
protocol reads every later one with the same `HeadReader`, so the second request of a connection can't be understood
differently from the first. A client must not use more memory or time by sending many requests at once.

**Rules.**

1. One request runs at a time. What comes behind it stays unread bytes in `_waiting`: 16 KiB and one read of the event
   loop at most. Beyond that reading pauses, and TCP holds back the rest.
2. The next request begins when the response is written and the client has read enough of it (`_writable` is None).
3. A request body is passed on as it comes. Reading pauses while the application has more than 64 KiB of it untaken.
   A chunked body is read 192 lines at a time, then other connections get a turn.
4. There is one timer: for the head, for the request until the end of its response, for an idle connection, or for the
   end. When it fires, the connection is cut; an idle one is closed in order.
5. A violation of HTTP is answered with an error status, and the connection ends. If the response has started already,
   the connection breaks: a half response can't be corrected.
6. Behind a trusted proxy each request may come from another client, which is counted anew (`Caller.on_client`).

**End.** If unread bytes may be left, the connection ends by `ending.Ending`, so that no RST overtakes the response. A
client that has closed its side still gets the responses to what it sent completely.

**Example.** A client sends three requests in one segment. The first runs; the bytes of the others stay in `_waiting`.
When the first response is written, the next tick of the loop reads the second head.

**Trade-offs.** Pipelined requests never run side by side. The code is ours to keep correct; docs/decisions/0013 says
why no HTTP library fits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import Scope

from services.edge.transport.delivery import taken_and_under_way
from services.edge.transport.ending import Ending
from services.edge.transport.http.body import BodyReader
from services.edge.transport.http.exchange import Exchange
from services.edge.transport.http.head import MAX_HEAD_BYTES, Head, HeadReader
from services.edge.transport.http.refusal import Refused

if TYPE_CHECKING:
    from services.edge.transport.http.handover import HttpHandover

_MAX_WAITING_BYTES = 16_384  # unread bytes behind the running request from which on reading pauses
_WEBSOCKET_TOO_LATE = ("used", "open a connection of its own for WebSocket", ("Upgrade: websocket",))


@dataclass(slots=True)
class Caller:
    """Origin of the requests of one connection, and callbacks to its owner."""

    peer: str  # address of the other side, which may be a load balancer
    client: str  # address of the client that sent the last request
    on_client: Callable[[str, str], None]  # called with the last client and the next; raises `Refused` to refuse it
    on_refused: Callable[[str], None]  # called with the reason of a refusal
    on_lost: Callable[[str], None]  # called with the last client when the connection has ended


class HttpConnection(asyncio.Protocol):
    """Protocol of one HTTP connection, from its first complete head on."""

    __slots__ = (
        "_body",
        "_caller",
        "_ending",
        "_eof",
        "_exchange",
        "_handover",
        "_head",
        "_paused",
        "_server",
        "_slow_end",
        "_timer",
        "_transport",
        "_turn_is_due",
        "_waiting",
        "_writable",
    )

    def __init__(self, handover: HttpHandover, transport: asyncio.Transport, caller: Caller) -> None:
        self._handover = handover
        self._transport = transport
        self._caller = caller
        self._server = tuple((transport.get_extra_info("sockname") or ())[:2]) or None
        self._waiting = bytearray()  # received and not read yet
        self._head: HeadReader | None = None  # reads a head that has begun
        self._body: BodyReader | None = None  # reads a body that is not complete
        self._exchange: Exchange | None = None  # the request that is being answered
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Event | None = None  # exists while the client reads too slowly; set when it has read
        self._paused = False  # reading is paused
        self._turn_is_due = False  # `_next_turn` is scheduled, to go on with a chunked body
        self._ending = False  # nothing more is read
        self._slow_end: Ending | None = None  # ends the connection if the client may still send
        self._eof = False  # the client has closed its side

    def begin(self, head: Head, rest: bytes) -> None:
        """Start with the first request, whose head was read, and the bytes behind it."""
        self._waiting += rest
        self._run_step(lambda: self._start(head))
        self._next()

    # Called by asyncio.

    def data_received(self, data: bytes) -> None:
        """Read bytes of the present request or the next ones, or discard them at the end."""
        if not self._ending:
            self._waiting += data
            self._run_step(self._read)
        elif self._slow_end is not None:
            self._slow_end.discard(len(data))

    def eof_received(self) -> bool:
        """Note that the client has closed its side; return whether to keep ours open.

        Requests that it has sent completely are still answered.
        """
        self._eof = True
        has_work = self._turn_is_due or (self._body is None and (self._exchange is not None or bool(self._waiting)))
        keep_open = has_work and not self._ending
        if not keep_open:
            self._lose_exchange()
        return keep_open

    def pause_writing(self) -> None:
        """Note that the client reads too slowly: responses and further requests wait."""
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """Go on after the client has read."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        if not self._ending:
            self._run_step(self._read)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything, and tell the application and the owner."""
        self._ending = True
        self._set_timer(None)
        if self._slow_end is not None:
            self._slow_end.cancel()
            self._slow_end = None
        self._waiting.clear()
        self._lose_exchange()
        self._head = self._body = None
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        self._handover.connections.discard(self)
        self._caller.on_lost(self._caller.client)

    # Called by the handover.

    def shut_down(self) -> None:
        """Close the connection now if it is idle, else after the present response."""
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif not self._ending:
            self._close()

    def abort(self) -> None:
        """Cut the connection now."""
        self._ending = True
        self._transport.abort()

    # Called by the exchange: `Line`.

    def write(self, data: bytes) -> None:
        """Send bytes; no effect once the connection is closing."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def writable(self) -> None:
        """Wait while the client reads too slowly."""
        while self._writable is not None:
            await self._writable.wait()

    def body_taken(self) -> None:
        """Read more of the body, if reading was paused for it."""
        self._pause_or_resume()

    def answered(self, *, whole: bool) -> None:
        """Go on with the next request, or close the connection if it is not kept alive.

        The next request starts in another tick, so that other connections get a turn. A response that is not `whole`
        cuts the connection.
        """
        exchange, self._exchange = self._exchange, None
        if not whole:
            self.abort()
        elif exchange is not None and not exchange.keep_alive:
            self._close()
        else:
            self._handover.loop.call_soon(self._next)

    # Reading.

    def _run_step(self, step: Callable[[], None]) -> None:
        """Run a step of reading, refuse a violation, then pause or resume reading."""
        try:
            step()
        except Refused as refused:
            self._refuse(refused)
        self._pause_or_resume()

    def _next(self) -> None:
        if not self._ending:
            self._run_step(self._read)

    def _next_turn(self) -> None:
        self._turn_is_due = False
        self._next()

    def _read(self) -> None:
        """Process received bytes as far as allowed now, then set the timer or close."""
        while self._waiting and not self._ending:
            if self._body is not None:
                self._read_body(self._body)
                if self._waiting and self._body is not None:  # many small chunks: other connections come first
                    self._arrange_turn()
                    return
            elif self._exchange is not None or self._writable is not None:
                break
            else:
                self._read_head()
        if self._eof and self._body is not None and not self._ending:  # the rest of the body will never come
            self._lose_exchange()
            self._close()
        elif self._exchange is None and self._body is None and not self._ending:
            self._wait_for_request()

    def _arrange_turn(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._handover.loop.call_soon(self._next_turn)

    def _read_body(self, body: BodyReader) -> None:
        part = body.read(self._waiting)
        if body.is_whole:
            self._body = None
        if self._exchange is not None:
            self._exchange.add(part, has_more=not body.is_whole)

    def _read_head(self) -> None:
        reader = self._head
        if reader is None:
            reader = self._head = HeadReader()
            self._set_timer(self._handover.options.handshake_timeout_s)
        # Take one head only; what comes behind it stays in `_waiting`.
        end = self._waiting.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) + 4
        data = bytes(memoryview(self._waiting)[: end if end > 3 else len(self._waiting)])
        del self._waiting[: len(data)]
        head = reader.feed(data)
        if head is not None:
            if rest := reader.rest():
                self._waiting[:0] = rest
            self._start(head)

    def _wait_for_request(self) -> None:
        """Set the timer while no request runs; close if the client has closed its side.

        The next request may not have begun, may be incomplete, or may wait until the client has read.
        """
        options = self._handover.options
        if self._eof and not self._waiting:  # otherwise more requests are answered once the client has read
            self._close()
        elif self._writable is not None:
            if self._timer is None:
                self._set_timer(options.http_request_timeout_s)
        elif self._head is None:
            self._set_timer(options.http_keep_alive_s, self._close)

    def _start(self, head: Head) -> None:
        """Run the request of a complete head.

        Raises:
            Refused: 429 if its client has too many connections, 426 if it wants the WebSocket endpoint.
        """
        handover, caller = self._handover, self._caller
        self._head = None
        self._set_timer(handover.options.http_request_timeout_s)
        if caller.peer in handover.proxies:
            client = handover.proxies.client_of(caller.peer, head.all("x-forwarded-for"))
            before, caller.client = caller.client, client
            caller.on_client(before, client)
        if handover.is_websocket(head.path):
            raise Refused(426, *_WEBSOCKET_TOO_LATE)
        body = BodyReader(head)
        connection = {token.lower() for token in head.tokens("connection")}
        # After a request to upgrade, which is not accepted here, the client might send another protocol.
        keep_alive = head.version == (1, 1) and not connection & {"close", "upgrade"} and not handover.is_draining
        exchange = Exchange(
            self,
            self._scope(head),
            handover.headers,
            has_body=not body.is_whole,
            keep_alive=keep_alive,
            expects_continue=head.version == (1, 1) and "100-continue" in map(str.lower, head.all("expect")),
        )
        self._exchange = exchange
        self._body = None if body.is_whole else body
        handover.run(exchange)

    def _scope(self, head: Head) -> Scope:
        caller = self._caller
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": f"{head.version[0]}.{head.version[1]}",
            "method": head.method,
            "scheme": self._handover.proxies.scheme_of(caller.peer, head.all("x-forwarded-proto"), "http"),
            "path": head.path,
            "raw_path": head.raw_path.encode("ascii"),
            "query_string": head.query.encode("ascii"),
            "root_path": "",
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, values in head.headers.items()
                for value in values
            ],
            "client": (caller.client, 0) if caller.client else None,  # 0: the port is not passed on
            "server": self._server,
            "state": {},
        }

    def _pause_or_resume(self) -> None:
        """Pause reading while enough bytes wait; resume it otherwise."""
        if self._ending or self._eof or self._transport.is_closing():
            return
        exchange = self._exchange
        pause = len(self._waiting) > _MAX_WAITING_BYTES or (exchange is not None and not exchange.wants_body)
        if pause and not self._paused:
            self._transport.pause_reading()
        elif self._paused and not pause:
            self._transport.resume_reading()
        self._paused = pause

    # The end.

    def _refuse(self, refused: Refused) -> None:
        exchange = self._exchange
        self._lose_exchange()
        self._caller.on_refused(refused.reason)
        if exchange is not None and exchange.has_started:  # the body is malformed; a half response can't be corrected
            self.abort()
            return
        self.write(refused.response())
        self._end_slowly()

    def _close(self) -> None:
        """Close the connection once everything is written."""
        if self._body is not None or self._waiting or self._paused:
            self._end_slowly()
            return
        self._ending = True
        self._set_timer(self._handover.options.http_request_timeout_s)  # in case that the client does not read
        self._transport.close()

    def _end_slowly(self) -> None:
        """Close our side only, and wait while the client reads.

        Closing a socket with unread bytes would reset the connection.
        """
        self._ending = True
        self._body = self._head = None
        self._waiting.clear()
        options = self._handover.options
        self._set_timer(options.http_request_timeout_s)  # the end in any case, however slowly the client reads
        if not self._transport.is_closing():
            self._slow_end = Ending(self._handover.loop, self._transport, self._delivery, resets=False)
            self._slow_end.once_delivered(options.close_timeout_s)
            self._transport.write_eof()

    def _delivery(self) -> tuple[int, int]:
        held = self._transport.get_write_buffer_size()
        return taken_and_under_way(self._transport) or (-held, held)

    def _lose_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost()

    def _set_timer(self, delay_s: float | None, then: Callable[[], None] | None = None) -> None:
        """Replace the timer: call `then` (default: `abort`) after `delay_s`; None: none."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None else self._handover.loop.call_later(delay_s, then or self.abort)
