"""Connections that are not WebSocket: uvicorn's own HTTP protocol, within our bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from services.edge.transport.http_head import MAX_HEAD_BYTES, MAX_HEADERS, MAX_LINE_BYTES
from services.edge.transport.options import TransportOptions
from services.edge.transport.proxies import TrustedProxies
from services.edge.transport.refusal import Refused

_DATE_EVERY_S = 1.0
_REFUSED = "thalamus.refused"  # in the scope of a request that is not let in


class HttpHandover:
    """Serves an ASGI application on connections whose first head has been read and found good."""

    def __init__(self, app: ASGIApp, options: TransportOptions) -> None:
        self._options = options
        self._proxies = TrustedProxies(options.trusted_proxies)
        self._config = uvicorn.Config(
            _guarded(app, options.websocket_path),
            log_config=None,
            log_level="error",  # below, uvicorn logs a line for each malformed request
            access_log=False,
            lifespan="off",
            ws="none",
            http="httptools",
            interface="asgi3",
            proxy_headers=False,  # they are read by the rules that WebSocket connections follow
            server_header=False,
            timeout_keep_alive=options.http_keep_alive_s,
        )
        self._config.load()
        self._state = ServerState()
        self._date_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Keep the Date header current, as uvicorn's own server would; until `close`."""
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        self._date_timer = asyncio.get_running_loop().call_later(_DATE_EVERY_S, self.start)

    def take(
        self,
        transport: asyncio.Transport,
        data: bytes,
        peer: str,
        client: str,
        *,
        on_client: Callable[[str, str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Serve this connection, of which these bytes have been read.

        Args:
            transport: Of the connection.
            data: All that came, from the first request's first byte.
            peer: Address that requests come from, a balancer's maybe.
            client: Address whose request came first.
            on_client: Called with that address and the next one: a balancer sends requests of many over a connection.
                Raises `Refused` where the next one is not let in.
            on_lost: Called at the end, with the client of the last request.
        """
        places = _Places(peer, client, on_client, on_lost)
        protocol = _GuardedHttp(self._config, self._state, self._options, self._proxies, places)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def shut_down(self) -> None:
        """End idle connections, and the others once their response is written."""
        for connection in list(self._state.connections):
            connection.shutdown()

    async def close(self, grace_s: float) -> None:
        """End all connections; requests still running after `grace_s` are cancelled."""
        self.shut_down()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=grace_s)
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=grace_s)
        if self._date_timer is not None:
            self._date_timer.cancel()
            self._date_timer = None


@dataclass(slots=True)
class _Places:
    """Where the requests of one connection come from; see `HttpHandover.take`."""

    peer: str
    client: str
    on_client: Callable[[str, str], None]
    on_lost: Callable[[str], None]


class _GuardedHttp(HttpToolsProtocol):
    """uvicorn's protocol with bounds on the heads of later requests and on the time that each request takes."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        options: TransportOptions,
        proxies: TrustedProxies,
        places: _Places,
    ) -> None:
        super().__init__(config, state, app_state={})
        self._options = options
        self._proxies = proxies
        self._is_proxied = places.peer in proxies
        self._places = places
        self._in_head = False
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a socket
        """The connection is ours now."""
        super().connection_made(transport)
        self._client_is(self._places.peer)

    def data_received(self, data: bytes) -> None:
        """Bytes of requests; before a request begins, blank lines are bytes of its head."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self._in_head and self._deadline is None:
            self._end_within(self._options.handshake_timeout_s)
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head is too long.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._end_within(None)
        super().connection_lost(exc)
        self._places.on_lost(self._places.client)

    # From the parser. An exception here makes uvicorn answer 400 and close.

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._end_within(self._options.handshake_timeout_s)

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        super().on_url(url)
        if len(self.url) > MAX_LINE_BYTES:
            raise ValueError("request line too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One whole header."""
        if len(name) + len(value) > MAX_LINE_BYTES or len(self.headers) == MAX_HEADERS:
            raise ValueError("header too long, or too many")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole; the request starts to run."""
        self._in_head = False
        if sum(name == b"host" for name, _ in self.headers) != 1 and self.parser.get_http_version() == "1.1":
            raise ValueError("exactly one Host header is needed")
        self._end_within(self._options.http_request_timeout_s)
        if self._is_proxied:
            self._believe()
        super().on_headers_complete()
        if self.parser.should_upgrade():  # what follows might be another protocol
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """The response is written; the next request may be waiting already."""
        if self.transport.is_closing():  # once its buffer is written, which a client can put off
            self._end_within(self._options.http_request_timeout_s)
        elif not self._in_head:
            self._end_within(self._options.http_request_timeout_s if self.pipeline else None)
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while."""
        self._end_within(self._options.http_request_timeout_s)
        super().timeout_keep_alive_handler()

    def _believe(self) -> None:
        """Take client and scheme of this request from what the proxy says."""
        places = self._places
        client = self._proxies.client_of(places.peer, self._values(b"x-forwarded-for"))
        before, places.client = places.client, client
        try:
            places.on_client(before, client)
        except Refused as refused:
            cast(dict[str, Any], self.scope)[_REFUSED] = refused
        self._client_is(client)
        self.scope["client"] = self.client
        scheme = self._proxies.scheme_of(places.peer, self._values(b"x-forwarded-proto"), self.scope["scheme"])
        self.scope["scheme"] = scheme

    def _values(self, wanted: bytes) -> list[str]:
        return [value.decode("latin-1").strip(" \t") for name, value in self.headers if name == wanted]

    def _client_is(self, address: str) -> None:
        if address and (self.client is None or self.client[0] != address):
            self.client = address, 0  # its port is not told

    def _end_within(self, delay_s: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if delay_s is None else self.loop.call_later(delay_s, self.transport.abort)


def _guarded(app: ASGIApp, websocket_path: str) -> ASGIApp:
    """Answers what the application is not to see.

    Requests for the WebSocket endpoint come here only on connections used for HTTP before: too late to upgrade.
    """
    too_late = Refused(426, "used", "open a connection of its own for WebSocket", ("Upgrade: websocket",))

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        refused: Refused | None = scope.get(_REFUSED) or (too_late if scope["path"] == websocket_path else None)
        if refused is None:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": refused.status, "headers": refused.header_list()})
        await send({"type": "http.response.body", "body": refused.body})

    return guarded
