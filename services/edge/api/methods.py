"""The methods of the server API.

Permissions of namespaces are not checked: what a backend may do is up to the scopes of its API key (`scopes.py`). The
first line of each docstring is the method's summary in OpenAPI.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from services.edge.api import requests as r
from services.edge.api.bodies import BodyRefused, decode, error_body, unforeseen
from services.edge.api.chat import CHAT_METHODS
from services.edge.api.connections import connections
from services.edge.api.context import ApiContext
from services.edge.api.grants import grants_give, grants_list, grants_take
from services.edge.api.invites import INVITE_METHODS
from services.edge.api.presence import PRESENCE_METHODS
from services.edge.api.scopes import ScopeMissing, permits
from services.edge.api.users import USER_METHODS
from services.edge.domain.access.api_keys import ApiKey
from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.access.revocations import RevokedKind
from services.edge.domain.control import operations as ops
from services.edge.domain.model import Publication, StreamPosition
from services.edge.domain.presence.views import client_info
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.json_text import InvalidJson, checked_json
from services.shared.namespaces import DataFormat, Durability, Namespace

_MAX_BROADCAST = 10_000  # channels of a broadcast, commands of a batch
_AT_ONCE = 256  # of these at the same time
_MAX_OFFSET = 2**64 - 1
_OVERRIDES = frozenset({"presence", "join_leave", "force_push_join_leave", "force_recovery", "force_positioning"})
_MAX_REVOKED_BYTES = 255
_MAX_REVOKED_S = 315_360_000  # 10 years
_CLOSE_CODES = range(3000, 5000)


def _namespace(context: ApiContext, channel: str) -> Namespace:
    if not channel:
        raise ThalamusError("no channel", ErrorCode.BAD_REQUEST)
    return find_namespace(context.node.namespaces, channel, context.node.settings.channel_max_bytes)


def _bytes(raw: msgspec.Raw, encoded: str, name: str) -> bytes | None:
    """Return the bytes of a payload, or None if it is absent.

    `encoded` is the same payload in base64, the member `name` of the request; it has priority.

    Raises:
        ThalamusError: `encoded` is not base64.
    """
    if not encoded:
        return bytes(raw) or None
    try:
        return base64.b64decode(encoded, validate=True) or None
    except ValueError as error:
        raise ThalamusError(f"{name} is not base64", ErrorCode.BAD_REQUEST) from error


def _json(raw: msgspec.Raw, encoded: str, name: str) -> bytes | None:
    """As `_bytes`, but check that it is a JSON text.

    Raises:
        InvalidJson: it is not.
    """
    text = _bytes(raw, encoded, name)
    try:
        return None if text is None else checked_json(text)
    except InvalidJson as error:
        raise _naming(name if encoded else "", error) from error


def _naming(member: str, error: InvalidJson) -> InvalidJson:
    """Return the error with the name of the member of the request.

    "": its name is plain.
    """
    return InvalidJson(f"{member}: {error}") if member else error


def _since(position: r.StreamPosition | None) -> StreamPosition | None:
    if position is None:
        return None
    if position.offset > _MAX_OFFSET:
        raise ThalamusError("offset does not fit 64 bits", ErrorCode.BAD_REQUEST)
    return StreamPosition(int(position.offset), position.epoch)


async def publish(context: ApiContext, request: r.Publish) -> dict[str, Any]:
    """Publish to a channel: keep it in its log, if any; send it to all subscribers."""
    return await _publish(context, request.channel, request)


async def _publish(context: ApiContext, channel: str, request: r.Publish | r.Broadcast) -> dict[str, Any]:
    namespace = _namespace(context, channel)
    try:
        result = await context.node.publisher.publish(
            channel,
            namespace,
            _bytes(request.data, request.b64data, "b64data"),
            time_ms=int(context.node.clock.wall() * 1000),
            tags=request.tags,
            key_user="api",
            key=request.idempotency_key,
            keep=not request.skip_history,
        )
    except InvalidJson as error:
        raise _naming("b64data" if request.b64data else "", error) from error
    if not result.position.offset:
        return {}
    return {"offset": result.position.offset, "epoch": result.position.epoch}


async def broadcast(context: ApiContext, request: r.Broadcast) -> dict[str, Any]:
    """Publish the same data to many channels; one response per channel, in order."""
    if len(request.channels) > _MAX_BROADCAST:
        raise ThalamusError("too many channels", ErrorCode.LIMIT_EXCEEDED)

    async def one(channel: str) -> dict[str, Any]:
        return {"result": await _publish(context, channel, request)}

    return {"responses": await _each([partial(one, channel) for channel in request.channels], at_once=_AT_ONCE)}


async def _each(calls: Sequence[Callable[[], Awaitable[dict[str, Any]]]], *, at_once: int) -> list[dict[str, Any]]:
    """Return the responses of all calls, in order.

    A call that fails becomes an `error`.
    """

    async def one(call: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        try:
            return await call()
        except BodyRefused as error:
            return {"error": {"code": int(ErrorCode.BAD_REQUEST), "message": str(error)}}
        except ThalamusError as error:
            return {"error": error_body(error)}
        except Exception as error:
            return {"error": unforeseen(error)}

    results: list[dict[str, Any]] = []
    for start in range(0, len(calls), at_once):
        results += await asyncio.gather(*(one(call) for call in calls[start : start + at_once]))
    return results


def _user(user: str) -> str:
    if not user:
        raise ThalamusError("no user", ErrorCode.BAD_REQUEST)
    return user


async def subscribe(context: ApiContext, request: r.Subscribe) -> dict[str, Any]:
    """Subscribe a user's connections to a channel, on every node (server-side)."""
    _namespace(context, request.channel)
    unknown = set(request.override) - _OVERRIDES
    if unknown:
        raise ThalamusError(f"unknown override {min(unknown)}", ErrorCode.BAD_REQUEST)
    since = _since(request.recover_since)
    answers = await context.cluster.everywhere(
        ops.Subscribe(
            user=_user(request.user),
            client=request.client,
            channel=request.channel,
            info=_json(request.info, request.b64info, "b64info") or b"",
            data=_json(request.data, request.b64data, "b64data") or b"",
            expire_at=request.expire_at,
            recover_since=ops.WirePosition(*since) if since else None,
            override={name: value.value for name, value in request.override.items()},
        )
    )
    refused = sum(answer.get("refused", 0) for answer in answers)  # absent: an edge of an earlier version
    if refused and not any(answer["clients"] for answer in answers):
        raise ThalamusError("binary data", ErrorCode.NOT_AVAILABLE)
    return {"refused_clients": refused} if refused else {}


async def unsubscribe(context: ApiContext, request: r.Unsubscribe) -> dict[str, Any]:
    """Unsubscribe a user's connections from a channel, on every node."""
    await context.cluster.everywhere(
        ops.Unsubscribe(user=_user(request.user), client=request.client, channel=request.channel)
    )
    return {}


async def disconnect(context: ApiContext, request: r.Disconnect) -> dict[str, Any]:
    """Close a user's connections, on every node."""
    how = request.disconnect or r.DisconnectReason(code=ops.NO_CODE)
    if how.code not in _CLOSE_CODES or len(how.reason.encode()) > 123 or _is_json(how.reason):
        raise ThalamusError(
            "code must be 3000 to 4999, the reason at most 123 bytes and not JSON", ErrorCode.BAD_REQUEST
        )
    await context.cluster.everywhere(
        ops.Disconnect(
            user=_user(request.user),
            client=request.client,
            code=int(how.code),
            reason=how.reason,
            whitelist=request.whitelist,
        )
    )
    return {}


async def revoke(context: ApiContext, request: r.Revoke) -> dict[str, Any]:
    """Revoke a user, a session or a token, and close their connections.

    Devices of the user, or of the session, are forgotten: also if not every edge can be told.
    """
    named = [
        (kind, name)
        for kind, name in (
            (RevokedKind.USER, request.user),
            (RevokedKind.SESSION, request.session),
            (RevokedKind.TOKEN, request.token),
        )
        if name
    ]
    if len(named) != 1:
        raise ThalamusError("one of user, session and token", ErrorCode.BAD_REQUEST)
    ((kind, name),) = named
    if len(name.encode()) > _MAX_REVOKED_BYTES or not 0 < request.ttl_s <= _MAX_REVOKED_S:
        raise ThalamusError("the name must have at most 255 bytes, ttl_s be 1 to 315360000", ErrorCode.BAD_REQUEST)
    try:
        await context.revoker.revoke(kind, name, int(request.ttl_s))
    finally:
        if kind is RevokedKind.USER:
            await context.chat.forget_devices(name)
        elif kind is RevokedKind.SESSION:
            await context.chat.forget_devices_of_sessions("", [name])
    return {}


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text.encode())
    except msgspec.MsgspecError:
        return False
    return True


async def refresh(context: ApiContext, request: r.Refresh) -> dict[str, Any]:
    """Set another expiry for a user's connections, on every node."""
    await context.cluster.everywhere(
        ops.Refresh(
            user=_user(request.user), client=request.client, expired=request.expired, expire_at=request.expire_at
        )
    )
    return {}


async def history(context: ApiContext, request: r.History) -> dict[str, Any]:
    """Return one page of a channel's log, as clients get it."""
    namespace = _namespace(context, request.channel)
    if namespace.durability is Durability.NONE:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    most = context.node.settings.history_limit
    since = _since(request.since)
    page = await context.node.reader.history(
        request.channel,
        namespace,
        limit=most if request.limit < 0 else min(int(request.limit), most),
        since=since,
        reverse=request.reverse,
    )
    return {
        "publications": [_publication(one, namespace) for one in page.publications],
        "epoch": page.top.epoch,
        "offset": page.top.offset,
    }


def _publication(publication: Publication, namespace: Namespace) -> dict[str, Any]:
    found: dict[str, Any]
    if namespace.data_format is DataFormat.BINARY:
        found = {"b64data": base64.b64encode(publication.data).decode()}
    else:
        found = {"data": msgspec.Raw(publication.data)}
    if publication.info is not None:
        found["info"] = client_info(publication.info)
    found["offset"] = publication.offset
    if publication.tags:
        found["tags"] = publication.tags
    if publication.time_ms:
        found["time"] = publication.time_ms
    return found


async def history_remove(context: ApiContext, request: r.ChannelOnly) -> dict[str, Any]:
    """Remove all publications from a channel's log; its epoch and last offset stay."""
    namespace = _namespace(context, request.channel)
    if namespace.durability is Durability.NONE:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    if namespace.conversations:
        raise ThalamusError("a conversation is deleted, or messages of it", ErrorCode.NOT_AVAILABLE)
    if namespace.durability.keeps:
        await context.node.store.remove_history(request.channel)
    else:
        await context.node.broker.remove_history(request.channel)
    try:
        await context.cluster.everywhere(ops.ForgetHistory(request.channel))
    except Busy as error:  # it would say that nothing was done
        raise Unavailable(str(error)) from error
    return {}


async def channels(context: ApiContext, request: r.Channels) -> dict[str, Any]:
    """Return the channels that have subscribers, on all nodes."""
    found: dict[str, int] = {}
    answers, unanswered = await context.cluster.ask(ops.Channels(request.pattern), partial=request.partial)
    for of_edge in answers:
        for name, count in of_edge.items():
            found[name] = found.get(name, 0) + count
    return _without(unanswered, channels={name: {"num_clients": count} for name, count in sorted(found.items())})


async def info(context: ApiContext, request: r.Info) -> dict[str, Any]:
    """Return the figures of every node."""
    answers, unanswered = await context.cluster.ask(ops.Info(), partial=request.partial)
    return _without(unanswered, nodes=sorted(answers, key=lambda node: str(node["uid"])))


def _without(unanswered: int, **result: Any) -> dict[str, Any]:
    """Return a result, and how many edges it is without, if it is."""
    return {**result, "unanswered": unanswered} if unanswered else result


Method = Callable[[ApiContext, Any], Awaitable[dict[str, Any]]]
METHODS: dict[str, tuple[type[msgspec.Struct], Method]] = {
    "publish": (r.Publish, publish),
    "broadcast": (r.Broadcast, broadcast),
    "subscribe": (r.Subscribe, subscribe),
    "unsubscribe": (r.Unsubscribe, unsubscribe),
    "disconnect": (r.Disconnect, disconnect),
    "revoke": (r.Revoke, revoke),
    "refresh": (r.Refresh, refresh),
    "grants_give": (r.GrantsGive, grants_give),
    "grants_take": (r.GrantsTake, grants_take),
    "grants_list": (r.GrantsList, grants_list),
    "history": (r.History, history),
    "history_remove": (r.ChannelOnly, history_remove),
    **PRESENCE_METHODS,
    "channels": (r.Channels, channels),
    "connections": (r.Connections, connections),
    "info": (r.Info, info),
    **USER_METHODS,
    **INVITE_METHODS,
    **CHAT_METHODS,
}


async def batch(context: ApiContext, request: r.Batch, key: ApiKey) -> dict[str, Any]:
    """Run several methods in one request; one reply per command, in order."""
    if len(request.commands) > _MAX_BROADCAST:
        raise ThalamusError("too many commands", ErrorCode.LIMIT_EXCEEDED)

    async def one(command: dict[str, msgspec.Raw]) -> dict[str, Any]:
        try:
            (name, body), *more = command.items()
            kind, method = METHODS[name]
        except (ValueError, KeyError):
            raise ThalamusError(code=ErrorCode.METHOD_NOT_FOUND) from None
        if more:
            raise ThalamusError("one method per command", ErrorCode.BAD_REQUEST)
        decoded = decode(bytes(body), kind)
        if not permits(key, name, decoded):
            raise ScopeMissing(name)
        return {name: await method(context, decoded)}

    calls = [partial(one, command) for command in request.commands]
    return {"replies": await _each(calls, at_once=_AT_ONCE if request.parallel else 1)}
