"""Flags of an event in the log, and whether it needs a guard.

Flag 2 is for what may take a right away: it moves the membership version, so events that were allowed before it are
decided again. What only gives rights has flag 8 and moves nothing: it can't make an event illegal that was allowed, so
a thousand who join delay nobody. It needs no guard either: the fold decides, and the caller is told. A role above
`member` is an exception: who has it can't be removed by everybody who might before. See docs/decisions/0052.
"""

from __future__ import annotations

import msgspec

from services.persistence.chat.domain import events
from services.persistence.chat.domain.rights import Role
from services.persistence.chat.domain.rules import BY_ONESELF
from services.persistence.chat.domain.state import Conversation, Type
from services.persistence.chat.live import Event
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, ERASES, GRANTS

_encode = msgspec.json.Encoder().encode
_GRANTS = frozenset({"add", "join", "invite", "decline", "unban"})


def flags_of(conversation: Conversation, event: Event, author: str) -> tuple[int, bool]:
    """Return the flags of an event, and whether it is to be guarded."""
    match event:
        case events.Message():
            return (COUNTS if event.counts else 0), True
        case events.Edit():
            return (ERASES if conversation.settings.versions == "erase" else 0), True
        case events.Delete() | events.Purge():
            return ERASES, True
        case events.Membership():
            return _of_membership(conversation, event, author)
        case events.Lifecycle(op="create"):
            return GRANTS, False
        case events.Lifecycle(op="delete"):
            return CHANGES_MEMBERSHIP | ERASES, True
        case events.Lifecycle():
            return CHANGES_MEMBERSHIP, True
    return 0, True


def users_of(event: Event, author: str) -> bytes:
    """JSON array of the users whose membership an event may change; b"": none."""
    match event:
        case events.Membership():
            return _encode([author if event.op in BY_ONESELF else event.user])
        case events.Lifecycle(op="create"):
            return _encode([*dict.fromkeys(user for user in (author, *(event.users or ())) if user)])
    return b""


def _of_membership(conversation: Conversation, event: events.Membership, author: str) -> tuple[int, bool]:
    if event.op in _GRANTS:
        role = conversation.invited.get(author) if event.op == "join" else event.role
        return (CHANGES_MEMBERSHIP if role is not None and role.rank > Role.MEMBER.rank else GRANTS), False
    return CHANGES_MEMBERSHIP, event.op != "leave" or conversation.type is Type.OPEN
