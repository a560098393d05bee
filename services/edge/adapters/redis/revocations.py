"""The list of revocations on Redis: a stream that every edge reads to its end.

An edge remembers its position, and reads only what was appended after it.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import msgspec
from redis import exceptions

from services.edge.adapters.redis.stream_ids import StreamId, parse_stream_id, stream_id_text
from services.edge.domain.access.revocations import Revocation
from services.edge.domain.ports import RevocationListener
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, Command, load, raise_for_error
from services.shared.process.log_limit import RateLimitedLog
from services.shared.redis.pipeline import Ask, RedisPipeline

_TIMEOUT_S = 2.8  # longest wait for Redis, seconds
_PAGE = 2_000  # entries that are read at once
_APPEND = load(Path(__file__).parent / "append_revocation.lua")
_START = (0, 0)
_unreadable = RateLimitedLog(logging.getLogger(__name__), logging.ERROR)
_DECODER = msgspec.json.Decoder(Revocation)


class RedisRevocationLog:
    """Implements `RevocationLog`, see domain/ports.py."""

    def __init__(self, redis: RedisPipeline) -> None:
        self._redis = redis
        self._position = _START  # of the last entry that was read
        self._appended = _START  # of the last entry that was appended here
        self._listener: RevocationListener | None = None
        self.is_read = True  # whether the whole list was read once; nobody waits for it without a listener

    def follow(self, listener: RevocationListener) -> None:
        """Give all entries to the listener, from the first one on."""
        self._listener = listener
        self.is_read = False

    async def append(self, entry: Revocation) -> None:
        call = Call(_APPEND, [keys.revocations()], [msgspec.json.encode(entry), math.ceil(entry.until)])
        (reply,) = await self._redis.run([call], timeout_s=_TIMEOUT_S)
        self._appended = max(self._appended, parse_stream_id(raise_for_error(reply)))

    async def poll(self) -> None:
        try:
            await self.read(lambda commands: self._redis.execute(commands, timeout_s=_TIMEOUT_S))
        except exceptions.ConnectionError as error:
            raise Unavailable(str(error)) from error

    async def read_again(self) -> None:
        """Give the listener all entries once more, because Redis may have lost some.

        A list that was lost and begun anew looks like one that has grown: its newest entry is newer.

        Raises:
            Unavailable: the list could not be read. Whoever reads it next begins at its first entry.
        """
        if self._listener is not None:
            self._begin_again(self._listener)
            await self.poll()

    async def read(self, ask: Ask, *, first: bool = False) -> None:
        """Give the listener what is new.

        `first`: the connection is new, and nothing was read on it. Several may read at once: what one had too late is
        read again.

        Raises:
            redis.ConnectionError: the list could not be read.
        """
        if self._listener is None:
            return
        while True:
            began = time.monotonic()
            after, known = self._position, self._appended  # may change while the reply is under way
            newest, found = map(_checked, await ask(_commands(after)))
            if self._position != after:
                continue
            if (parse_stream_id(newest[0][0]) if newest else _START) < max(after, known):
                self._begin_again(self._listener)
                continue
            entries = [entry for _, fields in found if (entry := _readable(fields[1])) is not None]
            self._listener.take(entries, first=first)
            if found:
                self._position = parse_stream_id(found[-1][0])
            if len(found) < _PAGE:
                self.is_read = True
                self._listener.was_read(time.monotonic() - began)
                return

    def _begin_again(self, listener: RevocationListener) -> None:
        listener.lost()
        self._position = self._appended = _START


def _commands(after: StreamId) -> list[Command]:
    name = keys.revocations()
    return [
        ("XREVRANGE", name, "+", "-", "COUNT", 1),  # the newest; read before the page, so never ahead
        ("XRANGE", name, f"({stream_id_text(after)}", "+", "COUNT", _PAGE),
    ]


def _readable(text: bytes) -> Revocation | None:
    """Return an entry; None if it can't be read: perhaps a newer edge wrote it."""
    try:
        return _DECODER.decode(text)
    except msgspec.MsgspecError as error:
        _unreadable("unreadable revocation", error=repr(error))
        return None


def _checked(reply: Any) -> Any:
    if isinstance(reply, exceptions.RedisError):
        raise exceptions.ConnectionError(f"refused: {reply}") from reply
    return reply
