"""Documents of the read model, as JSON: conversations, people and messages.

Fields are only added: an older replica reads them, too. A head has nothing that grows with the number of users: what
there is of a user, who may have purged without ever being a member, is in a document of that user. Messages have a
document only if something happened to them; the content of one that was not edited stays in the log alone.
"""

from __future__ import annotations

import msgspec

from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry, deleted
from services.persistence.chat.domain.rights import Role
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.settings import Settings
from services.persistence.chat.domain.state import (
    PLATFORM,
    Content,
    Conversation,
    Deleted,
    Member,
    Message,
    Phase,
    Type,
)
from services.persistence.chat.live import PINS_KEPT, Event, Found, Live, Purge
from services.persistence.chat.ports import Changes, Loaded
from services.persistence.chat.unwritten import Changed

_VOID_KEPT = 64  # void events of which a head says why, the newest ones; without another number: all there are


class Head(msgspec.Struct, omit_defaults=True):
    """The conversation itself."""

    epoch: str
    phase: Phase
    type: Type
    n: int = 0
    mv: int = 0
    name: str = ""
    settings: Settings = Settings()
    pins: list[int] = []  # see Live.pins
    lacks_pins: bool = False
    threads: bool = False
    uncounted: list[tuple[int, int]] = []  # see Live.uncounted
    void: list[tuple[int, Why]] = []


class Person(msgspec.Struct, omit_defaults=True):
    """What the conversation knows of a user."""

    role: Role | None = None
    since: int = 0
    role_since: int = 0
    history_from: int = msgspec.field(default=0, name="from")
    invited: Role | None = None
    banned: bool = False
    banned_until: int | None = None
    silenced: int | None = None
    purges: list[tuple[int, int]] = []  # (up to, by), see Live.purges; also of users who are no members


class Listed(msgspec.Struct, omit_defaults=True):
    """An entry of a user's list of conversations."""

    type: Type
    role: Role | None = None
    since: int = 0
    invited: Role | None = None
    left: bool = False  # it is not shown any more, and says where the user may have written
    at_ms: int = msgspec.field(default=0, name="at")  # when this was written, Unix ms; 0: not known
    history_from: int = msgspec.field(default=-1, name="from")  # see Member.history_from; -1: not known


class Overlay(msgspec.Struct, omit_defaults=True):
    """What became of a message. `at`: position as of which this holds."""

    at: int
    void: Why | None = None
    deleted: int | None = None  # by which event
    counts: bool = False
    about: tuple[int, ...] = ()
    rev: int | None = None
    content: Content | None = None
    edits: list[int] = []
    reactions: dict[str, dict[str, int]] = {}
    replies: int = 0
    pinned: bool = False

    @property
    def known(self) -> tuple[int, ...]:
        """Offsets of events about the message that stand in the log."""
        return (*self.edits, *(offset for users in self.reactions.values() for offset in users.values()))

    @property
    def ends(self) -> bool:
        """Whether there is nothing more to know of the message."""
        return self.void is not None or self.deleted is not None


_head = msgspec.json.Decoder(Head)
_person = msgspec.json.Decoder(Person)
_listed = msgspec.json.Decoder(Listed)
_overlay = msgspec.json.Decoder(Overlay)
_encode = msgspec.json.Encoder().encode


def live_of(channel: str, loaded: Loaded) -> Live:
    """Return the conversation that the read model has."""
    head = _head.decode(loaded.head)
    state = Conversation(phase=head.phase, type=head.type, name=head.name, settings=head.settings, n=head.n)
    people = {user: _person.decode(document) for user, document in loaded.people.items()}
    for user, person in sorted(people.items(), key=lambda item: item[1].since):
        if person.role is not None:
            state.members[user] = Member(person.role, person.since, person.role_since, person.history_from)
        if person.invited is not None:
            state.invited[user] = person.invited
        if person.banned:
            state.banned[user] = person.banned_until
        if person.silenced is not None:
            state.silenced[user] = person.silenced
    for user, member in sorted(state.members.items(), key=lambda item: item[1].role_since):
        state.by_role[member.role][user] = None
    live = Live(channel, head.epoch, state)
    live.position = live.projected = live.seen = loaded.position
    live.mv, live.has_threads, live.void = head.mv, head.threads, dict(head.void)
    live.void_from = head.void[0][0] if len(head.void) >= _VOID_KEPT else 0
    live.pins, live.uncounted = dict.fromkeys(head.pins[-PINS_KEPT:]), dict(head.uncounted)
    live.lacks_pins = head.lacks_pins or len(head.pins) > PINS_KEPT
    live.purges = {user: [Purge(*one) for one in person.purges] for user, person in people.items() if person.purges}
    return live


def changes_of(live: Live, changed: Changed, now_ms: int = 0) -> Changes:
    """Return what is to be written of a conversation, as of its position.

    `now_ms`: the present time, Unix ms.
    """
    state, at = live.state, live.position
    head = Head(
        epoch=live.epoch,
        phase=state.phase,
        type=state.type,
        n=state.n,
        mv=live.mv,
        name=state.name,
        settings=state.settings,
        pins=list(live.pins),
        lacks_pins=live.lacks_pins,
        threads=live.has_threads,
        uncounted=list(live.uncounted.items()),
        void=list(live.void.items())[-_VOID_KEPT:],
    )
    overlays = {offset: _encode(_overlay_of(message, offset, at)) for offset, message in changed.touched.items()}
    overlays |= {offset: _encode(Overlay(at, void=why)) for offset, why in changed.void.items()}
    return Changes(
        at,
        _encode(head),
        {user: _person_document(live, user) for user in changed.people | changed.purged} | dict.fromkeys(changed.gone),
        {user: _listed_document(state, user, now_ms) for user in changed.people} | dict.fromkeys(changed.gone),
        overlays,
        directory_name(live.channel, state),
    )


def directory_name(channel: str, state: Conversation) -> str | None:
    """Name under which everybody finds an open conversation; None for others."""
    if state.type is not Type.OPEN or state.phase is not Phase.ACTIVE:
        return None
    return state.name or channel.partition(":o.")[2]


def nothing_of(at: int) -> bytes:
    """Return the document of a message to which nothing happened up to a position."""
    return _encode(Overlay(at))


def overlay_of(document: bytes) -> Overlay:
    """Decode the document of a message."""
    overlay: Overlay = _overlay.decode(document)
    return overlay


def message_of(
    live: Live, offset: int, overlay: Overlay | None, row: tuple[Event | None, Entry] | None
) -> Found | None:
    """Return a message from its document and its row; None if there is none.

    Without a document the message is as it was written, unless a purge took it.
    """
    if overlay is not None and overlay.void is not None:
        return None
    if overlay is not None and overlay.deleted is not None:
        return Deleted(overlay.deleted, overlay.counts, overlay.replies, overlay.about)
    event, entry = (None, None) if row is None else row
    replies = 0 if overlay is None else overlay.replies
    if isinstance(event, events.Erased) and event.was == "message" and entry is not None and entry.author == PLATFORM:
        root = event.thread if event.by > live.position and offset not in live.uncounted else None
        return Deleted(event.by, event.counts, replies, () if overlay is None else overlay.known, root)
    if entry is None or not isinstance(event, events.Message):
        return None
    message = Message(
        author=entry.author,
        time_ms=entry.time_ms,
        content=content_of(event),
        rev=offset,
        counts=event.counts,
        reply_to=event.reply_to,
        thread=event.thread,
    )
    if overlay is not None:
        message.replies, message.pinned, message.reactions = replies, overlay.pinned, overlay.reactions
        message.edits = overlay.edits
        if overlay.rev is not None and overlay.content is not None:
            message.rev, message.content = overlay.rev, overlay.content
    by = live.deleted_by(entry.author, offset)
    return message if by is None else deleted(message, by)


def content_of(event: events.Message | events.Edit) -> Content:
    """Return the content that an event gives to a message."""
    return Content(event.text, event.format, event.attachments, event.mentions, event.mention_all, event.meta)


def _overlay_of(message: Found, offset: int, at: int) -> Overlay:
    if isinstance(message, Deleted):
        return Overlay(at, deleted=message.by, counts=message.counts, replies=message.replies, about=message.about)
    overlay = Overlay(
        at, edits=message.edits, reactions=message.reactions, replies=message.replies, pinned=message.pinned
    )
    if message.rev != offset:
        overlay.rev, overlay.content = message.rev, message.content
    return overlay


def _person_document(live: Live, user: str) -> bytes | None:
    state = live.state
    person = Person(
        invited=state.invited.get(user),
        banned=user in state.banned,
        banned_until=state.banned.get(user),
        silenced=state.silenced.get(user),
        purges=[(one.upto, one.by) for one in live.purges.get(user, ())],
    )
    member = state.members.get(user)
    if member is not None:
        person.role, person.since, person.role_since = member.role, member.since, member.role_since
        person.history_from = member.history_from
    return None if person == Person() else _encode(person)


def listed_of(document: bytes) -> Listed:
    """Decode an entry of a user's list."""
    listed: Listed = _listed.decode(document)
    return listed


def is_left(document: bytes) -> bool:
    """Whether an entry of a user's list only says that the user was there once."""
    return listed_of(document).left


def is_member(document: bytes) -> bool:
    """Whether an entry of a user's list says that the user is a member now."""
    listed: Listed = _listed.decode(document)
    return listed.role is not None


def is_closed_open(state: Conversation) -> bool:
    """Whether the list of the platform has it and no directory: open, and closed."""
    return state.type is Type.OPEN and state.phase is Phase.CLOSED


def _listed_document(state: Conversation, user: str, now_ms: int) -> bytes:
    if user == PLATFORM:  # of an open one that was not always in the directory, or not in one place
        return _encode(Listed(state.type, left=True))
    member, invited = state.members.get(user), state.invited.get(user)
    if member is None and invited is None:
        return _encode(Listed(state.type, left=True, at_ms=now_ms))
    return _encode(
        Listed(
            state.type,
            role=None if member is None else member.role,
            since=0 if member is None else member.since,
            invited=invited,
            at_ms=now_ms,
            history_from=0 if member is None else member.history_from,
        )
    )
