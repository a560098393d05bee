"""Codec of the Centrifugal JSON protocol, version 2.

A message has one JSON object per line, in both directions. Source: wire protocol, 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from services.edge.domain import replies as r
from services.edge.domain.commands import Command, Malformed
from services.edge.domain.connections import DeltaEncoders, Pings
from services.edge.protocols.centrifugal import json_commands, json_replies
from services.edge.protocols.centrifugal.codec import MAX_COMMANDS, PONG, Pong
from services.edge.protocols.centrifugal.delta_encoder import DeltaEncoder
from services.shared.json_text import is_utf8, nests_too_deep, unreadable_number


class CentrifugalJson:
    """`Codec` of JSON clients; one object serves all connections.

    Args:
        frame: Encodes a payload as a WebSocket text frame, ready to be written to the socket.
        max_commands: Largest number of commands in one message; the next one becomes `Malformed`.
    """

    name = "centrifugal-json"
    carries_bytes = False  # data is part of a JSON text
    keeps_position = True

    def __init__(self, frame: Callable[[bytes], bytes], *, max_commands: int = MAX_COMMANDS) -> None:
        self._frame = frame
        self._max_commands = max_commands
        self._ping_frame = frame(b"{}")
        self.delta = DeltaEncoders(
            DeltaEncoder(self, frame, json_replies.delta_push, patches=False),
            DeltaEncoder(self, frame, json_replies.delta_push, patches=True),
        )

    @property
    def ping_frame(self) -> bytes:
        """Frame of a ping: an empty reply."""
        return self._ping_frame

    def decode(self, payload: bytes, *, binary: bool) -> list[Command | Pong]:
        """Return the commands of a text or binary message; see `Codec.decode`."""
        if payload == b"{}":  # a pong, the most frequent message of idle clients
            return [PONG]
        if not binary and b"\n" not in payload:  # the usual case: one command
            return [_command(payload)]
        commands: list[Command | Pong] = []
        for line in payload.removesuffix(b"\n").split(b"\n", self._max_commands):
            if len(commands) == self._max_commands:
                commands.append(_malformed("too many commands"))
                break
            command = _command(line)
            commands.append(command)
            if isinstance(command, Command) and type(command.request) is Malformed:
                break
        return commands

    def reply(self, command_id: int, result: r.Result) -> bytes:
        """Return a frame with the reply to a command."""
        return self._frame(json_replies.reply(command_id, result))

    def connected(self, command_id: int, result: r.ConnectResult, pings: Pings) -> bytes:
        """Return a frame with the reply to connect."""
        return self._frame(json_replies.connected(command_id, result, pings))

    def encode(self, push: r.Push) -> bytes:
        """Return a frame with one push."""
        if isinstance(push, r.PublicationPush):
            return self._frame(json_replies.publication_push(push))
        return self._frame(json_replies.push(push))

    def encode_joins(self, pushes: Sequence[r.JoinPush]) -> bytes:
        """Return one frame with all the pushes, one per line."""
        return self._frame(b"\n".join(map(json_replies.push, pushes)))


def _malformed(reason: str) -> Command:
    return Command(0, Malformed(reason=reason))


def _command(line: bytes) -> Command | Pong:
    if not (line.isascii() or is_utf8(line)):
        return _malformed("not UTF-8")
    try:
        command = json_commands.command(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        return _malformed(str(error))
    if nests_too_deep(line):
        return _malformed("nested too deeply")
    if wrong := unreadable_number(line):
        return _malformed(wrong)
    return command
