"""Whom to tell that a conversation was deleted, for a call that is repeated.

A deleted conversation has neither members nor a name. But who repeats a call does not know whether anybody was told of
the first one: its answer may have been lost, and the notices with it. So whom to tell is in Redis from before the
deletion, for as long as the call can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import KEY_TTL_S
from services.shared.hotlog.scripts import raise_for_error
from services.shared.redis.pipeline import RedisPipeline

_TIMEOUT_S = 2.0  # longest round trip, seconds


class Farewell(NamedTuple):
    """Users to tell, and what the conversation was."""

    users: Sequence[str] = ()
    about: Mapping[str, Any] = {}


_decode = msgspec.json.Decoder(tuple[list[str], dict[str, Any]]).decode
_NOBODY = Farewell()


class Farewells:
    """Keeps them; methods raise `Unavailable` if Redis does not answer."""

    def __init__(self, client: RedisPipeline) -> None:
        self._client = client

    async def keep(self, channel: str, farewell: Farewell) -> None:
        """Keep whom to tell; call it before the deletion."""
        await self._execute("SET", keys.farewell(channel), msgspec.json.encode(farewell), "EX", KEY_TTL_S)

    async def kept(self, channel: str) -> Farewell:
        """Return whom to tell of a deletion; nobody if that was too long ago."""
        found = await self._execute("GET", keys.farewell(channel))
        return Farewell(*_decode(found)) if found else _NOBODY

    async def _execute(self, *command: str | bytes | int) -> Any:
        return raise_for_error((await self._client.execute([command], timeout_s=_TIMEOUT_S))[0])
