"""Executes methods by name: decodes requests, encodes answers and refusals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import UNSET

from services.persistence.chat.conversions import options_of, refusal_of
from services.persistence.chat.domain.events import MAX_DEPTH, is_too_deep
from services.persistence.chat.domain.names import namespace_of
from services.persistence.chat.domain.wording import in_words
from services.persistence.chat.methods import (
    conversations,
    devices,
    markers,
    me,
    members,
    messages,
    notifications,
    reading,
    search,
    upkeep,
    who_types,
)
from services.persistence.chat.methods import inbox as inboxes
from services.persistence.chat.methods.context import Begins, Call, Result, Tools
from services.persistence.chat.new_events import Options, Refused
from services.persistence.chat.refused_call import FORBIDDEN, RefusedCall, malformed
from services.shared.chat_events import APPEND
from services.shared.chat_methods import METHODS
from services.shared.chat_requests import ChatRequest, OfChannel, Write
from services.shared.checks import MAX_KEY_BYTES, MAX_KEY_USER_BYTES, check_text
from services.shared.errors import ErrorCode, ThalamusError
from thalamus.chat.v1 import chat_pb2 as pb

_Handler = Callable[[Tools, Call, Any], Awaitable[Result]]
_HANDLERS: dict[str, _Handler] = {
    "conversations.create": conversations.create,
    "conversations.get": reading.conversation,
    "conversations.list": reading.conversations,
    "conversations.directory": reading.directory,
    "conversations.search": search.conversations,
    "conversations.update": conversations.update,
    "conversations.close": conversations.close,
    "conversations.reopen": conversations.reopen,
    "conversations.delete": conversations.delete,
    "conversations.join": conversations.join,
    "conversations.leave": conversations.leave,
    "conversations.decline": conversations.decline,
    "inbox.list": inboxes.page,
    "members.list": reading.members,
    "members.add": members.add,
    "members.invite": members.invite,
    "members.remove": members.remove,
    "members.role": members.role,
    "members.silence": members.silence,
    "members.ban": members.ban,
    "members.unban": members.unban,
    "messages.send": messages.send,
    "messages.edit": messages.edit,
    "messages.delete": messages.delete,
    "messages.purge": messages.purge,
    "messages.get": reading.message,
    "messages.list": reading.messages,
    "messages.between": reading.between,
    "messages.search": search.messages,
    "messages.thread": reading.thread,
    "messages.versions": reading.versions,
    "reactions.add": messages.add_reaction,
    "reactions.remove": messages.remove_reaction,
    "reactions.list": reading.reactions,
    "pins.add": messages.add_pin,
    "pins.remove": messages.remove_pin,
    "pins.list": reading.pins,
    "markers.get": reading.marker,
    "typing.start": who_types.start,
    "typing.stop": who_types.stop,
    "devices.set": devices.set_device,
    "devices.remove": devices.remove,
    "devices.list": devices.list_all,
    "markers.read": markers.read,
    "markers.unread": markers.unread,
    "markers.delivered": markers.delivered,
    "receipts.list": markers.receipts,
    "conversations.preferences": markers.preferences,
    "me.preferences": markers.own_preferences,
    "me.export": me.export,
    "me.erase": me.erase,
}
_FOR_OPERATORS: dict[str, tuple[type[ChatRequest], _Handler]] = {
    "upkeep.check": (OfChannel, upkeep.check),
    "upkeep.rebuild": (OfChannel, upkeep.rebuild),
    "upkeep.channels": (upkeep.Channels, upkeep.channels),
    "notify.plan": (notifications.Plan, notifications.plan),
    "notify.show": (notifications.Show, notifications.show),
    "notify.still": (notifications.Still, notifications.still),
    "notify.device": (notifications.Gone, notifications.device),
    "notify.devices": (notifications.OfUsers, notifications.devices),
    "notify.gone": (notifications.Gone, notifications.gone),
    "devices.forget": (devices.OfUser, devices.forget),
    "devices.forget_sessions": (devices.OfSessions, devices.forget_sessions),
    "inbox.watch": (inboxes.Watch, inboxes.watch),
    "inbox.members": (inboxes.Members, inboxes.members),
}
_FOR_EDGES: dict[str, tuple[type[ChatRequest], _Handler]] = {APPEND: (messages.EventsAppend, messages.append)}
_decoders = {
    **{name: msgspec.json.Decoder(METHODS[name].request) for name in _HANDLERS},
    **{name: msgspec.json.Decoder(request) for name, (request, _) in (_FOR_OPERATORS | _FOR_EDGES).items()},
}
_encode = msgspec.json.Encoder().encode
_UNUSED = Options(0, 0)  # of calls that read


class Methods:
    """The methods on conversations."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def call(self, request: pb.CallRequest) -> pb.CallResponse:
        """Execute one method; a refusal is part of the response."""
        handler = _HANDLERS.get(request.method)
        if request.method in _FOR_OPERATORS and not (request.HasField("info") or request.namespace):
            _, handler = _FOR_OPERATORS[request.method]
        if request.method in _FOR_EDGES:
            _, handler = _FOR_EDGES[request.method]
        if handler is None:
            return _refused(Refused(ErrorCode.METHOD_NOT_FOUND, "unknown_method", "there is no such method"))
        try:
            params = _decoded(request.method, request.params)
            call = _call(request, params)
            result = await handler(self._tools, call, params)
        except Begins:
            return pb.CallResponse(begins=True)
        except RefusedCall as error:
            return _refused(error.refusal)
        except ThalamusError as error:
            retry_after_ms = round(error.retry_after_s * 1_000)
            return _refused(Refused(error.code, error.code.name.lower(), str(error), retry_after_ms))
        notices = [pb.Notice(user=user, data=_encode(data)) for user, data in call.notices]
        notices += [pb.Notice(user=user, data=_encode(data), ephemeral=True) for user, data in call.passing]
        ephemerals = [pb.Ephemeral(channel=channel, data=_encode(data)) for channel, data in call.ephemerals]
        return pb.CallResponse(result=_encode(result), notices=notices, ephemerals=ephemerals)


def _decoded(method: str, params: bytes) -> ChatRequest:
    """Return the request that the parameters are.

    Raises:
        RefusedCall: 107.
    """
    if is_too_deep(params):
        raise malformed(f"nested more than {MAX_DEPTH} deep")
    try:
        request: ChatRequest = _decoders[method].decode(params or b"{}")
    except msgspec.ValidationError as error:
        raise malformed(in_words(str(error))) from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise malformed("not JSON in UTF-8") from None
    return request


def _call(request: pb.CallRequest, params: ChatRequest) -> Call:
    """Return what methods know of the call.

    Raises:
        ThalamusError: 107.
        RefusedCall: 103, a channel of another namespace: whatever lies there, it is no conversation.
    """
    channel = getattr(params, "channel", UNSET)
    if (
        isinstance(channel, str)
        and (request.method in METHODS or request.method in _FOR_EDGES)
        and namespace_of(channel) != request.namespace
    ):
        raise RefusedCall(FORBIDDEN)
    info = request.info if request.HasField("info") and request.info.user else None
    key = request.key or (params.key if isinstance(params, Write) else "")
    check_text("key", key, MAX_KEY_BYTES)
    check_text("user of the key", request.key_user, MAX_KEY_USER_BYTES)
    has_options = isinstance(params, Write) or request.HasField("options")
    options = options_of(request.options) if has_options else _UNUSED
    return Call(
        info.user if info else "",
        info,
        request.key_user,
        key,
        request.namespace,
        options,
        request.asks_to_begin,
        request.session,
    )


def _refused(refusal: Refused) -> pb.CallResponse:
    return pb.CallResponse(refusal=refusal_of(refusal))
