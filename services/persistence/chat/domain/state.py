"""State of a conversation, as the fold of its log makes it.

Everything here is plain data. `view` gives it as JSON-like values, in which two implementations can be compared.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.persistence.chat.domain.rights import Role
from services.persistence.chat.domain.settings import Settings

PLATFORM = ""  # author of what the platform itself, or a backend that names no user, writes


class Type(enum.StrEnum):
    """What kind of conversation it is."""

    DIRECT = "direct"
    GROUP = "group"
    OPEN = "open"


class Phase(enum.StrEnum):
    """Where a conversation is between its creation and its deletion."""

    NONE = "none"  # not created yet
    ACTIVE = "active"
    CLOSED = "closed"  # nothing is posted; what is there may be read and deleted
    DELETED = "deleted"


@dataclass(slots=True)
class Member:
    """A member; in an open conversation, somebody whose role is not `member`."""

    role: Role
    since: int  # offset of the event that made the user a member
    role_since: int  # offset of the event that gave the role
    history_from: int  # history is visible above this offset


@dataclass(frozen=True, slots=True)
class Content:
    """What an edit replaces as a whole."""

    text: str
    format: str
    attachments: Sequence[Any]
    mentions: Sequence[str]
    mention_all: bool
    meta: dict[str, Any]


@dataclass(slots=True)
class Message:
    """A live message."""

    author: str
    time_ms: int
    content: Content
    rev: int  # offset of the event that has the content
    counts: bool
    reply_to: int | None
    thread: int | None
    reactions: dict[str, dict[str, int]] = field(default_factory=dict)  # name → user → offset, in order of arrival
    replies: int = 0  # live messages in its thread
    pinned: bool = False
    edits: list[int] = field(default_factory=list)  # offsets of those that applied; not part of the view


@dataclass(slots=True)
class Deleted:
    """What is left of a message that was deleted."""

    by: int  # offset of the delete, the purge or the deletion of the conversation
    counts: bool
    replies: int = 0
    about: tuple[int, ...] = ()  # offsets of its edits and reactions, as far as known; not part of the view
    thread: int | None = None  # its root counts it still: it was erased before `by` was folded; not part of the view


@dataclass(slots=True)
class Conversation:
    """A conversation at one position of its log; change it with `fold.apply` alone."""

    phase: Phase = Phase.NONE
    type: Type = Type.GROUP
    name: str = ""
    settings: Settings = field(default_factory=Settings)
    members: dict[str, Member] = field(default_factory=dict)
    by_role: dict[Role, OrderedDict[str, None]] = field(default_factory=lambda: {role: OrderedDict() for role in Role})
    invited: dict[str, Role] = field(default_factory=dict)  # user → the role that joining gives
    banned: dict[str, int | None] = field(default_factory=dict)  # user → until, Unix ms; None: for good
    silenced: dict[str, int] = field(default_factory=dict)  # user → until, Unix ms
    messages: dict[int, Message | Deleted] = field(default_factory=dict)
    written: dict[str, deque[int]] = field(
        default_factory=dict
    )  # author → offsets of messages, ascending, also deleted
    n: int = 0  # messages that count, ever

    def owner(self) -> str | None:
        """The owner; a direct conversation, and one without members, has none."""
        return next(iter(self.by_role[Role.OWNER]), None)


def view(conversation: Conversation) -> dict[str, Any]:
    """Return the state as JSON-like values, in which implementations are compared."""
    c = conversation
    return {
        "phase": c.phase.value,
        "type": c.type.value if c.phase is not Phase.NONE else None,
        "name": c.name,
        "settings": c.settings.as_json(),
        "owner": c.owner(),
        "members": {
            user: {"role": m.role.value, "since": m.since, "role_since": m.role_since, "from": m.history_from}
            for user, m in c.members.items()
        },
        "invited": {user: role.value for user, role in c.invited.items()},
        "banned": {user: "for good" if until is None else until for user, until in c.banned.items()},
        "silenced": dict(c.silenced),
        "messages": {str(offset): _message(message) for offset, message in c.messages.items()},
        "n": c.n,
    }


def _message(message: Message | Deleted) -> dict[str, Any]:
    if isinstance(message, Deleted):
        return {"state": "deleted", "by": message.by, "counts": message.counts, "replies": message.replies}
    content = message.content
    return {
        "state": "live",
        "author": message.author,
        "time_ms": message.time_ms,
        "text": content.text,
        "format": content.format,
        "attachments": list(content.attachments),
        "mentions": list(content.mentions),
        "mention_all": content.mention_all,
        "meta": content.meta,
        "rev": message.rev,
        "counts": message.counts,
        "reply_to": message.reply_to,
        "thread": message.thread,
        "reactions": {name: list(users) for name, users in message.reactions.items()},
        "replies": message.replies,
        "pinned": message.pinned,
    }
