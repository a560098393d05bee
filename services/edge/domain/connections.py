"""Interfaces between the transport, the client protocols and the domain.

    bytes ↔ `Connection` / `MessageHandler` ↔ client protocol ↔ `Session` / `SessionProtocol` ↔ rules

The transport implements `Connection` and calls a `MessageHandler`, which it got from `ClientProtocols`. The handler is
the object of the client protocol for this one connection: it decodes messages and feeds commands to a `Session`. The
session calls it as `SessionProtocol`, and sends pushes that its `Encoder` has encoded.

Decision: docs/decisions/0029-a-protocol-is-one-folder.md.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.ends import ClientEnd, End
from services.edge.domain.replies import JoinPush, Push, Result


class Connection(Protocol):
    """Sends to one client. Implemented by the transport.

    All methods return at once. After the end of the connection they may still be called and have no effect.
    """

    @property
    def peer(self) -> str:
        """Network address of the client, for logs and limits."""

    def send(self, frame: bytes) -> None:
        """Queue an encoded frame that the client did not ask for.

        Frames that are queued in one tick of the event loop leave in one write. If more than the bound of the outbox
        (1 MiB by default) is queued, the connection drops the queued frames and closes itself: `EndReason.SLOW`.
        """

    def send_ephemeral(self, frame: bytes) -> None:
        """Queue an encoded frame that may be lost.

        It is dropped and counted if it would not fit into a quarter of the bound of the outbox. So it is never the
        reason for which a connection closes.
        """

    def send_reply(self, frame: bytes) -> None:
        """Queue an encoded frame that the client asked for.

        It does not count towards the bound of the outbox. A caller that sends many frames in this way must wait while
        `replies_wait` is true. So the client's own reading limits what is queued.
        """

    @property
    def replies_wait(self) -> bool:
        """Whether more than 64 KiB of replies wait for the client.

        `MessageHandler.replies_taken` is called when that is no longer so.
        """

    def delivery(self) -> tuple[int, int]:
        """Return the bytes that the client's system has confirmed, and those under way.

        The first number only grows. Bytes under way are those that were queued and are not confirmed yet.
        """

    def close(self, code: int, text: str) -> None:
        """Send the queued frames and a close frame, then close our side of TCP.

        Nothing more is read. TCP ends at the latest one second after the client's system has all bytes. A client that
        takes hardly any bytes has 5 s.
        """

    def drop_after(self, delay_s: float) -> None:
        """Read nothing more, and drop the TCP connection after `delay_s` seconds.

        No close frame is sent.
        """

    def pause_reading(self) -> None:
        """Read no more bytes from the client until `resume_reading` is called."""

    def resume_reading(self) -> None: ...

    def send_websocket_ping(self) -> None:
        """Send a WebSocket ping frame.

        The reply arrives as `MessageHandler.control`.
        """


class MessageHandler(Protocol):
    """Receives the events of one connection from the transport.

    No method may raise or block.
    """

    def opened(self) -> None:
        """Note that the handshake is answered. Called once, before all other methods."""

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Take one whole WebSocket message. The transport has checked that text is UTF-8."""

    def control(self, *, pong: bool) -> None:
        """Note a WebSocket pong, or a ping that the transport has answered."""

    def replies_taken(self) -> None:
        """Note that `Connection.replies_wait` has become false."""

    def close_code(self, end: End) -> tuple[int, str]:
        """Return code and text of the close frame for an end that the transport decides.

        The transport decides SLOW, TOO_MANY_REQUESTS (control frames), SHUTDOWN and SERVER_ERROR. The text has at most
        123 bytes.
        """

    def closed(self, how: ClientEnd) -> None:
        """Note that the connection is over. Called exactly once, and last."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, by a verified token of its handshake.

    `is_explicit`: the client has shown it itself; if not, the browser has added a cookie.
    """

    claims: ConnectionClaims
    token: str = field(repr=False)
    is_explicit: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeInfo:
    """What a client says in its WebSocket handshake.

    What may hold a token is not in the text of the object, so it is not logged.
    """

    peer: str  # address of the client, not that of a trusted proxy
    path: str  # of the URL, without the query
    query: Mapping[str, str] = field(repr=False)  # first value of repeated names
    ambiguous: frozenset[str] = frozenset()  # names in the query with values that differ
    offers: Sequence[str] = field(default=(), repr=False)  # subprotocols, the preferred one first
    origin: str | None = None
    host: str = ""  # that the client asks for; may have a port
    authorization: Sequence[str] = field(default=(), repr=False)  # values of the header
    cookies: Sequence[str] = field(default=(), repr=False)  # values of the header, each with any number of cookies
    identity: Identity | None = None  # set once the authenticator has read the rest; None: the handshake does not say


class HandshakeRejected(Exception):
    """A credential of a handshake is not accepted.

    The text is for the client, and never says more than it must.

    `conflict`: there are two that differ.
    """

    def __init__(self, text: str, *, conflict: bool = False) -> None:
        self.conflict = conflict
        super().__init__(text)


class Authenticator(Protocol):
    """Reads who a client is from its WebSocket handshake."""

    def identify(self, info: HandshakeInfo) -> Identity | Coroutine[Any, Any, Identity | None] | None:
        """Return who the client is; None: the handshake does not say.

        If a credential must be looked up, a coroutine does all of this; it is awaited in any case.

        Raises:
            HandshakeRejected: a credential is not accepted.
            Unavailable: the credential could not be looked up, or the keys for it are not known yet.
        """


class Choice(NamedTuple):
    """The client protocol of a new connection.

    `open` makes the handler of the connection. `subprotocol` is selected in the response to the handshake; None: none.
    Messages of the client have at most `max_message_bytes`, if that is less than the transport's own limit; 0: that.
    """

    open: Callable[[Connection], MessageHandler]
    subprotocol: str | None = None
    max_message_bytes: int = 0


class ClientProtocols(Protocol):
    """The client protocols that an edge serves, as the transport sees them."""

    @property
    def close_codes(self) -> frozenset[int]:
        """Close codes of all protocols: those that have a label of their own in metrics."""

    def serves(self, path: str) -> bool:
        """Return whether the path is a WebSocket endpoint.

        Other paths are for the HTTP application.
        """

    def choose(self, info: HandshakeInfo) -> Choice | None:
        """Choose the protocol of a connection to a path that is served.

        None: no protocol takes it, and the handshake is refused with 400.
        """


class Encoder(Protocol):
    """One encoding of one client protocol, for pushes.

    It holds no state of a connection. All connections with this encoding have the same object: a push to a channel is
    encoded once for each encoder, and all subscribers get the same bytes. No method should raise: if one does, its
    subscribers miss the push (`channels/encoding.py`).
    """

    @property
    def name(self) -> str:
        """Name of the protocol and its encoding, for metrics."""

    @property
    def carries_bytes(self) -> bool:
        """Whether publications may have data of any bytes.

        Otherwise it must be a JSON text.
        """

    @property
    def keeps_position(self) -> bool:
        """Whether clients keep their position when a publication has no offset.

        Otherwise ephemeral events have that of the last publication.
        """

    @property
    def delta(self) -> DeltaEncoders | None:
        """The encoders of the same protocol for subscriptions with delta.

        None: it has no deltas.
        """

    def encode(self, push: Push) -> bytes | None:
        """Return the push as a frame, ready to be written to the socket.

        None: the protocol has no words for it. Then nothing is sent.
        """

    def encode_joins(self, pushes: Sequence[JoinPush]) -> bytes | None:
        """Return one frame with all the pushes in the given order, or None as in `encode`."""


class DeltaEncoders(NamedTuple):
    """The two encoders for subscriptions with delta.

    Both write publications so that the client keeps their data as the base of the next patch. `full` writes the whole
    data. `patch` writes a patch of `PublicationPush.previous`, if there is one and it is shorter.
    """

    full: Encoder
    patch: Encoder


class Pings(NamedTuple):
    """How a client protocol notices that a client is gone.

    A ping is due every `interval_s` seconds, and its reply `timeout_s` seconds later. 0: no pings; no reply is
    expected.
    """

    interval_s: float
    timeout_s: float


class SessionProtocol(Protocol):
    """The client protocol of one connection, as its session sees it.

    No method may raise or block.
    """

    @property
    def encoder(self) -> Encoder:
        """Encoder of the pushes; always the same."""

    @property
    def pings(self) -> Pings:
        """When pings and their replies are due."""

    def encode_reply(self, command_id: int, result: Result) -> bytes | None:
        """Return the reply to a command as a frame; None: the protocol has no reply to it."""

    def ping(self) -> None:
        """Send a ping. The protocol calls `Session.pong` when the reply arrives."""

    def end(self, end: End) -> int:
        """Close the connection; return the close code, for metrics."""

    def connect_refused(self, delay_s: float) -> None:
        """End the connection, because connect was answered with an error.

        The session takes no more commands. The client has `delay_s` seconds to close the connection itself.
        """
