"""Decides whether an event applies, and if not, why.

`decide` changes nothing. So one set of rules serves two callers: whoever is about to number an event, who refuses it
when it does not apply, and the fold, for which it is void then.

Who has rights. A member has those of the role. In an open conversation everybody has the role `member` who has no other
one and is not banned. The platform (author: empty) has every right. Nobody else has any.

Order of the checks, which decides what `why` says: the conversation, the author's rights, the target, times and
revisions. Who may not act at all learns nothing about the target.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from services.persistence.chat.domain import events
from services.persistence.chat.domain.rights import NO_RANK, PLATFORM_RANK, Right, Role
from services.persistence.chat.domain.settings import Settings
from services.persistence.chat.domain.state import PLATFORM, Conversation, Deleted, Message, Phase, Type

MAX_REACTION_NAMES = 100  # different reactions to one message, so that what is kept of it stays bounded
MAX_REACTIONS = 5_000  # reactions to one message, of all users; for the same reason
_ACTIVE, _POST = Phase.ACTIVE, Right.POST  # asked of each message: to look up a member of an enumeration takes 0.2 µs


class Why(enum.StrEnum):
    """Why an event is void: what `why` says in `{"applied": false, "why": …}`."""

    MALFORMED = "malformed"  # it is no event, or lacks what its `op` needs
    NO_CONVERSATION = "no_conversation"  # nothing was created yet
    EXISTS = "exists"  # it was created before
    CONVERSATION_DELETED = "conversation_deleted"
    CLOSED = "closed"
    NOT_ALLOWED = "not_allowed"  # the author lacks the right
    SILENCED = "silenced"
    BANNED = "banned"
    NOT_INVITED = "not_invited"
    NOT_A_MEMBER = "not_a_member"  # whom it is about
    FULL = "full"
    WRONG_TYPE = "wrong_type"  # this type of conversation has no such event
    NO_MESSAGE = "no_message"  # there is no message at this offset
    DELETED = "deleted"
    TOO_LATE = "too_late"
    OTHER_REV = "other_rev"  # `if_rev` names another revision
    TOO_MANY = "too_many"
    UNCHANGED = "unchanged"  # it is so already


def decide(
    conversation: Conversation,
    event: events.Known | events.Custom,
    author: str,
    time_ms: int,
    offset: int = events.MAX_OFFSET,
) -> Why | None:
    """Return why the event is void; None if it applies.

    Args:
        conversation: The state before the event.
        event: What `events.read` or `events.parse` returned.
        author: User id; empty for the platform.
        time_ms: Time of the event, Unix ms.
        offset: Offset of the event; without one it is after all that the log holds.
    """
    if isinstance(event, events.Custom):
        return None
    if isinstance(event, events.Erased):
        return Why.NOT_ALLOWED if author != PLATFORM else None
    if conversation.phase is not _ACTIVE:
        creates = isinstance(event, events.Lifecycle) and event.op == "create"
        if conversation.phase is Phase.DELETED:
            return Why.CONVERSATION_DELETED
        if conversation.phase is Phase.NONE and not creates:
            return Why.NO_CONVERSATION
        if conversation.phase is Phase.CLOSED and isinstance(event, _NOT_WHEN_CLOSED):
            return Why.CLOSED
    return _RULES[type(event)](_Question(conversation, author, time_ms, offset), event)


def has_right(conversation: Conversation, user: str, right: Right, time_ms: int) -> bool:
    """Whether a user has a right in a conversation that exists, at a time (Unix ms)."""
    return _Question(conversation, user, time_ms, events.MAX_OFFSET).may(right)


class _Question:
    """An author at a time, before a state."""

    __slots__ = ("author", "conversation", "offset", "rank", "time_ms")

    def __init__(self, conversation: Conversation, author: str, time_ms: int, offset: int) -> None:
        self.conversation, self.author, self.time_ms, self.offset = conversation, author, time_ms, offset
        self.rank = self.rank_of(author)

    def role_of(self, user: str) -> Role | None:
        """Return a user's role; None without one."""
        member = self.conversation.members.get(user)
        if member is not None:
            return member.role
        is_open = self.conversation.type is Type.OPEN
        return Role.MEMBER if is_open and user != PLATFORM and not self.is_banned(user) else None

    def rank_of(self, user: str) -> int:
        if user == PLATFORM:
            return PLATFORM_RANK
        role = self.role_of(user)
        return NO_RANK if role is None else role.rank

    def may(self, right: Right) -> bool:
        return self.rank >= self.conversation.settings.role_for(right).rank

    def is_banned(self, user: str) -> bool:
        until = self.conversation.banned.get(user, 0)
        return until is None or until > self.time_ms

    def is_silenced(self) -> bool:
        return self.conversation.silenced.get(self.author, 0) > self.time_ms

    def is_full(self) -> bool:
        return len(self.conversation.members) >= self.conversation.settings.max_members

    def is_full_of_invited(self) -> bool:
        """Whether as many are invited as may be members."""  # every member may invite: what is kept stays bounded
        return len(self.conversation.invited) >= self.conversation.settings.max_members

    def target(self, offset: int) -> Message | Why:
        """Return the live message at an offset, or why there is none."""
        found = self.conversation.messages.get(offset)
        if found is None:
            return Why.NO_MESSAGE
        return Why.DELETED if isinstance(found, Deleted) else found

    def is_later(self, since_ms: int, window_s: int | None) -> bool:
        return window_s is not None and self.time_ms - since_ms > window_s * 1_000


def _message(q: _Question, event: events.Message) -> Why | None:
    if not q.may(_POST):
        return Why.NOT_ALLOWED
    if q.is_silenced():
        return Why.SILENCED
    if event.thread is not None:
        root = q.conversation.messages.get(event.thread)
        if root is None:
            return Why.NO_MESSAGE
        # What was erased later than this message was there when it was written.
        if isinstance(root, Deleted) and root.by < q.offset:
            return Why.DELETED
    return None


def _edit(q: _Question, event: events.Edit) -> Why | None:
    if not q.may(Right.EDIT) and not q.may(Right.MODERATE):
        return Why.NOT_ALLOWED
    target = q.target(event.of)
    if not isinstance(target, Message):
        return target
    if not q.may(Right.MODERATE):
        if target.author != q.author:
            return Why.NOT_ALLOWED
        if q.is_silenced():  # or the silenced would talk by edits
            return Why.SILENCED
    if q.is_later(target.time_ms, q.conversation.settings.edit_window_s):
        return Why.TOO_LATE
    return Why.OTHER_REV if event.if_rev not in (None, target.rev) else None


def _delete(q: _Question, event: events.Delete) -> Why | None:
    moderates = q.may(Right.MODERATE)
    if not moderates and not q.may(Right.EDIT):
        return Why.NOT_ALLOWED
    found = q.conversation.messages.get(event.of)
    if isinstance(found, Deleted) and found.by == q.offset:
        return None  # the message was erased because of this event, and was live before it
    target = q.target(event.of)
    if not isinstance(target, Message):
        return target
    if moderates:
        return None
    if target.author != q.author:
        return Why.NOT_ALLOWED
    return Why.TOO_LATE if q.is_later(target.time_ms, q.conversation.settings.delete_window_s) else None


def _purge(q: _Question, event: events.Purge) -> Why | None:
    return None if event.user == q.author or q.may(Right.MODERATE) else Why.NOT_ALLOWED


def _reaction(q: _Question, event: events.Reaction) -> Why | None:
    if not q.may(Right.REACT):
        return Why.NOT_ALLOWED
    target = q.target(event.of)
    if not isinstance(target, Message):
        return target
    has = q.author in target.reactions.get(event.name, ())
    if has == (event.op == "add"):
        return Why.UNCHANGED
    if has:
        return None
    names = len(target.reactions)
    is_full = (event.name not in target.reactions and names >= MAX_REACTION_NAMES) or (
        sum(map(len, target.reactions.values())) >= MAX_REACTIONS
    )
    return Why.TOO_MANY if is_full else None


def _pin(q: _Question, event: events.Pin) -> Why | None:
    if not q.may(Right.PIN):
        return Why.NOT_ALLOWED
    target = q.target(event.of)
    if not isinstance(target, Message):
        return target
    return Why.UNCHANGED if target.pinned == (event.op == "add") else None


def _membership(q: _Question, event: events.Membership) -> Why | None:
    c, op = q.conversation, event.op
    if c.type is Type.DIRECT or (c.type is Type.OPEN and op in _OF_GROUPS):
        return Why.WRONG_TYPE
    if op in BY_ONESELF:
        if q.author == PLATFORM or event.user not in ("", q.author):
            return Why.NOT_ALLOWED
    elif not event.user or (op == "role" and event.role is None):
        return Why.MALFORMED
    return _MEMBERSHIP_RULES[op](q, event)


def _join(q: _Question, _event: events.Membership) -> Why | None:
    c = q.conversation
    if q.author in c.members:
        return Why.UNCHANGED
    if q.is_banned(q.author):
        return Why.BANNED
    if q.author not in c.invited and c.settings.join != "anyone":
        return Why.NOT_INVITED
    return Why.FULL if q.is_full() else None


def _decline(q: _Question, _event: events.Membership) -> Why | None:
    return None if q.author in q.conversation.invited else Why.NOT_INVITED


def _leave(q: _Question, _event: events.Membership) -> Why | None:
    if q.author not in q.conversation.members:
        return Why.NOT_A_MEMBER
    # In an open conversation a reader who left would be like everybody else, and might post again.
    is_reader = q.conversation.type is Type.OPEN and q.rank < Role.MEMBER.rank
    return Why.NOT_ALLOWED if is_reader else None


def _add(q: _Question, event: events.Membership) -> Why | None:
    c, role = q.conversation, event.role or Role.MEMBER
    if not q.may(_right_to_give(role)) or role.rank > q.rank or role is Role.OWNER:
        return Why.NOT_ALLOWED
    if event.user in c.members or (event.op == "invite" and event.user in c.invited):
        return Why.UNCHANGED
    if q.is_banned(event.user):
        return Why.BANNED
    return Why.FULL if (q.is_full() if event.op == "add" else q.is_full_of_invited()) else None


def _remove(q: _Question, event: events.Membership) -> Why | None:
    if not q.may(Right.REMOVE):
        return Why.NOT_ALLOWED
    if event.user in q.conversation.members:
        return None if q.rank > q.rank_of(event.user) else Why.NOT_ALLOWED
    return None if event.user in q.conversation.invited else Why.NOT_A_MEMBER


def _ban(q: _Question, event: events.Membership) -> Why | None:
    c, user = q.conversation, event.user
    if not q.may(Right.MANAGE) or q.rank <= q.rank_of(user):
        return Why.NOT_ALLOWED
    is_same = user not in c.members and user in c.banned and c.banned[user] == event.until
    return Why.UNCHANGED if is_same else None


def _unban(q: _Question, event: events.Membership) -> Why | None:
    if not q.may(Right.MANAGE):
        return Why.NOT_ALLOWED
    return None if event.user in q.conversation.banned else Why.UNCHANGED


def _silence(q: _Question, event: events.Membership) -> Why | None:
    if not q.may(Right.SILENCE) or q.rank <= q.rank_of(event.user):
        return Why.NOT_ALLOWED
    if q.role_of(event.user) is None:
        return Why.NOT_A_MEMBER
    return Why.UNCHANGED if q.conversation.silenced.get(event.user, 0) == (event.until or 0) else None


def _role(q: _Question, event: events.Membership) -> Why | None:
    new, current = event.role or Role.MEMBER, q.role_of(event.user)
    involved = {new, current}
    if not q.may(Right.OWN if involved & {Role.OWNER, Role.ADMIN} else Right.MANAGE):
        return Why.NOT_ALLOWED
    if current is None:
        return Why.NOT_A_MEMBER
    if new is current:
        return Why.UNCHANGED
    return Why.NOT_ALLOWED if current is Role.OWNER else None  # an owner transfers to somebody else instead


def _right_to_give(role: Role) -> Right:
    """Return the right that adding or inviting somebody in a role needs."""
    if role.rank >= Role.ADMIN.rank:
        return Right.OWN
    return Right.MANAGE if role is Role.MODERATOR else Right.INVITE


def _lifecycle(q: _Question, event: events.Lifecycle) -> Why | None:
    c = q.conversation
    if event.op == "create":
        return _create(q, event)
    if not q.may(Right.MANAGE if event.op == "update" else Right.OWN):
        return Why.NOT_ALLOWED
    if event.op == "update":
        settings = settings_after(c.settings, event)
        if settings is None:
            return Why.MALFORMED
        return Why.UNCHANGED if settings == c.settings and name_after(c.name, event) == c.name else None
    if event.op == "delete":
        return None
    return Why.UNCHANGED if (c.phase is Phase.CLOSED) == (event.op == "close") else None


def _create(q: _Question, event: events.Lifecycle) -> Why | None:
    if q.conversation.phase is not Phase.NONE:
        return Why.EXISTS
    if settings_after(Settings(), event) is None:
        return Why.MALFORMED
    if Type(event.type) is Type.DIRECT:
        users = set(event.users)
        if len(users) not in (1, 2) or len(users) != len(event.users) or PLATFORM in users:
            return Why.MALFORMED
        return None if q.author in (PLATFORM, *users) else Why.NOT_ALLOWED
    return None


def settings_after(settings: Settings, event: events.Lifecycle) -> Settings | None:
    """Return the settings after a `create` or `update`; None if rights move too far."""
    return settings.changed(event.settings) if event.settings else settings


def name_after(name: str, event: events.Lifecycle) -> str:
    """Return the name that a `create` or `update` leads to."""
    return event.name if isinstance(event.name, str) else name


_NOT_WHEN_CLOSED = (events.Message, events.Edit, events.Reaction, events.Pin)
BY_ONESELF = frozenset({"join", "leave", "decline"})  # about their author
_OF_GROUPS = frozenset({"add", "join", "remove", "invite", "decline"})
_MEMBERSHIP_RULES: dict[str, Callable[[_Question, events.Membership], Why | None]] = {
    "add": _add,
    "invite": _add,
    "join": _join,
    "decline": _decline,
    "leave": _leave,
    "remove": _remove,
    "ban": _ban,
    "unban": _unban,
    "silence": _silence,
    "role": _role,
}
_RULES: dict[type, Callable[[_Question, Any], Why | None]] = {
    cls: rule
    for kind, rule in (
        (events.Message, _message),
        (events.Edit, _edit),
        (events.Delete, _delete),
        (events.Purge, _purge),
        (events.Reaction, _reaction),
        (events.Pin, _pin),
        (events.Membership, _membership),
        (events.Lifecycle, _lifecycle),
    )
    for cls in (kind, *kind.__subclasses__())  # as `read` and as `parse` return them
}
