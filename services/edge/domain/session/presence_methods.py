"""The RPC methods `presence.…`: enter, update, leave, and ask who is where.

Each takes a JSON object and returns one. The page docs/presence.md describes them, with examples.

Changes take effect on this edge at once, and in presence as soon as it answers. If it does not within a second, the
reply is error 100, and the change is made later nevertheless.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from services.edge.domain.access.authorize import authorize, require_tokens
from services.edge.domain.access.grants import Operation
from services.edge.domain.presence import data as presence_data
from services.edge.domain.presence.client_presence import ClientPresence, MadeBy
from services.edge.domain.presence.views import channels_page, counts, members_page, online
from services.edge.domain.session.handlers.common import admit_new, namespace_of
from services.edge.domain.session.rpc import RpcContext, RpcMethods
from services.shared.errors import ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Namespace

MAX_ASKED = 100  # channels or users that a client may ask about at once
_PAGE = 100  # members or channels of a page, if the request names no limit
_EMPTY = b"{}"


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the requests."""


class _Channel(_Request):
    channel: str


class _Leave(_Request):
    channel: str = ""


class _Enter(_Channel):
    data: msgspec.Raw = msgspec.Raw()


class _Update(_Channel):
    data: msgspec.Raw
    replace: bool = False


class _Members(_Channel):
    limit: int = _PAGE
    cursor: str = ""


class _Counts(_Request):
    channels: list[str]


class _Channels(_Request):
    limit: int = _PAGE
    cursor: str = ""


class _Online(_Request):
    users: list[str]


class _State(_Request):
    state: str


async def enter(context: RpcContext, request: _Enter) -> dict[str, Any]:
    """Enter presence of a channel, or replace the data of the entry that is there."""
    namespace = await _permitted(context, request.channel, Operation.ENTER)
    session = context.session
    data = presence_data.checked(bytes(request.data)) if request.data else b""
    if session.presence.get(request.channel) is None:
        if len(session.presence) >= session.node.settings.channels_per_client:
            raise ThalamusError(code=ErrorCode.LIMIT_EXCEEDED)
        await admit_new(session, namespace, request.channel)
        await _permitted(context, request.channel, Operation.ENTER)  # what permitted it may be gone
    presence = _presence(context)
    presence.enter(request.channel, namespace, MadeBy.CLIENT, data, session.subscriptions.get(request.channel))
    return await _written(context, request.channel)


async def update(context: RpcContext, request: _Update) -> dict[str, Any]:
    """Change the data of the client's entry: merge it, or replace it."""
    await _permitted(context, request.channel, Operation.ENTER)
    presence = _presence(context)
    if presence.get(request.channel) is None:
        raise ThalamusError("not in presence", ErrorCode.NOT_AVAILABLE)
    presence.update(request.channel, presence_data.checked(bytes(request.data)), replace=request.replace)
    return await _written(context, request.channel)


async def leave(context: RpcContext, request: _Leave) -> dict[str, Any]:
    """Leave presence of a channel, or of all; no effect for who is not in it."""
    session = context.session
    if request.channel:
        namespaces = {request.channel: _with_presence(context, request.channel)}
    else:
        namespaces = {entry.channel: entry.namespace for entry in session.presence.all()}
    for namespace in namespaces.values():
        require_tokens(session, namespace, context.command_token)
    for channel in [channel for channel in namespaces if session.presence.leave(channel) is not None]:
        await _written(context, channel)
    return {}


async def members(context: RpcContext, request: _Members) -> dict[str, Any]:
    """Return a page of the members of a channel, by client id."""
    await _permitted(context, request.channel, Operation.PRESENCE)
    return await members_page(context.session.node.presence, request.channel, request.limit, request.cursor)


async def counts_of(context: RpcContext, request: _Counts) -> dict[str, Any]:
    """Return the numbers of clients and users of channels."""
    _few("channels", request.channels)
    for channel in request.channels:
        await _permitted(context, channel, Operation.PRESENCE)
    return await counts(context.session.node.presence, request.channels)


async def channels(context: RpcContext, request: _Channels) -> dict[str, Any]:
    """Return a page of the channels that the caller's user is in, by name."""
    _signed_in(context)
    return await channels_page(context.session.node.presence, context.user, request.limit, request.cursor)


async def online_of(context: RpcContext, request: _Online) -> dict[str, Any]:
    """Return which of these users are online."""
    _signed_in(context)
    _few("users", request.users)
    settings = context.session.node.settings
    if not settings.online:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    if not (settings.online_read or settings.insecure):
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
    return await online(context.session.node.presence, request.users)


async def state(context: RpcContext, request: _State) -> dict[str, Any]:
    """Say whether the user is active or away, as this connection knows."""
    _signed_in(context)
    if request.state not in ("active", "away"):
        raise ThalamusError("state: active or away", ErrorCode.BAD_REQUEST)
    if not _presence(context).set_away(request.state == "away"):
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    return {}


def register(methods: RpcMethods) -> None:
    """Make the methods callable."""
    for name, kind, method, has_channel in (
        ("enter", _Enter, enter, True),
        ("update", _Update, update, True),
        ("leave", _Leave, leave, True),
        ("members", _Members, members, True),
        ("counts", _Counts, counts_of, True),
        ("channels", _Channels, channels, False),
        ("online", _Online, online_of, False),
        ("state", _State, state, False),
    ):
        methods.register(f"presence.{name}", _decoding(kind, method), checks_tokens=has_channel)


Kind = TypeVar("Kind", bound=_Request)


def _decoding(
    kind: type[Kind], method: Callable[[RpcContext, Any], Awaitable[dict[str, Any]]]
) -> Callable[[RpcContext, bytes], Awaitable[bytes]]:
    """Return the method as the registry calls it: JSON in and out."""
    decoder = msgspec.json.Decoder(kind)

    async def call(context: RpcContext, data: bytes) -> bytes:
        try:
            request = decoder.decode(data or _EMPTY)
        except msgspec.MsgspecError as error:
            raise ThalamusError(f"data: {error}", ErrorCode.BAD_REQUEST) from error
        return msgspec.json.encode(await method(context, request))

    return call


def _presence(context: RpcContext) -> ClientPresence:
    """Return the client's presence.

    Raises:
        Unavailable: the connection is over, or ends: the client is off the rosters.
    """
    if context.session.is_closed or context.session.presence.is_over:
        raise Unavailable("the connection is over")
    return context.session.presence


def _with_presence(context: RpcContext, channel: str) -> Namespace:
    if not channel:
        raise ThalamusError("no channel", ErrorCode.BAD_REQUEST)
    namespace = namespace_of(context.session, channel)
    if not namespace.presence:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    return namespace


async def _permitted(context: RpcContext, channel: str, operation: Operation) -> Namespace:
    """Return the namespace of the channel, if the caller may do the operation there.

    Raises:
        ThalamusError: 107 or 102, a channel of this name can't be; 108, it has no presence; as `authorize`.
    """
    namespace = _with_presence(context, channel)
    await authorize(context.session, namespace, channel, operation, context.command_token)
    return namespace


def _signed_in(context: RpcContext) -> None:
    if not context.user:
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)


def _few(what: str, names: list[str]) -> None:
    if len(names) > MAX_ASKED:
        raise ThalamusError(f"{what}: {MAX_ASKED} at most", ErrorCode.LIMIT_EXCEEDED)


async def _written(context: RpcContext, channel: str) -> dict[str, Any]:
    """Wait until presence has the change, 1 s at most.

    Raises:
        Unavailable: it has not; it gets the change as soon as it answers.
    """
    if not await context.session.node.presence.written(channel, context.client):
        raise Unavailable("presence does not answer; the change is made as soon as it does")
    return {}
