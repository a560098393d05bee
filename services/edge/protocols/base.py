"""Base classes of a client protocol: one object for it, one per connection.

**Purpose.** A client protocol is one folder beside this module and one line in `registry`. Transport and domain know
none of them. A protocol needs nothing but this module, the commands (`domain/commands.py`), the replies
(`domain/replies.py`) and the reasons of an end (`domain/ends.py`).

**Parts.**

* `ProtocolEntry`: which handshakes the protocol takes, and how its connections begin. One object per edge.
* `ClientProtocol`: one object per connection. It decodes messages and feeds the commands to its session; it writes
  replies, pings and the close. What it must remember of its client (an id, an order of acknowledgements) is kept here.
* `Encoder`: writes pushes, which many connections get at once. One object per encoding, without state.
  A protocol with deltas has two more of them (`Encoder.delta`).

**Rules.**

1. `Session.submit` queues commands; the domain executes them in order. The first one must be `Connect`. A protocol
   without such a message makes it itself, in `opened`.
2. Each command has an id, which its reply carries. A protocol without ids on the wire counts them itself.
3. Domain and transport say why a connection ends. `close_code` says it in the protocol's codes.
4. The domain says when a ping is due (`ping`), by the protocol's own `pings`. The protocol tells the session of the
   reply by `Session.pong`.
5. What the protocol has no words for is `None` in place of a frame, and nothing is sent.

Worked example: `tests/edge/protocols/toy`. Decision: docs/decisions/0029-a-protocol-is-one-folder.md.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple, Protocol

from services.edge.domain.connections import Choice, Connection, Encoder, HandshakeInfo, Identity, Pings
from services.edge.domain.ends import ClientEnd, End
from services.edge.domain.replies import Result
from services.edge.domain.session.node import Node
from services.edge.domain.session.session import Session


class Host(NamedTuple):
    """What an edge gives to its client protocols.

    `text_frame` and `binary_frame` make a WebSocket frame of a payload, ready to be written to the socket.
    """

    node: Node
    text_frame: Callable[[bytes], bytes]
    binary_frame: Callable[[bytes], bytes]
    new_client_id: Callable[[], str]


class ProtocolEntry(Protocol):
    """A client protocol in the registry. It is made once per edge, with the `Host`."""

    @property
    def close_codes(self) -> frozenset[int]:
        """All close codes of the protocol; each gets a label of its own in metrics."""

    def serves(self, path: str) -> bool:
        """Return whether the path is an endpoint of this protocol."""

    def choose(self, info: HandshakeInfo) -> Choice | None:
        """Take a connection to one of its paths; None: leave it to another protocol."""


class ClientProtocol(abc.ABC):
    """One connection of a client protocol: `MessageHandler` and `SessionProtocol`.

    Subclasses implement the abstract methods, and override whatever else they need to do differently. `identity` is
    that of the handshake (`HandshakeInfo`): with it the connect command needs no token.
    """

    __slots__ = ("connection", "encoder", "pings", "session")

    def __init__(
        self, host: Host, connection: Connection, encoder: Encoder, pings: Pings, identity: Identity | None = None
    ) -> None:
        self.connection = connection
        self.encoder = encoder
        self.pings = pings
        # None after the end: without a reference cycle memory is freed at once and not by the garbage collector.
        self.session: Session | None = Session(host.node, connection, self, host.new_client_id(), identity)

    # From the transport.

    def opened(self) -> None:  # noqa: B027  # most protocols have nothing to do here
        """Note that the handshake is answered. Override this if the server speaks first."""

    @abc.abstractmethod
    def message(self, payload: bytes, *, binary: bool) -> None:
        """Decode a message and give its commands to `session.submit`."""

    def control(self, *, pong: bool) -> None:  # noqa: B027  # most protocols have nothing to do here
        """Take a WebSocket ping or pong.

        Override this if the protocol's pings are WebSocket pings.
        """

    def replies_taken(self) -> None:
        """Note that the client has read its replies: the session goes on."""
        if self.session is not None:
            self.session.replies_taken()

    @abc.abstractmethod
    def close_code(self, end: End) -> tuple[int, str]:
        """Return code and text of the close frame for this end.

        The text has at most 123 bytes.
        """

    def closed(self, how: ClientEnd) -> None:
        """End the session, because the connection is over."""
        session, self.session = self.session, None
        if session is not None:
            session.closed(how)

    # From the session.

    @abc.abstractmethod
    def encode_reply(self, command_id: int, result: Result) -> bytes | None:
        """Return the reply to a command as a frame; None: the protocol has no reply to it."""

    @abc.abstractmethod
    def ping(self) -> None:
        """Send a ping."""

    def end(self, end: End) -> int:
        """Close the connection; return the close code.

        Override this to say something before the close frame.
        """
        code, text = self.close_code(end)
        self.connection.close(code, text)
        return code

    def connect_refused(self, delay_s: float) -> None:
        """End the connection after an error reply to connect.

        Here the client has `delay_s` to close it; then TCP is dropped.
        """
        self.connection.drop_after(delay_s)
