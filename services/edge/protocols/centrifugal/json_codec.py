"""Centrifugal JSON, version 2: one JSON object per line, both ways. Source: wire protocol, 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from services.edge.domain import replies as r
from services.edge.domain.commands import Command, Malformed, Pong
from services.edge.protocols.centrifugal import json_commands, json_replies
from services.shared.json_text import is_utf8, nests_too_deep, unreadable_number

MAX_COMMANDS = 1_000
_PONG = Command(0, Pong())


class CentrifugalJson:
    """`Dialect` of JSON clients; one object serves all connections.

    Args:
        frame: Makes a text frame, ready for the socket, of a payload.
        max_commands: Commands that one message may hold; the next one is `Malformed`.
    """

    name = "json"

    def __init__(self, frame: Callable[[bytes], bytes], *, max_commands: int = MAX_COMMANDS) -> None:
        self._frame = frame
        self._max_commands = max_commands
        self._ping_frame = frame(b"{}")

    @property
    def ping_frame(self) -> bytes:
        """The empty reply."""
        return self._ping_frame

    def decode(self, payload: bytes, *, binary: bool) -> list[Command]:
        """Commands of a text or a binary message alike; see `Dialect`."""
        if payload == b"{}":  # most of what idle clients send
            return [_PONG]
        if not binary and b"\n" not in payload:  # nearly always
            return [_command(payload)]
        commands: list[Command] = []
        for line in payload.removesuffix(b"\n").split(b"\n", self._max_commands):
            if len(commands) == self._max_commands:
                commands.append(_malformed("too many commands"))
                break
            command = _command(line)
            commands.append(command)
            if type(command.request) is Malformed:
                break
        return commands

    def encode(self, reply: r.Reply) -> bytes:
        """One reply or push in a frame of its own."""
        if isinstance(reply, r.PublicationPush):
            return self._frame(json_replies.publication_push(reply))
        if isinstance(reply, r.Answer):
            return self._frame(json_replies.answer(reply))
        return self._frame(json_replies.push(reply))

    def encode_joins(self, pushes: Sequence[r.JoinPush]) -> bytes:
        """One reply per line."""
        return self._frame(b"\n".join(map(json_replies.push, pushes)))


def _malformed(reason: str) -> Command:
    return Command(0, Malformed(reason=reason))


def _command(line: bytes) -> Command:
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
