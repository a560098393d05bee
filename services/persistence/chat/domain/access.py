"""What a user may read, and from where on."""

from __future__ import annotations

from services.persistence.chat.domain import events
from services.persistence.chat.domain.rules import Why, decide
from services.persistence.chat.domain.state import PLATFORM, Conversation, Phase, Type

_PROBE = events.Message(text="-")


def may_read(conversation: Conversation, user: str, time_ms: int) -> bool:
    """Whether a user may read a conversation, Unix ms.

    Members may; in an open conversation everybody who is not banned; the platform may wherever there is one.
    """
    c = conversation
    if c.phase not in (Phase.ACTIVE, Phase.CLOSED):
        return False
    if user == PLATFORM or user in c.members:
        return True
    if c.type is not Type.OPEN:
        return False
    until = c.banned.get(user, 0)
    return until is not None and until <= time_ms


def may_post(conversation: Conversation, user: str, time_ms: int) -> bool:
    """Whether a message of the user would apply, Unix ms."""
    return why_no_post(conversation, user, time_ms) is None


def why_no_post(conversation: Conversation, user: str, time_ms: int) -> Why | None:
    """Return why a message of the user would be void; None: it would apply."""
    return decide(conversation, _PROBE, user, time_ms)


def history_from(conversation: Conversation, user: str) -> int:
    """Offset above which the user may see history; 0: all of it."""
    member = conversation.members.get(user)
    return 0 if member is None else member.history_from
