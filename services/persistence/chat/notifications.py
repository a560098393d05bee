"""Whom to notify of what, as conversations, markers and devices say it.

**Purpose.** The notifier (`services/persistence/notifier`) knows when to look, who is absent and how to reach a phone.
Everything about a conversation is answered here, at its newest position.

**Rules.**

1. `plan` looks at a range of the log and says of each user up to one message to notify of: the newest one by somebody
   else that the user may see, has not read, and wants to hear of. In a small group that is each message, or those that
   mention the user or reply to the user, as the user prefers. In a large one, and in an open conversation, it is the
   latter alone: so the work does not grow with the members.
2. An edit notifies whom it mentions for the first time, of the message as it is now. Silent messages notify nobody.
3. Messages are told by place. Their content is read when they are sent (`show`): whatever became of message, reader,
   device or membership meanwhile counts, and no copy of it waits anywhere.
4. `still` says whether what is shown on a device is still to be shown.

**Example.** u1 writes 5 and 6, u2 is a member and has read 4: `plan` says u2 → (6, 6). u1 edits 5 by event 7, which
mentions u3: a plan from 7 on says u3 → (5, 7), if u3 has not read 5.

**Trade-off.** Where versions are erased, the content before an edit is gone: then whom an edit mentions counts as
mentioned for the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.devices.device import Device
from services.persistence.chat.devices.devices import Devices
from services.persistence.chat.domain import events
from services.persistence.chat.domain.access import history_from, may_read
from services.persistence.chat.domain.state import Message, Phase, Type
from services.persistence.chat.live import Found, Live
from services.persistence.chat.markers.markers import Markers
from services.persistence.chat.markers.record import Place
from services.persistence.chat.rows import read_publications
from services.persistence.chat.unread.badge import Badges
from services.persistence.domain.log import Log
from services.persistence.domain.ports import Rows
from thalamus.common.v1.common_pb2 import Publication

_PAGE_ROWS = 512
_PAGE_BYTES = 2 << 20
_PAGES = 4  # of one call
_TEXT = 1_000  # characters of a message that are told

_parse = Publication.FromString


class What(NamedTuple):
    """A message to notify somebody of. `rev`: the event that is the reason."""

    offset: int
    rev: int


class Plan(NamedTuple):
    """What a range of the log gives reason for.

    `upto`: up to where it was looked at; `more`: there is more. `is_changed`: what was shown may have to go.
    """

    epoch: str
    upto: int
    more: bool
    is_changed: bool
    users: Mapping[str, What]


class Shown(NamedTuple):
    """What a notification says. `title`: name of the conversation."""

    type: str
    title: str
    author: str
    author_name: str
    text: str
    time_ms: int
    attachments: int
    is_mention: bool
    badge: int | None
    device: Device | None


@dataclass(slots=True)
class _Reasons:
    """Messages of a range, as reasons to notify."""

    newest: list[tuple[str, What]] = field(default_factory=list)  # of two authors at most, the newest first
    called: dict[str, What] = field(default_factory=dict)  # user → newest that mentions or answers the user
    all_called: list[tuple[str, What]] = field(default_factory=list)  # those that mention everybody, as `newest`
    is_changed: bool = False

    def add(self, author: str, what: What, users: Iterable[str], *, everybody: bool, is_new: bool) -> None:
        """Take in a message; later ones come later."""
        if is_new:
            self.newest = _with(self.newest, author, what)
        if everybody:
            self.all_called = _with(self.all_called, author, what)
        for user in users:
            if user != author:
                self.called[user] = what

    def for_user(self, user: str, *, calls_only: bool) -> What | None:
        """Return the newest reason to notify a user."""
        lists = (self.all_called,) if calls_only else (self.newest, self.all_called)
        found = [what for one in lists for author, what in one if author != user]
        found += [self.called[user]] if user in self.called else []
        return max(found, key=lambda what: what.rev, default=None)


def _with(kept: list[tuple[str, What]], author: str, what: What) -> list[tuple[str, What]]:
    return [(author, what), *(one for one in kept if one[0] != author)][:2]


class Notifications:
    """Answers what the notifier asks. Every method raises `Unavailable`."""

    def __init__(
        self,
        log: Log,
        rows: Rows,
        conversations: Conversations,
        markers: Markers,
        devices: Devices,
        badges: Badges,
        now_ms: Callable[[], int],
    ) -> None:
        self._log, self._rows, self._conversations = log, rows, conversations
        self._markers, self._devices, self._badges, self._now_ms = markers, devices, badges, now_ms

    async def plan(self, channel: str, first: int, max_members: int) -> Plan:
        """Look at the log from an offset on; see the module."""
        live = await self._conversations.current(channel)
        if live.state.phase is not Phase.ACTIVE or first > live.position:
            return Plan(live.epoch, live.position, False, live.state.phase is not Phase.ACTIVE, {})
        reasons, upto = _Reasons(), first - 1
        for _ in range(_PAGES):
            rows, _top = await self._log.read_counted(
                channel, since_offset=upto, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
            )
            rows = [row for row in rows if row.offset <= live.position]
            if not rows:
                upto = live.position
                break
            await self._look(live, [(row.offset, row.publication) for row in rows], reasons)
            upto = rows[-1].offset
            if upto >= live.position:
                break
        users = await self._users(live, reasons, max_members)
        return Plan(live.epoch, upto, upto < live.position, reasons.is_changed, users)

    async def show(self, channel: str, epoch: str, offset: int, user: str, address: str) -> Shown | None:
        """Return what to say of a message to a user; None: nothing.

        `address`: of the device that it goes to; "": to none, but to a backend.
        """
        live, message = await self._wanted(channel, epoch, offset, [user])
        if message is None:
            return None
        place = (await self._markers.of_channel(channel, [user]))[user].within(live.epoch)
        preferences = place.preferences
        if place.marker.offset >= offset or preferences.is_muted(self._now_ms()) or preferences.notify == "none":
            return None
        if preferences.notify == "mentions" and not await self._calls(live, message, user):
            return None
        device = await self.device(user, address) if address else None
        if address and device is None:
            return None
        row = (await read_publications(self._rows, channel, [offset])).get(offset)
        content, state = message.content, live.state
        return Shown(
            state.type.value,
            state.name,
            message.author,
            _name(row) or message.author,
            content.text[:_TEXT],
            message.time_ms,
            len(content.attachments),
            user in content.mentions or content.mention_all,
            await self.badge(user),
            device,
        )

    async def _calls(self, live: Live, message: Message, user: str) -> bool:
        """Whether a message mentions a user, or answers one of the user's."""
        if user in message.content.mentions or message.content.mention_all:
            return True
        if not message.reply_to:
            return False
        answered = (await self._conversations.messages(live, [message.reply_to])).get(message.reply_to)
        return isinstance(answered, Message) and answered.author == user

    async def still(self, channel: str, epoch: str, shown: Mapping[str, int]) -> dict[str, bool]:
        """Return for each user whether the message at an offset is still to be shown."""
        places = await self._markers.of_channel(channel, list(shown))
        unread = {user: offset for user, offset in shown.items() if places[user].within(epoch).marker.offset < offset}
        found = dict.fromkeys(shown, False)
        for offset in set(unread.values()):
            users = [user for user, one in unread.items() if one == offset]
            live, message = await self._wanted(channel, epoch, offset, users)
            if message is not None:
                found |= {user: self._may_see(live, user, offset) for user in users}
        return found

    async def badge(self, user: str) -> int | None:
        """Return how much is unread in all conversations; None: that is not known."""
        return await self._badges.of(user)

    async def device(self, user: str, address: str) -> Device | None:
        """Return the device of a user with this address."""
        devices = (await self._devices.of([user])).get(user, [])
        return next((device for device in devices if device.address == address), None)

    async def _wanted(
        self, channel: str, epoch: str, offset: int, users: Collection[str]
    ) -> tuple[Live, Message | None]:
        """Return a message that is there, and that one of the users may see."""
        live = await self._conversations.current(channel)
        if live.epoch != epoch or not any(self._may_see(live, user, offset) for user in users):
            return live, None
        message = (await self._conversations.messages(live, [offset])).get(offset)
        return live, message if isinstance(message, Message) else None

    def _may_see(self, live: Live, user: str, offset: int) -> bool:
        state = live.state
        return (
            state.phase is Phase.ACTIVE and may_read(state, user, self._now_ms()) and history_from(state, user) < offset
        )

    async def _look(self, live: Live, rows: Sequence[tuple[int, bytes]], reasons: _Reasons) -> None:
        """Take in reasons among rows of the log, by offset."""
        parsed = {offset: events.read(_parse(publication).data) for offset, publication in rows}
        edits = {offset: event for offset, event in parsed.items() if isinstance(event, events.Edit)}
        found = await self._conversations.messages_of(live, rows)
        messages = {**found, **await self._conversations.messages(live, {edit.of for edit in edits.values()})}
        answered = {one.reply_to for one in messages.values() if isinstance(one, Message) and one.reply_to}
        authors = await self._conversations.messages(live, answered)
        known = await self._mentioned_before(live, edits, messages)
        for offset, event in parsed.items():
            one = messages.get(event.of if isinstance(event, events.Edit) else offset)
            if isinstance(event, events.Delete | events.Purge | events.Lifecycle | events.Membership):
                reasons.is_changed = True
            elif not isinstance(one, Message) or not one.counts:
                continue
            elif isinstance(event, events.Message):
                reply = authors.get(one.reply_to) if one.reply_to else None
                called = [*one.content.mentions, *([reply.author] if isinstance(reply, Message) else [])]
                what = What(offset, offset)
                reasons.add(one.author, what, called, everybody=one.content.mention_all, is_new=True)
            elif isinstance(event, events.Edit) and offset in one.edits:
                before = known.get(offset, events.Message())
                new = set(event.mentions) - set(before.mentions)
                everybody = event.mention_all and not before.mention_all
                reasons.add(one.author, What(event.of, offset), new, everybody=everybody, is_new=False)

    async def _mentioned_before(
        self, live: Live, edits: Mapping[int, events.Edit], messages: Mapping[int, Found]
    ) -> dict[int, events.Message | events.Edit]:
        """Return what each edit replaced, where it is still known."""
        before: dict[int, int] = {}
        for offset, edit in edits.items():
            if (edit.mentions or edit.mention_all) and isinstance(one := messages.get(edit.of), Message):
                before[offset] = max((rev for rev in one.edits if rev < offset), default=edit.of)
        rows = await read_publications(self._rows, live.channel, set(before.values()))
        read = {offset: events.read(_parse(row).data) for offset, row in rows.items()}
        return {
            offset: event
            for offset, rev in before.items()
            if isinstance(event := read.get(rev), events.Message | events.Edit)
        }

    async def _users(self, live: Live, reasons: _Reasons, max_members: int) -> dict[str, What]:
        """Return whom to notify, of those who may see it and have not read it."""
        state = live.state
        is_large = state.type is Type.OPEN or len(state.members) > max_members
        candidates = list(reasons.called) if is_large else list(state.members)
        if not candidates or not (reasons.called or reasons.newest or reasons.all_called):
            return {}
        places = await self._markers.of_channel(live.channel, candidates)
        return dict(self._unread(live, reasons, places, is_large=is_large))

    def _unread(
        self, live: Live, reasons: _Reasons, places: Mapping[str, Place], *, is_large: bool
    ) -> Iterator[tuple[str, What]]:
        now_ms = self._now_ms()
        for user, kept in places.items():
            place = kept.within(live.epoch)
            if place.preferences.is_muted(now_ms) or place.preferences.notify == "none":
                continue
            if is_large:
                what = reasons.called.get(user)
            else:
                what = reasons.for_user(user, calls_only=place.preferences.notify == "mentions")
            if what is not None and place.marker.offset < what.offset and self._may_see(live, user, what.offset):
                yield user, what


class _Info(msgspec.Struct):
    """What a token may say of an author."""

    name: str = ""


def _name(publication: bytes | None) -> str:
    """The name of an author, if the token had one."""
    info = _parse(publication).info.conn_info if publication else b""
    try:
        return msgspec.json.decode(info, type=_Info).name[:128] if info else ""
    except (msgspec.MsgspecError, RecursionError):
        return ""
