"""Receipts: tells the members of a small conversation who has read what.

Rules.

* Whoever has read, or got, more is told of as an ephemeral event on the conversation: `{"kind":"receipt","user":…,
  "read":…,"delivered":…}`. Not of users who want none, not in open conversations, and not where there are more members
  than the namespace says.
* At most one event per user, conversation and second, whichever replica moved the marker. What comes sooner waits, and
  then the newest marker is told. So the last one is always told.
* A receipt is noted in Redis until it is sent. What a process has left that died in between is sent by another one.
* One that was slow may have sent an older marker behind a newer one of another process. It sees that its note is not
  the same any more, and then the newest is sent once more.
* Whether it may be told is looked at when it is sent, not when the marker moved.
* Nothing is told while an edge is connected that can't read ephemeral events (decision 58).

Example. A user scrolls: 10, 11, 12 are read within 0.3 s. The others are told of 10 at once, and of 12 a second later.

Trade-offs. Persistence publishes these events itself, though edges publish all others: a second after the call the
edge that made it may be gone. The event is not signed with what edges know of the user, such as a name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain.state import Phase, Type
from services.persistence.chat.live import Live
from services.persistence.chat.markers.markers import Markers
from services.persistence.chat.markers.ports import Of
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, Script, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline
from thalamus.common.v1.common_pb2 import ClientInfo, Publication

logger = logging.getLogger(__name__)

GAP_S = 1.0  # between two receipts of one user in one conversation
_LEASE_S = 3.0  # after which another process sends what one has taken
_LOOK_S = 1.0  # seconds between looks for what others have left
_TIMEOUT_S = 2.0  # longest round trip, seconds
_AT_ONCE = 100
_YES_S, _NO_S = 10.0, 1.0  # how long it is known whether all edges read ephemeral events
_FOLDER = Path(__file__).parent
TELL = load(_FOLDER / "tell.lua")
TAKE = load(_FOLDER / "take.lua")
DONE = load(_FOLDER / "done.lua")
_encode = msgspec.json.Encoder().encode


class _Due(NamedTuple):
    """A receipt to send. `name` and `mark`: member and score of the sorted set."""

    of: Of
    name: bytes
    mark: bytes


class Receipts:
    """Sends receipts of this process, and those that others have left."""

    def __init__(self, client: RedisPipeline, markers: Markers, conversations: Conversations) -> None:
        self._client, self._markers, self._conversations = client, markers, conversations
        self._wake = asyncio.Event()
        self._all_read, self._known_until = False, float("-inf")

    @staticmethod
    def are_told(live: Live, most: int) -> bool:
        """Whether members are told of each other, where `most` may be in it."""
        state = live.state
        there = state.phase in (Phase.ACTIVE, Phase.CLOSED) and state.type is not Type.OPEN
        return there and len(state.members) <= most

    async def moved(self, live: Live, user: str, most: int) -> None:
        """Tell that a user has read or got more, now or soon; never fails.

        `most`: members of a conversation in which all are told.
        """
        if not self.are_told(live, most) or user not in live.state.members:
            return
        try:
            of = Of(user, live.channel)
            name = keys.pair(*of)
            mark, wait_ms = await self._run(TELL, name, int(GAP_S * 1_000), int(_LEASE_S * 1_000))
            if wait_ms:
                self._wake_in(wait_ms / 1_000)
            else:
                await self._send([_Due(of, name.encode(), mark)])
        except Unavailable as error:
            logger.warning("a receipt can't be sent", extra={"channel": live.channel, "error": str(error)})

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.sweep()
            except Unavailable as error:
                logger.warning("receipts can't be sent", extra={"error": str(error)})
            except Exception:
                logger.exception("receipts can't be sent")

    async def sweep(self) -> int:
        """Send what is due; return how many were.

        Raises:
            Unavailable: Redis or the store does not answer.
        """
        count = 0
        while True:
            found = await self._run(TAKE, int(GAP_S * 1_000), int(_LEASE_S * 1_000), _AT_ONCE)
            names = zip(found[::2], found[1::2], strict=True)
            due = [_Due(Of(*keys.unpair(name.decode())), name, mark) for name, mark in names]
            await self._send(due)
            count += len(due)
            if len(due) < _AT_ONCE:
                return count

    async def _send(self, due: Sequence[_Due]) -> None:
        """Send receipts, and remove their notes.

        What can't be read now stays noted, and holds up no other one.
        """
        if not due:
            return
        events: list[tuple[str, str, bytes]] = []
        left: set[bytes] = set()
        if await self._do_all_read():
            told = await self._markers.preferences_of([one.of.user for one in due])
            public = [one for one in due if told[one.of.user].receipts != "private"]
            found = await asyncio.gather(*(self._event(one.of) for one in public), return_exceptions=True)
            for one, event in zip(public, found, strict=True):
                if isinstance(event, Exception):
                    left.add(one.name)
                    logger.warning("a receipt can't be sent", extra={"channel": one.of.channel, "error": str(event)})
                elif isinstance(event, BaseException):
                    raise event
                elif event is not None:
                    events.append(("PUBLISH", keys.pub(one.of.channel), event))
        if events:
            for answer in await self._client.execute(events, timeout_s=_TIMEOUT_S):
                raise_for_error(answer)
        parts = [part for one in due if one.name not in left for part in (one.name, one.mark)]
        if parts and await self._run(DONE, int(GAP_S * 1_000), *parts):
            self._wake_in(GAP_S)

    async def _event(self, of: Of) -> bytes | None:
        """Return what is published; None: nothing any more."""
        live = await self._conversations.current(of.channel)
        if of.user not in live.state.members or live.state.type is Type.OPEN:
            return None
        place = (await self._markers.of_channel(of.channel, [of.user]))[of.user].within(live.epoch)
        said = {"kind": "receipt", "user": of.user, "read": place.marker.offset, "delivered": place.delivered}
        info = ClientInfo(user=of.user)
        return keys.EPHEMERAL + Publication(data=_encode(said), id=os.urandom(16), info=info).SerializeToString()

    def _wake_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._wake.set)

    async def _do_all_read(self) -> bool:
        """Whether all connected edges can read ephemeral events."""
        if time.monotonic() >= self._known_until:
            command = ("PUBSUB", "NUMSUB", keys.control(), keys.ephemeral_readers())
            found = raise_for_error((await self._client.execute([command], timeout_s=_TIMEOUT_S))[0])
            edges, readers = int(found[1]), int(found[3])
            self._all_read = 0 < edges <= readers
            self._known_until = time.monotonic() + (_YES_S if self._all_read else _NO_S)
        return self._all_read

    async def _run(self, script: Script, *arguments: str | bytes | int) -> Any:
        call = Call(script, [keys.receipts_due(), keys.receipts_sent()], arguments)
        return raise_for_error((await self._client.run([call], timeout_s=_TIMEOUT_S))[0])
