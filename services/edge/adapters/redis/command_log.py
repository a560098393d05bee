"""The control log on Redis: a stream of the control commands of the last minute.

Each entry names the one before it, so that a reader notices a missing one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.edge.adapters.redis.stream_ids import parse_stream_id, stream_id_text
from services.edge.domain.model import ControlCommand, ControlCommandId, ControlLogPage
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

TIMEOUT_S = 2.8  # longest wait for Redis, seconds
KEPT_MS = 60_000  # how long control commands are kept, milliseconds
_KEPT = 10_000  # how many are kept at most
_PAGE = 200  # how many are read at once
_APPEND = load(Path(__file__).parent / "append_command.lua")


class RedisControlLog:
    """Implements `ControlLog`, see domain/ports.py.

    Nothing is repeated here: a control command that is appended twice is executed twice.
    """

    def __init__(self, redis: RedisPipeline) -> None:
        self._redis = redis

    async def append(self, payload: bytes) -> int:
        call = Call(_APPEND, [keys.control_log()], [keys.control(), payload, _KEPT, KEPT_MS])
        (reply,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        return int(raise_for_error(reply))

    async def read(self, after: ControlCommandId) -> ControlLogPage:
        replies = await self._redis.execute(
            [
                (
                    "XREVRANGE",
                    keys.control_log(),
                    "+",
                    "-",
                    "COUNT",
                    1,
                ),  # the newest; read before the page, so never ahead
                ("XRANGE", keys.control_log(), f"({stream_id_text(after)}", "+", "COUNT", _PAGE),
            ],
            timeout_s=TIMEOUT_S,
        )
        newest, found = map(raise_for_error, replies)
        commands = [_kept(command_id, fields) for command_id, fields in found]
        return ControlLogPage(commands, parse_stream_id(newest[0][0]) if newest else (0, 0), len(found) < _PAGE)


def parse_command(payload: bytes) -> ControlCommand:
    """Parse a control command from a pub/sub payload; raises ValueError."""
    command_id, previous, command = payload[len(keys.CONTROL_COMMAND) :].split(b" ", 2)
    return _command(command_id, previous, command)


def _kept(command_id: Any, fields: Any) -> ControlCommand:
    """Parse an entry of the stream.

    An unreadable entry becomes a command with an empty payload, so that readers get past it.
    """
    try:
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        return _command(command_id, named[b"previous"], named[b"order"])
    except (KeyError, ValueError):
        return ControlCommand(parse_stream_id(command_id), (0, 0), b"")


def _command(command_id: Any, previous: Any, payload: Any) -> ControlCommand:
    return ControlCommand(parse_stream_id(command_id), parse_stream_id(previous), bytes(payload))
