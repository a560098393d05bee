"""What an encoding of the Centrifugal protocol (JSON, Protobuf) implements."""

from __future__ import annotations

from typing import Final, Protocol

from services.edge.domain.commands import Command, SubscriptionKind
from services.edge.domain.connections import Encoder, Pings
from services.edge.domain.replies import ConnectResult, Result

MAX_COMMANDS = 1_000  # in one message
MAX_ENTRIES = 1_000  # of `subs` and of `headers` in connect, each; a real position has about 60 bytes
REJECT_UNRECOVERED = 2  # bit of `flag` in subscribe
KINDS = {0: SubscriptionKind.STREAM, 4: SubscriptionKind.SHARED_POLL}  # by `type` in subscribe


class Pong:
    """An empty command: the client's reply to a ping of the server."""

    __slots__ = ()


PONG: Final = Pong()


class Codec(Encoder, Protocol):
    """Codec of one encoding.

    It holds no state of a connection, so one object serves all of them.
    """

    @property
    def ping_frame(self) -> bytes:
        """Frame of a ping of the protocol, an empty reply; not a WebSocket ping frame."""

    def decode(self, payload: bytes, *, binary: bool) -> list[Command | Pong]:
        """Return the commands of a message in the order sent, and `PONG` for each pong.

        A part that can't be decoded becomes a `Malformed` command and ends the list.
        """

    def reply(self, command_id: int, result: Result) -> bytes:
        """Return the reply to any command but connect as a frame."""

    def connected(self, command_id: int, result: ConnectResult, pings: Pings) -> bytes:
        """Return the reply to connect as a frame.

        It announces the pings; 0: the client gets none in the protocol.
        """
