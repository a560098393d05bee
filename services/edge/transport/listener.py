"""The public port: state of all connections, and reader of their first request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from services.edge.domain.connections import (
    Authenticator,
    ClientProtocols,
    HandshakeInfo,
    HandshakeRejected,
    Identity,
)
from services.edge.transport.admission import Admission
from services.edge.transport.ending import LINGER_S, Discard
from services.edge.transport.http.connection import Caller
from services.edge.transport.http.handover import HttpHandover
from services.edge.transport.http.head import Head, HeadReader
from services.edge.transport.http.refusal import Refused
from services.edge.transport.metrics import TransportCounters
from services.edge.transport.options import TransportOptions
from services.edge.transport.origins import OriginRules
from services.edge.transport.outbox import Flusher
from services.edge.transport.proxies import TrustedProxies, canonical
from services.edge.transport.proxy_protocol import ProxyHeader
from services.edge.transport.websocket.compressed_connection import CompressedConnection
from services.edge.transport.websocket.connection import WebSocketConnection
from services.edge.transport.websocket.extensions import Compression
from services.edge.transport.websocket.handshake import accept_handshake, read_handshake, refusal_of
from services.shared.errors import ThalamusError
from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)


class Listener:
    """Protocol factory of the public port; knows all open connections.

    Raises:
        ConfigError: an option is wrong.
    """

    def __init__(
        self,
        options: TransportOptions,
        protocols: ClientProtocols,
        http: HttpHandover | None,
        loop: asyncio.AbstractEventLoop,
        authenticator: Authenticator | None = None,
    ) -> None:
        self.options = options
        self.authenticator = authenticator  # None: credentials of handshakes are not read
        self.protocols = protocols
        self.http = http
        self.loop = loop
        self.origins = OriginRules(options.allowed_origins, allow_no_origin=options.allow_no_origin)
        self.proxies = TrustedProxies(options.trusted_proxies)
        if options.proxy_protocol and not self.proxies:
            raise ConfigError("EDGE_PROXY_PROTOCOL needs EDGE_TRUSTED_PROXIES: nobody else's headers are believed")
        self.counters = TransportCounters(protocols.close_codes)
        self.admission = Admission(
            options.max_connections, options.max_connections_per_address, options.new_connections_per_address_per_s
        )
        self.flusher = Flusher(
            loop,
            self.counters,
            max_outbox_bytes=options.max_outbox_bytes,
            max_total_bytes=options.max_outbox_total_bytes,
            max_interval_s=options.max_write_delay_s,
        )
        self.compression = Compression(options.compression_min_bytes, self.counters) if options.compression else None
        self.heads: set[HeadProtocol] = set()
        self.websockets: set[WebSocketConnection] = set()

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a connection that was just accepted."""
        return HeadProtocol(self)

    def websocket_opened(self, connection: WebSocketConnection) -> None:
        """Count a WebSocket connection whose handshake is done."""
        self.websockets.add(connection)
        self.counters.websockets += 1
        self.counters.compressed_websockets += connection.compresses
        self.counters.accepted_websockets += 1

    def websocket_lost(self, connection: WebSocketConnection) -> None:
        """Stop counting a WebSocket connection that has ended."""
        self.websockets.discard(connection)
        self.counters.websockets -= 1
        self.counters.compressed_websockets -= connection.compresses
        self.admission.leave(connection.peer)

    def http_opened(self) -> None:
        """Count an HTTP connection."""
        self.counters.https += 1
        self.counters.accepted_https += 1

    def http_client(self, before: str, client: str) -> None:
        """Count an HTTP connection under the client of its next request.

        `before` is the address that it was counted under until now.

        Raises:
            Refused: 429 if `client` has too many connections.
        """
        if before == client:
            return
        self.admission.move(before, client)
        self.admission.check_address(client)

    def http_lost(self, client: str) -> None:
        """Stop counting an HTTP connection that has ended; `client` sent its last request."""
        self.counters.https -= 1
        self.admission.leave(client)


class HeadProtocol(asyncio.Protocol):
    """First stage of every connection: reads one request head.

    Then a `WebSocketConnection` or an `HttpConnection` takes over the transport, or the request is refused.
    """

    __slots__ = (
        "_client",
        "_discard",
        "_identifying",
        "_peer",
        "_port",
        "_preamble",
        "_reader",
        "_timer",
        "_transport",
    )

    def __init__(self, port: Listener) -> None:
        self._port = port
        self._reader: HeadReader | None = HeadReader()  # None: handed over, refused or dropped
        self._discard: Discard | None = None  # what a refused client still sends
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._preamble: ProxyHeader | None = None  # the PROXY header that must come before the head
        self._peer = ""  # address of the other side: the client, or a proxy
        self._client = ""  # address of the client; "" while it is not known
        self._identifying: asyncio.Task[None] | None = None  # a credential of the handshake is being looked up

    # Called by asyncio.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a TCP socket
        """Count the accepted connection and start the timeout of its head."""
        self._transport = transport
        address = transport.get_extra_info("peername")
        port = self._port
        port.heads.add(self)
        self._set_peer(canonical(str(address[0])) if isinstance(address, tuple) else "")
        if port.options.proxy_protocol and self._peer in port.proxies:
            self._preamble = ProxyHeader()
        if port.admission.enter():
            self._timer = port.loop.call_later(port.options.handshake_timeout_s, self._on_timeout)
        else:
            port.counters.refuse("max_connections")
            self._reader = None
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read the PROXY header, if one is due, and the head; then hand over or refuse."""
        reader = self._reader
        if reader is None:
            if self._discard is not None:
                self._discard.count(len(data))
            return
        try:
            if self._preamble is not None:
                rest = self._preamble.feed(data)
                if rest is None:
                    return
                self._set_peer(self._preamble.source or self._peer)
                self._preamble = None
                data = rest
            head = reader.feed(data)
            if head is not None:
                self._set_client(self._port.proxies.client_of(self._peer, head.all("x-forwarded-for")))
                self._port.admission.check(self._client)
                self._hand_over(head, reader)
        except Refused as refused:
            self._refuse(refused)

    def eof_received(self) -> None:
        """Do nothing: asyncio closes the transport when the client closes its side."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting a connection that was not handed over."""
        if self._identifying is not None:
            self._identifying.cancel()
        self._finish()
        self._port.admission.leave(self._client)

    # Address of the client.

    def _set_peer(self, address: str) -> None:
        """Note the peer's address.

        If it is not a trusted proxy's, it is the client's, too. Otherwise the client is known after the head.
        """
        self._peer = address
        if address not in self._port.proxies:
            self._set_client(address)

    def _set_client(self, address: str) -> None:
        """Note the client's address, and count the connection under it."""
        self._port.admission.move(self._client, address)
        self._client = address

    # After the head.

    def _hand_over(self, head: Head, reader: HeadReader) -> None:
        """Give the connection to WebSocket or HTTP, by the path of the head.

        Raises:
            Refused: neither takes it.
        """
        port, transport = self._port, self._transport
        assert transport is not None
        if port.protocols.serves(head.path):
            self._hand_over_websocket(head, reader, transport)
        elif port.http is None:
            raise Refused(404, "not_found")
        else:
            self._finish()
            self._reader = None
            port.http_opened()
            caller = Caller(self._peer, self._client, port.http_client, port.counters.refuse, port.http_lost)
            port.http.adopt(transport, head, reader.rest(), caller)

    def _hand_over_websocket(self, head: Head, reader: HeadReader, transport: asyncio.Transport) -> None:
        """Check the handshake and its credential, then open the WebSocket."""
        port = self._port
        port.admission.check_new(self._client)
        info = read_handshake(head, self._client, port.origins)
        if reader.rest():
            raise Refused(400, "pipelined", "bytes follow the handshake before its response")
        if port.authenticator is None:
            self._open_websocket(head, info, transport)
            return
        try:
            found = port.authenticator.identify(info)
        except HandshakeRejected as error:
            raise refusal_of(error) from None
        except ThalamusError as error:
            raise _unavailable() from error
        if found is None or isinstance(found, Identity):
            self._open_websocket(head, info if found is None else replace(info, identity=found), transport)
        else:
            self._reader = None
            transport.pause_reading()
            self._identifying = port.loop.create_task(self._identify_later(found, head, info, transport))

    async def _identify_later(
        self,
        looking_up: Coroutine[Any, Any, Identity | None],
        head: Head,
        info: HandshakeInfo,
        transport: asyncio.Transport,
    ) -> None:
        """Look up a credential, then open the WebSocket or refuse it.

        The timeout of the handshake goes on. A ticket that was looked up is used, also if the connection is refused.
        """
        try:
            try:
                identity = await looking_up
            except HandshakeRejected as error:
                raise refusal_of(error) from None
            except ThalamusError as error:
                raise _unavailable() from error
            except Exception as error:
                logger.exception("a credential could not be looked up")
                raise Refused(500, "handler") from error
            if not transport.is_closing():
                self._port.admission.check(self._client)  # the edge may have begun to drain meanwhile
                self._open_websocket(head, replace(info, identity=identity), transport)
                transport.resume_reading()
        except Refused as refused:
            if not transport.is_closing():
                self._refuse(refused)
                transport.resume_reading()  # what it still sends is discarded

    def _open_websocket(self, head: Head, info: HandshakeInfo, transport: asyncio.Transport) -> None:
        port = self._port
        handshake = accept_handshake(head, info, port.protocols, port.compression)
        choice = handshake.choice
        most = min(choice.max_message_bytes or port.options.max_message_bytes, port.options.max_message_bytes)
        compressor = handshake.compressor
        connection = (
            WebSocketConnection(port, transport, self._client, max_message_bytes=most)
            if compressor is None
            else CompressedConnection(port, transport, self._client, max_message_bytes=most, compressor=compressor)
        )
        try:
            handler = choice.open(connection)
        except Exception as error:
            logger.exception("no handler for a connection")
            raise Refused(500, "handler") from error
        self._finish()
        self._reader = None
        transport.write(handshake.response)
        transport.set_protocol(connection)
        port.websocket_opened(connection)
        connection.open(handler)

    def _refuse(self, refused: Refused) -> None:
        """Send the error response, half-close, and give the client `LINGER_S` to read it."""
        transport = self._transport
        assert transport is not None
        self._reader = None
        self._port.counters.refuse(refused.reason)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._port.loop.call_later(LINGER_S, transport.abort)
        self._discard = Discard(transport)
        transport.write(refused.response())
        transport.write_eof()

    def _on_timeout(self) -> None:
        self._port.counters.refuse("timeout")
        self.abort()

    def abort(self) -> None:
        """End the connection without a response."""
        self._reader = None
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        """Stop the timeout of the head, and forget this stage of the connection."""
        self._port.heads.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _unavailable() -> Refused:
    """Return the refusal of a credential that can't be judged at present."""
    return Refused(503, "credentials_unavailable", headers=("Retry-After: 1",))
