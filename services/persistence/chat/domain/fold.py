"""The fold: what a conversation is, from what its log says happened.

Purpose. The log is the truth about a conversation. Everything that reads it, on any service, in any client and after
any restart, must come to the same state. `apply` takes the state and one entry of the log; `fold` takes them all.

Rules.

* Total. Every entry leads to a state. One that does not apply is void: it changes nothing, and `apply` says why.
* Deterministic. It reads an entry's offset, author, time and data, and nothing else: no clock, no configuration.
* The order of the log decides. Rights and roles are those that the entries before this one gave.
* One owner. A group with members has exactly one owner, an open conversation at most one, and a direct one none. An
  owner who leaves is followed by who has the highest role, and of these by who has had it for the longest time; in an
  open conversation only by an admin or moderator.
* `n` counts the messages that count (neither silent nor in a thread), also those that were deleted since.
* Erasing changes no state from the erasing event on. A deleted message may be replaced by `erased`, and so may edits
  and reactions of it; content that was edited may be replaced by an empty version. From the delete or edit on the state
  is the same as without that.

Example. Offset 1 creates a group of u1, 2 adds u2, 3 is a message of u2, 4 deletes it, 5 is an edit of it by u2. The
fold of all five: one deleted message, n = 1, and 5 is void because of `deleted`, whichever edges the last two went
through. If `{"kind":"erased","was":"message","by":4,"counts":true}` now takes the place of 3, the fold of 1 to 4 is
the same.

Trade-offs.

* A message that was erased is deleted from its own place on. An entry between it and its delete that needs it live (the
  root of a thread) compares its own offset with `by`. This is why threads may be begun at any message: whether a root
  was itself in a thread is forgotten with it.
* Slow mode is decided before an event gets its number, and not here. Here it would depend on the time of the author's
  last message, which erasing forgets.
* The work per entry is bounded, apart from what a purge and the deletion of a conversation remove, which is removed
  once. `written` has each author's messages for the purge; it keeps deleted ones until a purge passes them.
* All live messages are in memory. A caller that has only some may put a mapping of its own in `messages`.

See docs/chat.md and docs/decisions/0050.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from services.persistence.chat.domain import events
from services.persistence.chat.domain.rights import Role
from services.persistence.chat.domain.rules import BY_ONESELF, Why, decide, name_after, settings_after
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One publication of a conversation's log."""

    offset: int
    author: str  # user id; empty for the platform
    time_ms: int  # Unix ms; never falls within a log
    data: bytes


def fold(entries: Iterable[Entry], conversation: Conversation | None = None) -> Conversation:
    """Return the state after these entries.

    They follow those that led to `conversation`, which is changed; without one they begin the log.
    """
    state = Conversation() if conversation is None else conversation
    for entry in entries:
        apply(state, entry)
    return state


def apply(conversation: Conversation, entry: Entry) -> Why | None:
    """Change the state by one entry; return why it is void, None if it applies."""
    return apply_event(conversation, events.read(entry.data), entry)


def apply_event(conversation: Conversation, event: events.Known | events.Custom | None, entry: Entry) -> Why | None:
    """As `apply`, for a caller that has read the entry.

    `event` is what `events.read` returned.
    """
    if event is None:
        return Why.MALFORMED
    why = decide(conversation, event, entry.author, entry.time_ms, entry.offset)
    if why is None and not isinstance(event, events.Custom):
        _EFFECTS[type(event)](conversation, event, entry)
    return why


def _message(c: Conversation, event: events.Message, entry: Entry) -> None:
    c.messages[entry.offset] = Message(
        author=entry.author,
        time_ms=entry.time_ms,
        content=_content(event),
        rev=entry.offset,
        counts=event.counts,
        reply_to=event.reply_to,
        thread=event.thread,
    )
    c.written.setdefault(entry.author, deque()).append(entry.offset)
    if event.thread is not None:
        c.messages[event.thread].replies += 1
    c.n += event.counts


def _edit(c: Conversation, event: events.Edit, entry: Entry) -> None:
    message = c.messages[event.of]
    if isinstance(message, Message):
        message.content, message.rev = _content(event), entry.offset
        message.edits.append(entry.offset)


def _content(event: events.Message | events.Edit) -> Content:
    return Content(event.text, event.format, event.attachments, event.mentions, event.mention_all, event.meta)


def _delete(c: Conversation, event: events.Delete, entry: Entry) -> None:
    _drop(c, event.of, entry.offset)


def _purge(c: Conversation, event: events.Purge, entry: Entry) -> None:
    written = c.written.get(event.user, deque())
    while written and written[0] <= event.upto:
        _drop(c, written.popleft(), entry.offset)


def _drop(c: Conversation, offset: int, by: int) -> None:
    """Delete a message, unless it is deleted already."""
    message = c.messages[offset]
    if isinstance(message, Message):
        c.messages[offset], root = deleted(message, by), message.thread
    else:  # perhaps erased before this was folded: then its root counts it still
        root, message.thread = message.thread, None
    if root in c.messages:  # its history may have been removed
        c.messages[root].replies -= 1


def deleted(message: Message, by: int) -> Deleted:
    """Return what is left of a message behind the event that deletes it."""
    reactions = (offset for users in message.reactions.values() for offset in users.values())
    return Deleted(by, message.counts, message.replies, (*message.edits, *reactions))


def _reaction(c: Conversation, event: events.Reaction, entry: Entry) -> None:
    message = c.messages[event.of]
    if isinstance(message, Message):
        if event.op == "add":
            if c.settings.unique_reactions:
                for name in [name for name, users in message.reactions.items() if entry.author in users]:
                    _withdraw(message, name, entry.author)
            message.reactions.setdefault(event.name, {})[entry.author] = entry.offset
        else:
            _withdraw(message, event.name, entry.author)


def _withdraw(message: Message, name: str, user: str) -> None:
    """Take a user's reaction away, and its name with the last user."""
    del message.reactions[name][user]
    if not message.reactions[name]:
        del message.reactions[name]


def _pin(c: Conversation, event: events.Pin, _entry: Entry) -> None:
    message = c.messages[event.of]
    if isinstance(message, Message):
        message.pinned = event.op == "add"


def _membership(c: Conversation, event: events.Membership, entry: Entry) -> None:
    user = entry.author if event.op in BY_ONESELF else event.user
    match event.op:
        case "add":
            _enter(c, user, event.role or Role.MEMBER, entry.offset, event.history_from)
        case "join":
            _enter(c, user, c.invited.get(user, Role.MEMBER), entry.offset, 0)
        case "invite":
            c.invited[user] = event.role or Role.MEMBER
        case "decline":
            del c.invited[user]
        case "leave" | "remove":
            c.invited.pop(user, None)
            _exit(c, user, entry.offset)
        case "ban":
            c.invited.pop(user, None)
            c.banned[user] = event.until
            _exit(c, user, entry.offset)
        case "unban":
            del c.banned[user]
        case "silence":
            c.silenced.pop(user, None)
            if event.until:
                c.silenced[user] = event.until
        case "role":
            _promote(c, user, event.role or Role.MEMBER, entry.offset)


def _enter(c: Conversation, user: str, role: Role, offset: int, history_from: int) -> None:
    """Make a user a member; the first member of a group becomes its owner."""
    c.invited.pop(user, None)
    c.banned.pop(user, None)  # a ban that has ended
    visible_from = offset if c.settings.history == "joined" else max(0, min(history_from, offset))
    c.members[user] = Member(role, offset, offset, visible_from)
    c.by_role[role][user] = None
    if c.type is Type.GROUP and len(c.members) == 1:
        _set_role(c, user, Role.OWNER, offset)


def _exit(c: Conversation, user: str, offset: int) -> None:
    """End a membership, if there is one; an owner is followed by somebody else."""
    member = c.members.pop(user, None)
    if member is None:
        return
    del c.by_role[member.role][user]
    if member.role is Role.OWNER:
        heirs = [Role.ADMIN, Role.MODERATOR]
        if c.type is Type.GROUP:
            heirs += [Role.MEMBER, Role.READER]
        heir = next((next(iter(c.by_role[role])) for role in heirs if c.by_role[role]), None)
        if heir is not None:
            _set_role(c, heir, Role.OWNER, offset)


def _promote(c: Conversation, user: str, role: Role, offset: int) -> None:
    """Give a role; ownership is transferred, and who had it is admin then."""
    if role is Role.OWNER:
        for former in list(c.by_role[Role.OWNER]):
            _set_role(c, former, Role.ADMIN, offset)
    if user not in c.members:  # an open conversation lists those whose role is not `member`
        c.members[user] = Member(role, offset, offset, 0)
        c.by_role[role][user] = None
    elif role is Role.MEMBER and c.type is Type.OPEN:
        del c.by_role[c.members.pop(user).role][user]
    else:
        _set_role(c, user, role, offset)


def _set_role(c: Conversation, user: str, role: Role, offset: int) -> None:
    member = c.members[user]
    del c.by_role[member.role][user]
    c.by_role[role][user] = None
    member.role, member.role_since = role, offset


def _lifecycle(c: Conversation, event: events.Lifecycle, entry: Entry) -> None:
    match event.op:
        case "create" | "update":
            c.name = name_after(c.name, event)
            c.settings = settings_after(c.settings, event) or c.settings
            if event.op == "create":
                _create(c, event, entry)
        case "close":
            c.phase = Phase.CLOSED
        case "reopen":
            c.phase = Phase.ACTIVE
        case "delete":  # nothing is left but that it was, and how much it counted
            emptied = Conversation(phase=Phase.DELETED, type=c.type, n=c.n)
            for name in Conversation.__slots__:
                setattr(c, name, getattr(emptied, name))


def _create(c: Conversation, event: events.Lifecycle, entry: Entry) -> None:
    c.phase, c.type = Phase.ACTIVE, Type(event.type)
    creators = {} if entry.author == PLATFORM else {entry.author: Role.OWNER}
    for user, role in dict.fromkeys(event.users, Role.MEMBER).items() if c.type is Type.DIRECT else creators.items():
        c.members[user] = Member(role, entry.offset, entry.offset, 0)
        c.by_role[role][user] = None


def _erased(c: Conversation, event: events.Erased, entry: Entry) -> None:
    if event.was == "message" and c.phase is not Phase.DELETED:
        c.messages[entry.offset] = Deleted(event.by, event.counts)
        c.n += event.counts


_EFFECTS: dict[type, Callable[[Conversation, Any, Entry], None]] = {
    events.Message: _message,
    events.Edit: _edit,
    events.Delete: _delete,
    events.Purge: _purge,
    events.Reaction: _reaction,
    events.Pin: _pin,
    events.Membership: _membership,
    events.Lifecycle: _lifecycle,
    events.Erased: _erased,
}
