"""A connection that speaks HTTP: one request after the other, each read and bounded as the first one."""

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

# Of requests behind the one that runs, before reading pauses; what one more read brings comes on top.
_MAX_WAITING_BYTES = 16_384
_WEBSOCKET_TOO_LATE = ("used", "open a connection of its own for WebSocket", ("Upgrade: websocket",))


@dataclass(slots=True)
class Caller:
    """Where the requests of one connection come from, and who wants to know."""

    peer: str  # a balancer's address, maybe
    client: str  # the address whose request came last
    on_client: Callable[[str, str], None]  # the last one and the next one; raises `Refused` where it is not let in
    on_refused: Callable[[str], None]  # the reason
    on_lost: Callable[[str], None]  # the end, with the last client


class HttpConnection(asyncio.Protocol):
    """Reads a head and a body, has the application answer, and only then looks at what came behind."""

    __slots__ = (
        "_body",
        "_caller",
        "_ending",
        "_eof",
        "_exchange",
        "_handover",
        "_head",
        "_last_moments",
        "_paused",
        "_server",
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
        self._waiting = bytearray()  # bytes that nobody has looked at
        self._head: HeadReader | None = None  # of a request that has begun
        self._body: BodyReader | None = None  # of the request whose body is still to come
        self._exchange: Exchange | None = None  # the request that is being answered
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Event | None = None  # while the client reads too little
        self._paused = False
        self._turn_is_due = False  # to go on with a body that is there already
        self._ending = False  # nothing more is read
        self._last_moments: Ending | None = None  # where more may come than was read
        self._eof = False

    def begin(self, head: Head, rest: bytes) -> None:
        """The first request, whose head is read, and what came behind it."""
        self._waiting += rest
        self._guarded(lambda: self._start(head))
        self._next()

    # From asyncio.

    def data_received(self, data: bytes) -> None:
        """Bytes of this request or the next ones."""
        if not self._ending:
            self._waiting += data
            self._guarded(self._read)
        elif self._last_moments is not None:
            self._last_moments.discard(len(data))

    def eof_received(self) -> bool:
        """The client sends nothing more, but what it has sent whole is answered."""
        self._eof = True
        has_work = self._turn_is_due or (self._body is None and (self._exchange is not None or bool(self._waiting)))
        keep_open = has_work and not self._ending
        if not keep_open:
            self._lose_exchange()
        return keep_open

    def pause_writing(self) -> None:
        """The client reads too little of what is sent."""
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """The client has read."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        if not self._ending:
            self._guarded(self._read)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._ending = True
        self._set_timer(None)
        if self._last_moments is not None:
            self._last_moments.cancel()
            self._last_moments = None
        self._waiting.clear()
        self._lose_exchange()
        self._head = self._body = None
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        self._handover.connections.discard(self)
        self._caller.on_lost(self._caller.client)

    # From the handover.

    def shut_down(self) -> None:
        """End when nothing is being answered, else behind the response."""
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif not self._ending:
            self._close()

    def abort(self) -> None:
        """End now."""
        self._ending = True
        self._transport.abort()

    # From the exchange: `Line`.

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def writable(self) -> None:
        """Wait while the client reads too little."""
        while self._writable is not None:
            await self._writable.wait()

    def body_taken(self) -> None:
        """There is room for more of the body."""
        self._pause_or_resume()

    def answered(self, *, whole: bool) -> None:
        """The response is written: on to the next request, later, so that others have their turn."""
        exchange, self._exchange = self._exchange, None
        if not whole:
            self.abort()
        elif exchange is not None and not exchange.keep_alive:
            self._close()
        else:
            self._handover.loop.call_soon(self._next)

    # Reading.

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Refused as refused:
            self._refuse(refused)
        self._pause_or_resume()

    def _next(self) -> None:
        if not self._ending:
            self._guarded(self._read)

    def _next_turn(self) -> None:
        self._turn_is_due = False
        self._next()

    def _read(self) -> None:
        """Take what has come as far as it may be taken now."""
        while self._waiting and not self._ending:
            if self._body is not None:
                self._read_body(self._body)
                if self._waiting and self._body is not None:  # many small chunks: others come first
                    self._arrange_turn()
                    return
            elif self._exchange is not None or self._writable is not None:
                break
            else:
                self._read_head()
        if self._eof and self._body is not None and not self._ending:  # the rest of the body will not come
            self._lose_exchange()
            self._close()
        elif self._exchange is None and self._body is None and not self._ending:
            self._wait_for_request()

    def _arrange_turn(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._handover.loop.call_soon(self._next_turn)

    def _read_body(self, body: BodyReader) -> None:
        part = body.take(self._waiting)
        if body.is_whole:
            self._body = None
        if self._exchange is not None:
            self._exchange.add(part, has_more=not body.is_whole)

    def _read_head(self) -> None:
        reader = self._head
        if reader is None:
            reader = self._head = HeadReader()
            self._set_timer(self._handover.options.handshake_timeout_s)
        # One head at a time: what comes behind it stays where it is.
        end = self._waiting.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) + 4
        data = bytes(memoryview(self._waiting)[: end if end > 3 else len(self._waiting)])
        del self._waiting[: len(data)]
        head = reader.feed(data)
        if head is not None:
            if rest := reader.rest():
                self._waiting[:0] = rest
            self._start(head)

    def _wait_for_request(self) -> None:
        """Nothing is being answered: the next request may begin, go on, or wait until the client has read."""
        options = self._handover.options
        if self._eof and not self._waiting:  # else more is asked for, once the client has read
            self._close()
        elif self._writable is not None:
            if self._timer is None:
                self._set_timer(options.http_request_timeout_s)
        elif self._head is None:
            self._set_timer(options.http_keep_alive_s, self._close)

    def _start(self, head: Head) -> None:
        """A head is whole: its request runs."""
        handover, caller = self._handover, self._caller
        self._head = None
        self._set_timer(handover.options.http_request_timeout_s)
        if caller.peer in handover.proxies:
            client = handover.proxies.client_of(caller.peer, head.all("x-forwarded-for"))
            before, caller.client = caller.client, client
            caller.on_client(before, client)
        if head.path == handover.options.websocket_path:
            raise Refused(426, *_WEBSOCKET_TOO_LATE)
        body = BodyReader(head)
        connection = {token.lower() for token in head.tokens("connection")}
        # Behind an upgrade that is not taken might come another protocol.
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
            "client": (caller.client, 0) if caller.client else None,  # its port is not told
            "server": self._server,
            "state": {},
        }

    def _pause_or_resume(self) -> None:
        """Read no more than can be worked on."""
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
        if exchange is not None and exchange.has_started:  # its body broke a rule: half a response is not to be mended
            self.abort()
            return
        self.write(refused.response())
        self._end_slowly()

    def _close(self) -> None:
        """End TCP once all is written."""
        if self._body is not None or self._waiting or self._paused:
            self._end_slowly()
            return
        self._ending = True
        self._set_timer(self._handover.options.http_request_timeout_s)  # a client can put off reading
        self._transport.close()

    def _end_slowly(self) -> None:
        """Half-close, and wait while the client reads: closing on unread bytes would reset the connection."""
        self._ending = True
        self._body = self._head = None
        self._waiting.clear()
        options = self._handover.options
        self._set_timer(options.http_request_timeout_s)  # whatever it takes meanwhile
        if not self._transport.is_closing():
            self._last_moments = Ending(self._handover.loop, self._transport, self._delivery, resets=False)
            self._last_moments.once_delivered(options.close_timeout_s)
            self._transport.write_eof()

    def _delivery(self) -> tuple[int, int]:
        held = self._transport.get_write_buffer_size()
        return taken_and_under_way(self._transport) or (-held, held)

    def _lose_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost()

    def _set_timer(self, delay_s: float | None, then: Callable[[], None] | None = None) -> None:
        """Have this done that much later unless another time is set before; by default the connection is cut."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None else self._handover.loop.call_later(delay_s, then or self.abort)
