"""A conversation in memory: its state at one position of its log.

Purpose. Whoever decides about an event, or answers a question, needs the state at the newest position. `Live` has it
and takes in what the log adds. It does no I/O: `conversations.py` reads for it, `projection.py` writes what it changed.

Rules.

* It is what `fold` makes of the log up to `position`; but of the messages it has only those in `state.messages`. There
  are those that changed since the read model was written (`unwritten.py`), and some that were asked for.
* A message of the log that has no document in the read model, and is not in memory, is as it was written. So messages
  that nobody changes take no memory and no document.
* An event that is void has a document that says so, in place of a message's.
* A purge is kept as (user, up to where, by which event). Whatever is read of that user's messages is deleted then.
* A publication with flag 1 alone is a message that counts, which applies: its guard was the membership version when it
  got its offset. It is not parsed, only counted, unless somebody asks what is unread (`recent`).

Example. Position 9, and the row of 10 is a reaction to 4. Message 4 is loaded, 10 is folded: 4 is in memory with the
reaction, and in `unwritten`. After the next write of the read model it is in neither.

Trade-offs. Folding needs the messages that an event names, which must be loaded before: see `names`. Of void events the
newest 1,024 are known, 64 after loading; the others have documents.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry, apply_event, deleted
from services.persistence.chat.domain.rules import BY_ONESELF, Why, decide
from services.persistence.chat.domain.state import PLATFORM, Conversation, Deleted, Message, Phase, Type
from services.persistence.chat.recent import Recent
from services.persistence.chat.said import NOBODY, Mentions, is_loud, mentions_in, said_by
from services.persistence.chat.unwritten import Unwritten

Event = events.Known | events.Custom
Found = Message | Deleted

_VOID_KEPT = 1_024  # void events of which it is known why
PINS_KEPT = 300  # pinned messages that are known: a list has 100, and some may be taken off or purged
_MOST_PURGES = 1_000  # of one user; the oldest two become one then
_UNASKED = 10_000  # messages after which `recent` goes if nobody asked meanwhile
_LOADED_KEPT = 64  # messages in memory that the read model has, too
_NO_REPLIES: Mapping[int, int] = {}


class _Unkept(dict[str, deque[int]]):
    """In place of `Conversation.written`, which would grow with the log."""

    def setdefault(self, key: str, default: deque[int] | None = None) -> deque[int]:
        return _NOTHING


_NOTHING: deque[int] = deque(maxlen=0)


class Purge(NamedTuple):
    """Messages of a user up to `upto` are deleted by the event at `by`."""

    upto: int
    by: int


_upto = attrgetter("upto")


class Live:
    """State of a conversation at one position; see the module."""

    __slots__ = (
        "__weakref__",
        "changed_at",
        "channel",
        "ended_at",
        "epoch",
        "has_threads",
        "lacks_pins",
        "left",
        "lock",
        "mv",
        "pins",
        "position",
        "projected",
        "purges",
        "recent",
        "removed",
        "seen",
        "state",
        "uncounted",
        "unwritten",
        "void",
        "void_from",
    )

    def __init__(self, channel: str, epoch: str, state: Conversation | None = None) -> None:
        """Create it at the beginning of the log, unless a state is given."""
        self.channel, self.epoch = channel, epoch
        self.state = Conversation() if state is None else state
        self.state.written = _Unkept()
        self.position = 0  # the log up to here is in `state`
        self.changed_at = 0  # the newest entry folded here that changed more than that there is one more message
        self.seen = 0  # highest offset that is known to be readable
        self.removed = 0  # history up to here was removed, as far as is known
        self.recent: Recent | None = None  # messages above an offset, as of `position`, for who asks what is unread
        self.mv = 0  # membership version at `position`
        self.projected: int | None = None  # position of the read model; None: it has nothing
        self.purges: dict[str, list[Purge]] = {}  # by user, ascending; see `purging.py`
        self.pins: dict[int, None] = {}  # the newest pinned messages, in this order; some may be purged since
        self.lacks_pins = False  # whether any was ever left out of `pins`
        self.has_threads = False  # whether any message was ever in a thread
        self.ended_at = 0  # offset of its deletion, while the read model does not know of it
        self.uncounted: dict[int, int] = {}  # erased replies that no root counts → what erased them, still to come
        self.void: dict[int, Why] = {}  # offset → why; the newest void events
        self.void_from = 0  # `void` has all from this offset on
        self.left: set[str] = set()  # users who left, and may have come back; who is told of that clears it
        self.lock = asyncio.Lock()  # held by who loads messages, folds or writes the read model
        self.unwritten = Unwritten()  # what of it the read model does not have yet

    def become(self, other: Live) -> None:
        """Take the state of another one of the same channel."""
        seen = max(self.seen, other.seen) if self.epoch == other.epoch else other.seen
        changed_at = max(self.changed_at, other.position)
        removed = max(self.removed, other.removed) if self.epoch == other.epoch else other.removed
        for name in self.__slots__:
            if name not in ("channel", "lock", "__weakref__"):
                setattr(self, name, getattr(other, name))
        self.seen, self.changed_at, self.removed = seen, changed_at, removed

    # What it was asked.

    def deleted_by(self, author: str, offset: int) -> int | None:
        """Offset of the purge that took a message of this author; None if none did."""
        kept = self.purges.get(author)
        if not kept or offset > kept[-1].upto:
            return None
        return kept[bisect_left(kept, offset, key=_upto)].by

    def knows(self, offset: int) -> bool:
        """Whether it is known without loading what became of a message."""
        return offset in self.state.messages or offset in self.unwritten.void

    def keep(self, loaded: Mapping[int, Found]) -> None:
        """Have messages in memory, as they are at `position`."""
        for offset, message in loaded.items():
            self.state.messages.setdefault(offset, message)

    def trim(self) -> None:
        """Forget messages that the read model or the log has; the newest 64 stay.

        Of one that is erased, and whose deletion is still to come, what is about it is known here alone.
        """
        kept = self.unwritten.touched
        spare = [
            offset
            for offset, one in self.state.messages.items()
            if offset not in kept and not (isinstance(one, Deleted) and one.by > self.position)
        ]
        for offset in spare[: max(0, len(spare) - _LOADED_KEPT)]:
            del self.state.messages[offset]

    def forget_purges(self, user: str, by: int) -> None:
        """Forget purges of a user by events up to an offset, but the newest.

        Their messages are erased, so they say themselves by which event they went.
        """
        kept = self.purges[user]
        kept[:-1] = [purge for purge in kept[:-1] if purge.by > by]

    # What the log adds.

    def skip(self, offset: int, *, mv: int, plain: bytes | None = None) -> None:
        """Take in what changes nothing but the counts.

        It is `plain`, a plain message, or rows that were removed.
        """
        self.state.n += plain is not None
        self.position, self.mv = offset, mv
        if plain is not None and self.recent is not None:
            said = said_by(plain)
            self.recent.erased(said.unclear_until)
            if not said.is_erased:
                self._came(offset, said.author, counts=True, mentions=said.mentions)

    def acked(self, offset: int, event: Event, author: str) -> None:
        """Take in an own plain publication that is stored, if it is the next one."""
        if offset == self.position + 1:
            self.position = offset
            if isinstance(event, events.Message):
                self.state.n += event.counts
                if self.recent is not None:
                    self._came(offset, author, counts=event.counts, mentions=_mentions_of(event))
        self.seen = max(self.seen, offset)

    def will_apply(self, event: Event, entry: Entry) -> bool:
        """Whether the next entry applies; what it names must be in memory."""
        return decide(self.state, event, entry.author, entry.time_ms, entry.offset) is None

    def fold(
        self, event: Event | None, entry: Entry, mv: int, purged_replies: Mapping[int, int] = _NO_REPLIES
    ) -> Why | None:
        """Take in the next entry of the log; return why it is void.

        What it names must be in memory. `purged_replies`, for a purge: root of a thread → replies that are deleted;
        the roots must be in memory.
        """
        state = self.state
        owner = state.owner()
        users = {*state.members, *state.invited} if isinstance(event, events.Lifecycle) else set()
        name = state.name
        root = self._root_of(event)
        why = apply_event(state, event, entry)
        self.position, self.mv = entry.offset, mv
        if why is Why.DELETED and self._was_there(event, entry.offset):
            return None
        if why is not None:
            self._note_void(entry.offset, why)
            return why
        if isinstance(event, events.Erased) and event.by < entry.offset:  # an edit that came behind the delete
            self._note_void(entry.offset, Why.DELETED)
        if not isinstance(event, events.Message) or event.thread is not None:
            self.changed_at = entry.offset
        self._recall(event, entry)
        match event:
            case events.Message(thread=int()) | events.Delete():
                if isinstance(event, events.Message):
                    self.has_threads = True
                else:
                    self.unwritten.touched[event.of] = None
                    self.pins.pop(event.of, None)
                if root in self.state.messages:  # its history may have been removed
                    self.unwritten.touched[root] = None
            case events.Edit() | events.Reaction():
                self.unwritten.touched[event.of] = None
            case events.Pin():
                self.unwritten.touched[event.of] = None
                self.pins.pop(event.of, None)
                if event.op == "add":
                    self.pins[event.of] = None
                    if len(self.pins) > PINS_KEPT:
                        del self.pins[next(iter(self.pins))]
                        self.lacks_pins = True
            case events.Purge():
                self._purge(event, entry.offset, purged_replies)
            case events.Membership():
                user = entry.author if event.op in BY_ONESELF else event.user
                self.unwritten.people |= {user, *(one for one in (owner, state.owner()) if one)}
            case events.Lifecycle():
                self._lifecycle(users, is_moved=event.op != "create" and (event.op != "update" or state.name != name))
            case events.Erased(was="void"):
                why = next((one for one in Why if one.value == event.why), Why.MALFORMED)
                self._note_void(entry.offset, why)
                return why
            case events.Erased(was="message", thread=int()) if event.by > entry.offset:
                self.uncounted[entry.offset] = event.by
        if self.uncounted and isinstance(event, (events.Delete, events.Purge, events.Lifecycle)):
            self.uncounted = {offset: by for offset, by in self.uncounted.items() if by > entry.offset}
        return None

    def _came(self, offset: int, author: str, *, counts: bool, mentions: Mentions) -> None:
        """Have `recent` know of the next message, until nobody asks any more."""
        assert self.recent is not None
        self.recent.add(offset, author, counts=counts, mentions=mentions)
        if self.recent.unasked > _UNASKED:
            self.recent = None

    def _recall(self, event: Event | None, entry: Entry) -> None:
        """Have `recent` know of an event that was folded."""
        recent = self.recent
        if recent is None:
            return
        match event:
            case events.Message():
                self._came(entry.offset, entry.author, counts=event.counts, mentions=_mentions_of(event))
                recent.erased(_moved_to(event))
            case events.Edit():
                found = self.state.messages[event.of]
                if isinstance(found, Message) and is_loud(counts=found.counts, thread=found.thread):
                    recent.edit(event.of, found.author, mentions_in(event))
                    recent.erased(_moved_to(event))
            case events.Delete():
                recent.delete(event.of)
            case events.Purge():
                recent.purge(event.user, min(event.upto, entry.offset - 1))
            case events.Erased(was="message"):
                recent.erased(event.by)
            case events.Lifecycle() if self.state.phase is Phase.DELETED:
                self.recent = None

    def _was_there(self, event: Event | None, offset: int) -> bool:
        """Whether a message that is erased already was deleted behind the event.

        Then the event is about it, and is to be erased with it.
        """
        if not isinstance(event, (events.Edit, events.Reaction, events.Pin)):
            return False
        found = self.state.messages.get(event.of)
        if not isinstance(found, Deleted) or found.by <= offset:
            return False
        if not isinstance(event, events.Pin) and offset not in found.about:
            found.about = (*found.about, offset)
        return True

    def _root_of(self, event: Event | None) -> int | None:
        """Root of the thread that the event adds to, or takes from."""
        if isinstance(event, events.Message):
            return event.thread
        if isinstance(event, events.Delete):
            found = self.state.messages.get(event.of)
            return None if found is None else found.thread
        return None

    def _note_void(self, offset: int, why: Why) -> None:
        self.void[offset] = why
        if len(self.void) > _VOID_KEPT:
            del self.void[next(iter(self.void))]
            self.void_from = next(iter(self.void))
        self.unwritten.void[offset] = why

    def _purge(self, event: events.Purge, by: int, replies: Mapping[int, int]) -> None:
        upto = min(event.upto, by - 1)
        kept = self.purges.setdefault(event.user, [])
        if not kept or upto > kept[-1].upto:
            kept.append(Purge(upto, by))
            self.unwritten.purged.add(event.user)
        if len(kept) > _MOST_PURGES:
            del kept[0]  # what it had falls to the next one
        messages = self.state.messages
        for offset, message in messages.items():
            if offset <= upto and isinstance(message, Message) and message.author == event.user:
                messages[offset] = deleted(message, by)
        for root, count in replies.items():
            if root in messages:  # its history may have been removed
                messages[root].replies -= count
                self.unwritten.touched[root] = None

    def _lifecycle(self, users: set[str], *, is_moved: bool) -> None:
        """Note whose lists change.

        `is_moved`: it was closed, reopened, renamed or deleted.
        """
        if is_moved and self.state.type is Type.OPEN:  # see `Walk`
            self.unwritten.people.add(PLATFORM)
        if self.state.phase is Phase.DELETED:
            self.unwritten.end(users)
            self.purges.clear()
            self.pins.clear()
            self.ended_at = self.position
        else:
            self.unwritten.people |= self.state.members.keys()


def _mentions_of(message: events.Message) -> Mentions:
    return mentions_in(message) if is_loud(counts=message.counts, thread=message.thread) else NOBODY


def _moved_to(event: events.Message | events.Edit) -> int:
    """Offset of the edit that has the content of an emptied version.

    0: it has its own.
    """
    return event.next or 0 if event.erased else 0


def names(event: Event | None) -> Iterator[int]:
    """Offsets of messages that must be in memory before the event is decided."""
    match event:
        case events.Message(thread=int() as root):
            yield root
        case events.Edit() | events.Delete() | events.Reaction() | events.Pin():
            yield event.of
