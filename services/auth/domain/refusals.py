"""Refusals of auth: a request can't be granted, and the text is for the caller.

`service.py` translates them to gRPC statuses.
"""

from __future__ import annotations

from services.auth.domain.ports import EndedSession


class Refusal(Exception):
    """A request can't be granted. The text is for the caller."""


class Invalid(Refusal):
    """A value is not allowed."""


class Taken(Refusal):
    """The name is taken."""


class Forbidden(Refusal):
    """Whoever asks may not do this, or a setting forbids it."""


class Conflict(Refusal):
    """What is to be changed is not as the caller expects."""


class Missing(Refusal):
    """What is named does not exist."""


class Denied(Refusal):
    """The credentials are wrong or no longer valid. The text never says which.

    `ended`: the session of the given token, if it is over.
    """

    def __init__(self, text: str, ended: EndedSession | None = None) -> None:
        self.ended = ended
        super().__init__(text)


class TooMany(Refusal):
    """A limit is reached. `retry_after_s`: seconds until it ends."""

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = max(1, retry_after_s)
        super().__init__("too many attempts")
