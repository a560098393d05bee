"""Interface to what executes methods on conversations, and its refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from services.edge.domain.model import ClientInfo
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Namespace

_NOT_ALLOWED = "not_allowed"  # all that is said to who may not know whether there is such a conversation


class Notice(NamedTuple):
    """What a user is told on the personal channel; `data` is a JSON object.

    `ephemeral`: only who is connected is told, and nothing is kept.
    """

    user: str
    data: bytes
    ephemeral: bool = False


class Ephemeral(NamedTuple):
    """What those are told who follow a conversation; `data` is a JSON object.

    See `channels/ephemeral.py`.
    """

    channel: str
    data: bytes


class Outcome(NamedTuple):
    """What a call returned, a JSON object, and whom to tell of it."""

    result: bytes
    notices: Sequence[Notice] = ()
    ephemerals: Sequence[Ephemeral] = ()


class Begins(Exception):
    """Nothing was done: the call would begin a direct conversation."""


class EarlierVersion(Unavailable):
    """A persistence of before is connected, which does not know such calls."""


class ChatRefused(ThalamusError):
    """Nothing was done. The text and `why`, a word for programs, are for the caller.

    What is plainly not allowed has always the same text: who may not know of a conversation must not learn from the
    words whether it exists.
    """

    def __init__(self, code: ErrorCode, text: str = "", why: str = "", *, retry_after_s: float = 0.0) -> None:
        self.why = why
        plainly = code is ErrorCode.PERMISSION_DENIED and why in ("", _NOT_ALLOWED)
        super().__init__("" if plainly else text, code, retry_after_s=retry_after_s)

    @property
    def message(self) -> str:
        """Return the message of the code, and what else is to be said."""
        said = str(self)
        return self.code.message if said == self.code.message else f"{self.code.message}: {said}"


class ChatCalls(Protocol):
    """Executes methods on conversations."""

    async def call(
        self,
        method: str,
        params: bytes,
        *,
        info: ClientInfo | None,
        key_user: str,
        key: str,
        namespace: Namespace | None,
        session: str = "",
        asks_to_begin: bool = False,
    ) -> Outcome:
        """Call a method of `services/shared/chat_methods.py`.

        Args:
            method: Its name.
            params: A JSON object.
            info: Who calls; None: the platform, which has every right.
            key_user: Whose idempotency keys `key` belongs to.
            key: A repeat with the same one changes nothing and has the first one's result; empty: none.
            namespace: Where the conversation lies, or is to lie; None: it may lie in any.
            session: The claim `sid` of the caller's token; empty: none.
            asks_to_begin: Raise `Begins` rather than begin a direct conversation. A persistence of before begins it.

        Raises:
            Begins: see `asks_to_begin`.
            ChatRefused: it may not be done, or can't: 103, 106, 107, 111, 404, 409 or 410.
            EarlierVersion: nothing was done.
            Unavailable: the outcome is unknown; repeat with the same key.
        """
