"""Codec of the Centrifugal protocol in Protobuf, version 2.

A message has one command or reply after the other, each preceded by its length. Source: wire protocol, 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.edge.domain import replies as r
from services.edge.domain.commands import Command, Malformed
from services.edge.domain.connections import DeltaEncoders, Pings
from services.edge.protocols.centrifugal import protobuf_commands, protobuf_replies
from services.edge.protocols.centrifugal.codec import MAX_COMMANDS, PONG, Pong
from services.edge.protocols.centrifugal.delta_encoder import DeltaEncoder

_EMPTY = b"\x00"  # an empty command or reply: its length


class CentrifugalProtobuf:
    """`Codec` of Protobuf clients; one object serves all connections.

    Args:
        frame: Encodes a payload as a binary WebSocket frame, ready to be written to the socket.
        max_commands: Largest number of commands in one message; the next one becomes `Malformed`.
    """

    name = "centrifugal-protobuf"
    carries_bytes = True
    keeps_position = False  # a missing offset is 0, and centrifuge-js before 5.8.0 takes that for the new position

    def __init__(self, frame: Callable[[bytes], bytes], *, max_commands: int = MAX_COMMANDS) -> None:
        self._frame = frame
        self._max_commands = max_commands
        self._ping_frame = frame(_EMPTY)
        self.delta = DeltaEncoders(
            DeltaEncoder(self, frame, protobuf_replies.delta_push, patches=False),
            DeltaEncoder(self, frame, protobuf_replies.delta_push, patches=True),
        )

    @property
    def ping_frame(self) -> bytes:
        """Frame of a ping: an empty reply."""
        return self._ping_frame

    def decode(self, payload: bytes, *, binary: bool) -> list[Command | Pong]:
        """Return the commands of a text or binary message; see `Codec.decode`."""
        if payload == _EMPTY:  # a pong, the most frequent message of idle clients
            return [PONG]
        commands: list[Command | Pong] = []
        try:
            for part in protobuf_commands.parts(payload):
                if len(commands) == self._max_commands:
                    raise ValueError("too many commands")
                commands.append(protobuf_commands.command(part))
            if not commands:
                raise ValueError("no command")
        except ValueError as error:
            commands.append(Command(0, Malformed(reason=str(error))))
        return commands

    def reply(self, command_id: int, result: r.Result) -> bytes:
        """Return a frame with the reply to a command."""
        return self._frame(protobuf_replies.reply(command_id, result))

    def connected(self, command_id: int, result: r.ConnectResult, pings: Pings) -> bytes:
        """Return a frame with the reply to connect."""
        return self._frame(protobuf_replies.connected(command_id, result, pings))

    def encode(self, push: r.Push) -> bytes:
        """Return a frame with one push."""
        return self._frame(protobuf_replies.push(push))

    def encode_joins(self, pushes: Sequence[r.JoinPush]) -> bytes:
        """Return one frame with all the pushes, one after the other."""
        return self._frame(b"".join(map(protobuf_replies.push, pushes)))
