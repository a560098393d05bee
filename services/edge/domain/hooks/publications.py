"""Asks a hook about a publication, and checks what it wants published."""

from __future__ import annotations

from services.edge.domain.channels.data_format import checked_data
from services.edge.domain.channels.publisher import checked_tags
from services.edge.domain.hooks.hook import Hook
from services.edge.domain.hooks.model import Answer, Failure, HookFailed, HookRequest
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Namespace


def publishable(namespace: Namespace, data: bytes | None) -> bytes:
    """Return the data of a publication about which a hook is asked.

    Raises:
        ThalamusError: no channel of the namespace takes such data.
    """
    data = checked_data(data, namespace)
    if len(data) > namespace.max_data_bytes:
        raise ThalamusError("data too large", ErrorCode.LIMIT_EXCEEDED)
    return data


async def ask(hook: Hook, namespace: Namespace, question: HookRequest) -> Answer:
    """Ask about a publication that is permitted, with data that is `publishable`.

    Raises:
        CommandRefused: it is refused: by the hook, or because the hook failed.
    """

    def check(answer: Answer) -> None:
        require_publishable(namespace, question.data if answer.data is None else answer.data, answer.tags)

    return await hook.ask(question, check)


def require_publishable(namespace: Namespace, data: bytes, tags: dict[str, str]) -> None:
    """Check what an answer wants published.

    Raises:
        HookFailed: it can't be published.
    """
    try:
        size = len(publishable(namespace, data))
        if tags:
            checked_tags(tags, namespace.max_data_bytes - size)
    except ThalamusError as error:
        raise HookFailed(Failure.BAD_ANSWER, f"what it wants published: {error}") from None
