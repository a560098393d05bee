"""What each method of the server API does; backends may do everything, so no rule of a namespace is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from services.edge.api import requests as r
from services.edge.api.bodies import BodyRefused, decode, error_body
from services.edge.api.context import ApiContext
from services.edge.domain import operations as ops
from services.edge.domain.json_text import checked_json
from services.edge.domain.model import ClientInfo
from services.edge.domain.permissions import find_namespace
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Durability, Namespace

_MAX_BROADCAST = 10_000
_AT_ONCE = 256
_OVERRIDES = frozenset({"presence", "join_leave", "force_push_join_leave", "force_recovery", "force_positioning"})
_CLOSE_CODES = range(3000, 5000)


def _namespace(context: ApiContext, channel: str) -> Namespace:
    if not channel:
        raise ThalamusError("no channel", ErrorCode.BAD_REQUEST)
    return find_namespace(context.node.namespaces, channel, context.node.settings.channel_max_bytes)


def _json(raw: msgspec.Raw) -> bytes | None:
    """The text of a payload; None where the member was absent."""
    text = bytes(raw)
    if not text:
        return None
    return checked_json(text)


async def publish(context: ApiContext, request: r.Publish) -> dict[str, Any]:
    """Keep and send one publication; every node's subscribers get it."""
    return await _publish(context, request.channel, request)


async def _publish(context: ApiContext, channel: str, request: r.Publish | r.Broadcast) -> dict[str, Any]:
    namespace = _namespace(context, channel)
    result = await context.node.publisher.publish(
        channel,
        namespace,
        _json(request.data),
        time_ms=int(context.node.clock.wall() * 1000),
        tags=request.tags,
        key_user="api",
        key=request.idempotency_key,
    )
    if not result.position.offset:
        return {}
    return {"offset": result.position.offset, "epoch": result.position.epoch}


async def broadcast(context: ApiContext, request: r.Broadcast) -> dict[str, Any]:
    """The same to many channels; one response per channel, in order."""
    if len(request.channels) > _MAX_BROADCAST:
        raise ThalamusError("too many channels", ErrorCode.LIMIT_EXCEEDED)

    async def one(channel: str) -> dict[str, Any]:
        try:
            return {"result": await _publish(context, channel, request)}
        except ThalamusError as error:
            return {"error": error_body(error)}

    return {"responses": await _bounded([partial(one, channel) for channel in request.channels])}
    if publication.info is not None:
        found["info"] = _client(publication.info)
    found["offset"] = publication.offset
    if publication.tags:
        found["tags"] = publication.tags
    return found


def _client(info: ClientInfo) -> dict[str, Any]:
    found: dict[str, Any] = {"user": info.user, "client": info.client}
    if info.conn_info:
        found["conn_info"] = msgspec.Raw(info.conn_info)
    if info.chan_info:
        found["chan_info"] = msgspec.Raw(info.chan_info)
    return found


async def history_remove(context: ApiContext, request: r.ChannelOnly) -> dict[str, Any]:
    """Remove what a channel's log keeps; epoch and top stay."""
    namespace = _namespace(context, request.channel)
    if namespace.durability is Durability.NONE:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    if namespace.durability is Durability.STORED:
        await context.node.store.remove_history(request.channel)
    else:
        await context.node.broker.remove_history(request.channel)
    await context.cluster.everywhere(ops.ForgetHistory(request.channel))
    return {}


async def presence(context: ApiContext, request: r.ChannelOnly) -> dict[str, Any]:
    """Who is in a channel, on all nodes."""
    _presence_on(context, request.channel)
    members = await context.node.presence.members(request.channel)
    return {"presence": {member.client: _client(member) for member in members}}


async def presence_stats(context: ApiContext, request: r.ChannelOnly) -> dict[str, Any]:
    """How many are in a channel, on all nodes."""
    _presence_on(context, request.channel)
    stats = await context.node.presence.stats(request.channel)
    return {"num_clients": stats.num_clients, "num_users": stats.num_users}


def _presence_on(context: ApiContext, channel: str) -> None:
    if not _namespace(context, channel).presence:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)


async def channels(context: ApiContext, request: r.Channels) -> dict[str, Any]:
    """Channels that have subscribers, on all nodes."""
    found: dict[str, int] = {}
    for of_edge in await context.cluster.everywhere(ops.Channels(request.pattern)):
        for name, count in of_edge.items():
            found[name] = found.get(name, 0) + count
    return {"channels": {name: {"num_clients": count} for name, count in sorted(found.items())}}


async def info(context: ApiContext, _: r.Info) -> dict[str, Any]:
    """Figures of every node."""
    return {"nodes": sorted(await context.cluster.everywhere(ops.Info()), key=lambda node: str(node["uid"]))}


Method = Callable[[ApiContext, Any], Awaitable[dict[str, Any]]]
METHODS: dict[str, tuple[type[msgspec.Struct], Method]] = {
    "publish": (r.Publish, publish),
    "broadcast": (r.Broadcast, broadcast),
    "subscribe": (r.Subscribe, subscribe),
    "unsubscribe": (r.Unsubscribe, unsubscribe),
    "disconnect": (r.Disconnect, disconnect),
    "refresh": (r.Refresh, refresh),
    "history": (r.History, history),
    "history_remove": (r.ChannelOnly, history_remove),
    "presence": (r.ChannelOnly, presence),
    "presence_stats": (r.ChannelOnly, presence_stats),
    "channels": (r.Channels, channels),
    "info": (r.Info, info),
}


async def batch(context: ApiContext, request: r.Batch) -> dict[str, Any]:
    """Several methods in one request: one reply each, in order; in parallel where asked."""
    if len(request.commands) > _MAX_BROADCAST:
        raise ThalamusError("too many commands", ErrorCode.LIMIT_EXCEEDED)

    async def one(command: dict[str, msgspec.Raw]) -> dict[str, Any]:
        try:
            (name, body), *more = command.items()
            kind, method = METHODS[name]
        except (ValueError, KeyError):
            return {"error": {"code": int(ErrorCode.METHOD_NOT_FOUND), "message": ErrorCode.METHOD_NOT_FOUND.message}}
        try:
            if more:
                raise ThalamusError("one method per command", ErrorCode.BAD_REQUEST)
            return {name: await method(context, decode(bytes(body), kind))}
        except BodyRefused as error:
            return {"error": {"code": int(ErrorCode.BAD_REQUEST), "message": str(error)}}
        except ThalamusError as error:
            return {"error": error_body(error)}

    calls = [partial(one, command) for command in request.commands]
    if request.parallel:
        return {"replies": await _bounded(calls)}
    return {"replies": [await call() for call in calls]}
