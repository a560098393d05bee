"""What is told of an event that was refused.

Who may not read a conversation learns nothing about it: not whether it exists, nor why the event was refused. The
answer is the same for all of that.
"""

from __future__ import annotations

from services.persistence.chat.domain.access import may_read
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.state import PLATFORM, Conversation
from services.shared.errors import ErrorCode

_FORBIDDEN = ErrorCode.PERMISSION_DENIED
_NOT_FOUND, _CONFLICT, _GONE = 404, 409, 410
_ANSWERS: dict[Why, tuple[int, str]] = {
    Why.MALFORMED: (ErrorCode.BAD_REQUEST, "the event is malformed"),
    Why.NO_CONVERSATION: (_NOT_FOUND, "there is no such conversation"),
    Why.EXISTS: (_CONFLICT, "the conversation exists"),
    Why.CONVERSATION_DELETED: (_GONE, "the conversation was deleted"),
    Why.CLOSED: (_FORBIDDEN, "the conversation is closed"),
    Why.NOT_ALLOWED: (_FORBIDDEN, "not allowed"),
    Why.SILENCED: (_FORBIDDEN, "you are silenced"),
    Why.BANNED: (_FORBIDDEN, "the user is banned"),
    Why.NOT_INVITED: (_FORBIDDEN, "the user is not invited"),
    Why.NOT_A_MEMBER: (_NOT_FOUND, "the user is no member"),
    Why.FULL: (ErrorCode.LIMIT_EXCEEDED, "the conversation is full"),
    Why.WRONG_TYPE: (ErrorCode.BAD_REQUEST, "this type of conversation has no such event"),
    Why.NO_MESSAGE: (_NOT_FOUND, "there is no such message"),
    Why.DELETED: (_GONE, "the message was deleted"),
    Why.TOO_LATE: (_FORBIDDEN, "it is too late for that"),
    Why.OTHER_REV: (_CONFLICT, "the message has another revision"),
    Why.TOO_MANY: (ErrorCode.LIMIT_EXCEEDED, "the message has too many reactions or edits"),
    Why.UNCHANGED: (_CONFLICT, "it is so already"),
}


def answer(conversation: Conversation, author: str, time_ms: int, why: Why) -> tuple[int, str, str]:
    """Return code, word and text of a refusal, as the author may know them."""
    knows = author == PLATFORM or author in conversation.invited or may_read(conversation, author, time_ms)
    if not knows and why is not Why.MALFORMED:
        why = Why.NOT_ALLOWED
    code, text = _ANSWERS[why]
    return int(code), why.value, text
