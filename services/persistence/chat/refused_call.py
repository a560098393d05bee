"""Refusals of methods on conversations, with the codes of docs/chat.md."""

from __future__ import annotations

from services.persistence.chat.domain.rules import Why
from services.persistence.chat.new_events import Refused


class RefusedCall(Exception):
    """A method is refused; nothing was done, unless the code is 100."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(f"{refusal.code} {refusal.why}")
        self.refusal = refusal


FORBIDDEN = Refused(103, Why.NOT_ALLOWED, "not allowed")
"""For everything that one may not know of, whether or not it exists."""


def malformed(text: str) -> RefusedCall:
    """Return the refusal of a request that is wrong in itself."""
    return RefusedCall(Refused(107, Why.MALFORMED, text))


def no_message(offset: int) -> RefusedCall:
    """Return the refusal for an offset where there is no message."""
    return RefusedCall(Refused(404, Why.NO_MESSAGE, f"there is no message at offset {offset}"))


def deleted() -> RefusedCall:
    """Return the refusal for a message that was deleted."""
    return RefusedCall(Refused(410, Why.DELETED, "the message was deleted"))
