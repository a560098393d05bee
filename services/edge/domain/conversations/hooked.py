"""Lets the hook of a namespace see what a method would publish.

**Purpose.** A hook that moderates publications must not be passed by calling a method instead.

**Rules.**

1. The edge makes the event that the method would append, with the same code as persistence (`chat_events.py`), and asks
   about it as about a publication of that user: behind the limits, and about those who may read the conversation alone.
2. What the hook leaves alone is called as it was. If it changes data or tags, persistence is told to append what the
   hook made, as something that a client publishes.
3. `skip` acknowledges the call, without a place in the log.
4. A message with `to` may have no conversation yet, so there is nothing to ask about: it can't be sent where a hook is.

**Example.** Bob calls `messages.edit` with a bad word. The hook is asked about `{"kind":"edit","of":3,"text":"…"}` in
that channel, and answers with other data. Persistence gets `events.append` with it, and Bob what `messages.edit`
answers.

**Trade-off.** Parameters are read as a whole here too, but only where there is a hook.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple, cast

import msgspec

from services.edge.domain.chat.ports import Chat
from services.edge.domain.conversations.calls import ChatRefused
from services.edge.domain.hooks import publications
from services.edge.domain.hooks.hooks import Hooks
from services.edge.domain.hooks.model import Event, HookRequest
from services.edge.domain.model import ClientInfo
from services.shared.chat_events import APPEND, event_of
from services.shared.chat_methods import METHODS, Act, Method
from services.shared.chat_requests import Write
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Namespace

_WRITING = {
    name: msgspec.json.Decoder(cast(type[Write], method.request))
    for name, method in METHODS.items()
    if method.act is Act.WRITE
}
_MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError)


class ToCall(NamedTuple):
    """What is called in place of what the user called."""

    method: str
    params: bytes


class HookedWrites:
    """Asks hooks about calls.

    Args:
        edge_name: For the questions.
        wall: Unix seconds.
    """

    def __init__(self, hooks: Hooks, chat: Chat, *, edge_name: str, wall: Callable[[], float]) -> None:
        self._hooks, self._chat, self._edge_name, self._wall = hooks, chat, edge_name, wall

    async def ask(
        self, method: Method, params: bytes, info: ClientInfo, key: str, namespace: Namespace, channel: str
    ) -> ToCall | None:
        """Ask the hook of the namespace; return what to call, None: nothing (`skip`).

        Raises:
            ChatRefused: 108, there is no channel that the hook could be asked about; 107, malformed; 103, the user may
                not read the conversation.
            ThalamusError: 106, the event is too large; what `publications.ask` raises.
        """
        if not channel:
            raise ChatRefused(ErrorCode.NOT_AVAILABLE, "a hook sees what is published here: name the channel")
        try:
            event = msgspec.json.encode(event_of(method.name, _WRITING[method.name].decode(params)))
        except _MALFORMED as error:
            raise ChatRefused(ErrorCode.BAD_REQUEST, str(error), "malformed") from error
        try:
            event = publications.publishable(namespace, event)
        except ThalamusError as error:
            why = "too_large" if error.code is ErrorCode.LIMIT_EXCEEDED else "malformed"
            raise ChatRefused(error.code, str(error), why) from error
        if not (await self._chat.check(channel, info.user)).reads:
            raise ChatRefused(ErrorCode.PERMISSION_DENIED, why="not_allowed")
        question = HookRequest(
            event=Event.PUBLISH,
            id=f"publish_{secrets.token_hex(16)}",
            edge=self._edge_name,
            time_ms=int(self._wall() * 1000),
            client=info.client,
            user=info.user,
            info=info.conn_info,
            channel=channel,
            data=event,
            idempotency_key=key,
        )
        answer = await publications.ask(self._hooks.publish[namespace.name], namespace, question)
        if answer.skip:
            return None
        if answer.data is None and not answer.tags:
            return ToCall(method.name, params)
        data = event if answer.data is None else answer.data
        return ToCall(
            APPEND, msgspec.json.encode({"channel": channel, "event": msgspec.Raw(data), "tags": answer.tags})
        )
