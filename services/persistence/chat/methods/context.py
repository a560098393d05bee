"""What a method on conversations knows of its call, and how it writes and refuses.

Rules.

* A call has one key. A method that appends several events derives a key for each of them. So a repeat of the whole call
  gives each event the place that it has already, and any call may be repeated after any failure.
* A change that is there already is no refusal: `{"applied": false, "why": "unchanged"}`.
* Personal channels are told of what was done, and again when a call is repeated: who repeats does not know whether
  anybody was told.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from services.persistence.chat.append import Appender
from services.persistence.chat.devices.devices import Devices
from services.persistence.chat.domain.names import type_of
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.farewells import Farewells
from services.persistence.chat.inbox.inbox import Inbox
from services.persistence.chat.markers.markers import Markers
from services.persistence.chat.markers.receipts import Receipts
from services.persistence.chat.new_events import Appended, NewEvent, Options
from services.persistence.chat.notifications import Notifications
from services.persistence.chat.queries import Queries
from services.persistence.chat.refused_call import FORBIDDEN, RefusedCall
from services.persistence.chat.search.names import NameSearch
from services.persistence.chat.search.search import Search
from services.persistence.chat.traces import Traces
from services.persistence.chat.upkeep import Upkeep
from services.persistence.chat.who_types import Typing
from services.shared.errors import Unavailable
from thalamus.common.v1.common_pb2 import ClientInfo, Publication

Result = Mapping[str, Any]
_ID_BYTES = 16  # of a publication


class Begins(Exception):
    """It would begin a direct conversation, and the caller asks to be told first."""


class Done(NamedTuple):
    """What became of an event: its place, and why it changes nothing (None: it does).

    Without a place (offset 0) it was so already.
    """

    offset: int
    epoch: str
    why: str | None


@dataclass(slots=True)
class Call:
    """One call of a method.

    `user` "": the platform. `key`: idempotency key of `key_user`; "": none was given. `namespace`: where conversations
    lie that are created, or named by their users. `asks_to_begin`: see `Begins`. `session`: the sign-in that it comes
    from; "": none, or it does not matter. `notices`: (user, what happened), which methods add; `passing`: the same for
    those alone who are connected. `ephemerals`: (channel, event), which methods add for those who follow a
    conversation; they may be lost.
    """

    user: str
    info: ClientInfo | None
    key_user: str
    key: str
    namespace: str
    options: Options
    asks_to_begin: bool = False
    session: str = ""
    notices: list[tuple[str, Result]] = field(default_factory=list)
    passing: list[tuple[str, Result]] = field(default_factory=list)
    ephemerals: list[tuple[str, Result]] = field(default_factory=list)

    def step(self, name: str) -> str:
        """Return the key of one of several events of this call.

        It follows from the call's key and the name; a call without key makes one up.
        """
        self.key = self.key or os.urandom(_ID_BYTES).hex()
        return hashlib.sha256(f"{self.key}\n{name}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts that methods work with.

    `random`: that many random bytes. `now_ms`: Unix ms by the clock of Redis.
    """

    queries: Queries
    appender: Appender
    upkeep: Upkeep
    traces: Traces
    devices: Devices
    notifications: Notifications
    markers: Markers
    receipts: Receipts
    inbox: Inbox
    typing: Typing
    farewells: Farewells
    search: Search | None  # None: there is no index of messages
    name_search: NameSearch
    now_ms: Callable[[], int]
    web_push_hosts: Sequence[str] = ()
    random: Callable[[int], bytes] = os.urandom

    async def write(self, call: Call, channel: str, event: Result, key: str, key_user: str | None = None) -> Done:
        """Append an event of the caller.

        Raises:
            RefusedCall: it is not in the log.
        """
        return await self._append(call, channel, msgspec.json.encode(event), key, key_user=key_user)

    async def publish(self, call: Call, channel: str, data: bytes, tags: Mapping[str, str]) -> Done:
        """Append what a client may publish; raises as `write`."""
        return await self._append(call, channel, data, call.key, tags=tags, by_publish=True)

    async def _append(
        self,
        call: Call,
        channel: str,
        data: bytes,
        key: str,
        *,
        key_user: str | None = None,
        tags: Mapping[str, str] | None = None,
        by_publish: bool = False,
    ) -> Done:
        if type_of(channel) is None:
            raise RefusedCall(FORBIDDEN)
        publication_id = self.random(_ID_BYTES)
        publication = Publication(data=data, id=publication_id, info=call.info, tags=tags)
        result = await self.appender.append(
            NewEvent(
                channel,
                publication.SerializeToString(),
                publication_id,
                call.user,
                data,
                call.options,
                call.key_user if key_user is None else key_user,
                key,
                by_publish,
            )
        )
        if isinstance(result, Appended):
            return Done(result.offset, result.epoch, result.void)
        if result.why == Why.UNCHANGED:
            return Done(0, "", result.why)
        raise RefusedCall(result)

    async def settle(self, channel: str) -> None:
        """Have users' lists say what was done; if the store can't, they will soon."""
        with contextlib.suppress(Unavailable):
            await self.queries.settle(channel)

    async def notify(self, call: Call, user: str, kind: str, channel: str, done: Done) -> None:
        """Have a user's personal channel told of it, unless it changed nothing."""
        if done.why is None:
            about = await self.queries.notice(channel)
            call.notices.append((user, {"kind": kind, **about, "by": call.user, "offset": done.offset}))


def reply(channel: str, done: Done) -> dict[str, Any]:
    """Return what a call that writes answers."""
    place = {"offset": done.offset, "epoch": done.epoch} if done.offset else {}
    if done.why is None:
        return {"channel": channel, **place, "applied": True}
    return {"channel": channel, **place, "applied": False, "why": done.why}
