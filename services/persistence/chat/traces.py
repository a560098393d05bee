"""Where a user has been, and what is left there of the user.

Purpose. Who wants back, or erased, what a user wrote must find it: in conversations of which the user is a member, in
those that the user has left, and in open ones, where everybody may write.

Rules.

* The list of a user keeps an entry of a conversation that was left. It is not shown.
* An open conversation has no entry for who only wrote there, because a message must not cost a write more. So all open
  ones of the directory are looked through, the whole log of each. Closed ones are not in the directory, and one that is
  renamed changes its place there. So the platform, which is no user, has a list of all that were ever closed or renamed
  (moved): from then on until it is deleted, one has its place in it, whatever becomes of it.
* A walk goes through the list, by channel, then through the directory, by name, and then through those that were moved,
  by channel. Its place fits into a cursor. Whatever is closed, reopened or renamed meanwhile is found: in the directory
  before, or among the moved ones after.
* The messages of a user are erased by a purge. What else the user did (reactions, pins, membership) others build on: it
  stays, and of its author the id alone. A delete may put a tombstone there at the same moment, which must not be
  undone: so what is deleted is erased again afterwards.

Example. u1 has left a group, and wrote in an open conversation: a walk finds the group in u1's list, as left, and the
open one in the directory.

Trade-offs. In a namespace with much in open conversations a walk reads a lot; in return nobody pays before.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from typing import NamedTuple

import msgspec

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import PLATFORM, Conversation, Phase, Type
from services.persistence.chat.erasing import Eraser
from services.persistence.chat.live import Live
from services.persistence.chat.ports import ChatStore
from services.persistence.domain.log import Log
from services.persistence.domain.ports import Rows
from thalamus.common.v1.common_pb2 import ClientInfo, Publication

_CHANNELS = 100  # read at once
_NEAR = 64  # more than names of conversations that differ in the last character alone
_PAGE_ROWS = 512
_PAGE_BYTES = 4 << 20
_ERASED_AT_ONCE = 50  # rows: DynamoDB takes two requests for each


class Place(msgspec.Struct, frozen=True, array_like=True):
    """How far a walk has come.

    All up to `after` is done: a channel, or, if `is_open`, a name and a channel of the directory, or, if `is_moved`, a
    channel of the moved ones. Of the next one, `channel`, all up to `offset`.
    """

    is_open: bool = False
    after: str = ""
    channel: str = ""
    offset: int = 0
    is_moved: bool = False  # `is_open` is set, too

    def as_cursor(self) -> str:
        """Return it as text."""
        return urlsafe_b64encode(msgspec.json.encode(self)).decode()

    @classmethod
    def of(cls, cursor: str) -> Place:
        """Return the place of a cursor; "": the beginning.

        Raises:
            ValueError: it is none.
        """
        try:
            return msgspec.json.decode(urlsafe_b64decode(cursor), type=cls) if cursor else cls()
        except (msgspec.MsgspecError, binascii.Error, UnicodeError) as error:
            raise ValueError("`cursor` is none of this method") from error


class Walk:
    """Goes through the conversations where a user may have written.

    It may be interrupted anywhere: the place stays true.
    """

    def __init__(self, store: ChatStore, user: str, namespace: str, place: Place) -> None:
        self.place, self.is_done = place, False
        self._store, self._user, self._first = store, user, f"{namespace}:"
        self._namespace = namespace
        self._found: deque[tuple[str, str]] = deque()  # (place behind it, channel)
        self._ends = False  # whether there is nothing behind what was found

    async def next(self) -> str | None:
        """Return the channel to go on with, behind `place.offset`; None: all is done.

        Raises:
            Unavailable: the store does not answer.
        """
        while not self._found:
            if self._ends:
                if self.place.is_moved:
                    self.is_done = True
                    return None
                self.place, self._ends = Place(is_open=True, is_moved=self.place.is_open), False
            await self._read()
        _, channel = self._found[0]
        if channel != self.place.channel:
            self.place = msgspec.structs.replace(self.place, channel=channel, offset=0)
        return channel

    def reached(self, offset: int) -> None:
        """Note that the channel is done up to an offset."""
        self.place = msgspec.structs.replace(self.place, offset=offset)

    def done(self) -> None:
        """Note that the channel is done."""
        after, _ = self._found.popleft()
        self.place = msgspec.structs.replace(self.place, after=after, channel="", offset=0)

    async def comes_later(self, channel: str, state: Conversation) -> bool:
        """Whether an open conversation is found again: in the directory, or as moved."""
        if self.place.is_moved or state.type is not Type.OPEN:
            return False
        if state.phase is Phase.ACTIVE and not self.place.is_open:
            return True
        near = await self._store.conversations_of(PLATFORM, channel[:-1], _NEAR)
        return channel in [one for one, _ in near]

    async def _read(self) -> None:
        after = self.place.after
        if self.place.is_open and not self.place.is_moved:
            opens = await self._store.directory(self._namespace, "", after, _CHANNELS)
            self._found.extend((f"{name} {channel}", channel) for name, channel in opens)
        else:
            whose = PLATFORM if self.place.is_moved else self._user
            listed = await self._store.conversations_of(whose, max(after, self._first), _CHANNELS)
            self._found.extend((channel, channel) for channel, _ in listed if channel.startswith(self._first))
        self._ends = len(self._found) < _CHANNELS


class Looked(NamedTuple):
    """What some rows of the log have of a user.

    `wrote`: messages that no purge took. `last`: offset of the last row; None: there were none.
    """

    wrote: bool
    last: int | None


class Traces:
    """Finds and removes what is left of users; methods raise `Unavailable`."""

    def __init__(self, log: Log, rows: Rows, store: ChatStore, conversations: Conversations, eraser: Eraser) -> None:
        """Create it; `rows` is the store of the log."""
        self._log, self._rows, self._store, self._eraser = log, rows, store, eraser
        self._conversations = conversations

    def walk(self, user: str, namespace: str, place: Place) -> Walk:
        """Return a walk through the conversations of a namespace."""
        return Walk(self._store, user, namespace, place)

    async def conversation(self, channel: str) -> Live:
        """Return a conversation at its newest position."""
        return await self._conversations.current(channel)

    async def strip(self, live: Live, user: str, since: int) -> Looked:
        """Look at the next rows behind an offset, and strip events of the user.

        They keep no more of their author than the id. Messages and their edits stay as they are: a purge takes them.
        """
        epoch = live.epoch
        rows = await self._rows.read(
            live.channel,
            since_offset=since,
            upto=live.position,
            limit=_PAGE_ROWS,
            reverse=False,
            max_bytes=_PAGE_BYTES,
        )
        wrote, stripped, about = False, dict[int, bytes](), set[int]()
        for offset, row in rows:
            publication = Publication.FromString(row)
            if publication.info.user != user:
                continue
            event = events.read(publication.data)
            if isinstance(event, events.Message):
                wrote = wrote or live.deleted_by(user, offset) is None
            elif not isinstance(event, events.Edit) and len(publication.info.ListFields()) > 1:
                publication.info.CopyFrom(ClientInfo(user=user))
                stripped[offset] = publication.SerializeToString()
                if isinstance(event, events.Reaction):
                    about.add(event.of)
        offsets = sorted(stripped)
        for start in range(0, len(offsets), _ERASED_AT_ONCE):
            some = offsets[start : start + _ERASED_AT_ONCE]
            await self._log.erase(live.channel, {offset: stripped[offset] for offset in some}, epoch)
        await self._eraser.again(live.channel, about)
        return Looked(wrote, rows[-1][0] if rows else None)
