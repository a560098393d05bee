"""Interface of the conversations that persistence keeps."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple, NoReturn, Protocol

from services.edge.domain.model import AppendResult, Publication, StreamPosition
from services.shared.errors import Unavailable
from services.shared.namespaces import Namespace


class Access(NamedTuple):
    """What a user may do in a conversation, as of a position of its log.

    `reads`: subscribe, read history and presence. `posts`: write messages. History is visible above `history_from`.
    """

    reads: bool
    posts: bool
    history_from: int
    as_of: StreamPosition


class Chat(Protocol):
    """Conversations.

    Every call raises `Unavailable` within 3 s if persistence does not answer or does not know conversations, and `Busy`
    if too many calls wait.
    """

    def append(
        self, channel: str, publication: Publication, *, key_user: str, key: str, namespace: Namespace
    ) -> Awaitable[AppendResult]:
        """Decide whether an event is allowed, and append it.

        Returns once it is in the log, readable and published. The author is the user of the publication's `info`;
        without `info`: the platform. `key`: idempotency key of `key_user`; "": none was given.

        Raises:
            ThalamusError: it is refused: 103, 106, 107, 111, 404, 409 or 410.
        """

    async def check(self, channel: str, user: str) -> Access:
        """Return what a user may do, at the newest position of the conversation.

        For a conversation that does not exist: nothing.
        """


class NoChat:
    """`Chat` of an edge without namespaces with conversations."""

    def append(
        self, channel: str, publication: Publication, *, key_user: str, key: str, namespace: Namespace
    ) -> NoReturn:
        raise Unavailable("there are no conversations")

    async def check(self, channel: str, user: str) -> Access:
        raise Unavailable("there are no conversations")
