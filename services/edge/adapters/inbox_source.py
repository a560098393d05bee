"""Asks persistence which conversations users have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from services.edge.domain.conversations.calls import ChatCalls
from services.edge.domain.inbox.ports import Members, Place
from services.shared.errors import Unavailable

T = TypeVar("T")


class _Watch(msgspec.Struct):
    conversations: dict[str, Place]


class _Members(msgspec.Struct):
    members: frozenset[str]
    offset: int
    n: int


_encode = msgspec.json.Encoder().encode
_watch = msgspec.json.Decoder(_Watch).decode
_members = msgspec.json.Decoder(_Members).decode


class PersistenceInboxes:
    """Implements `InboxSource` with calls that no client can make."""

    def __init__(self, calls: ChatCalls) -> None:
        """Take what calls persistence."""
        self._calls = calls

    async def watch(self, user: str) -> Mapping[str, Place]:
        return (await self._call("inbox.watch", {"user": user}, _watch)).conversations

    async def members(self, channel: str, users: Sequence[str]) -> Members:
        found = await self._call("inbox.members", {"channel": channel, "users": users}, _members)
        return Members(found.members, Place(found.offset, found.n))

    async def _call(self, method: str, params: object, decode: Callable[[bytes], T]) -> T:
        outcome = await self._calls.call(method, _encode(params), info=None, key_user="", key="", namespace=None)
        try:
            return decode(outcome.result)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the answer to {method} can't be read: {error}") from error
