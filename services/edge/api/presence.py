"""Methods of the server API for presence: who is where, and changes of it.

The first line of each docstring is the method's summary in OpenAPI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from services.edge.api import requests as r
from services.edge.api.context import ApiContext
from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.control.presence import EnterPresence, LeavePresence, PresenceCommand, UpdatePresence
from services.edge.domain.presence import data as presence_data
from services.edge.domain.presence.views import channels_page, client_info, counts, members_page, online
from services.shared.errors import ErrorCode, ThalamusError

_MOST_ASKED = 1_000  # channels or users of one call


async def presence(context: ApiContext, request: r.ChannelOnly) -> dict[str, Any]:
    """Return the clients in a channel, on all nodes."""
    _channel(context, request.channel)
    members = await context.node.presence.members(request.channel)
    return {"presence": {member.client: client_info(member) for member in members}}


async def presence_stats(context: ApiContext, request: r.ChannelOnly) -> dict[str, Any]:
    """Return the number of clients and users in a channel, on all nodes."""
    _channel(context, request.channel)
    stats = await context.node.presence.stats(request.channel)
    return {"num_clients": stats.num_clients, "num_users": stats.num_users}


async def presence_members(context: ApiContext, request: r.PresenceMembers) -> dict[str, Any]:
    """Return a page of the clients in a channel, by client id."""
    _channel(context, request.channel)
    return await members_page(context.node.presence, request.channel, int(request.limit), request.cursor)


async def presence_counts(context: ApiContext, request: r.PresenceCounts) -> dict[str, Any]:
    """Return the numbers of clients and users in several channels."""
    _few("channels", request.channels)
    for channel in request.channels:
        _channel(context, channel)
    return await counts(context.node.presence, request.channels)


async def presence_channels(context: ApiContext, request: r.PresenceChannels) -> dict[str, Any]:
    """Return a page of the channels that a user is in, by name."""
    return await channels_page(context.node.presence, _user(request.user), int(request.limit), request.cursor)


async def presence_online(context: ApiContext, request: r.PresenceOnline) -> dict[str, Any]:
    """Return which users are online, since when, and when they were last."""
    _few("users", request.users)
    if not context.node.settings.online:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    return await online(context.node.presence, request.users)


async def presence_enter(context: ApiContext, request: r.PresenceEnter) -> dict[str, Any]:
    """Put a user's connections into presence of a channel, on every node."""
    _channel(context, request.channel)
    data = presence_data.checked(bytes(request.data)) if request.data else b""
    return await _change(
        context,
        EnterPresence(user=_user(request.user), client=request.client, channel=request.channel, data=data),
    )


async def presence_update(context: ApiContext, request: r.PresenceUpdate) -> dict[str, Any]:
    """Change the presence data of a user's connections in a channel, on every node."""
    _channel(context, request.channel)
    return await _change(
        context,
        UpdatePresence(
            user=_user(request.user),
            client=request.client,
            channel=request.channel,
            data=presence_data.checked(bytes(request.data)),
            replace=request.replace,
        ),
    )


async def presence_leave(context: ApiContext, request: r.PresenceLeave) -> dict[str, Any]:
    """Take a user's connections out of presence of a channel, on every node."""
    _channel(context, request.channel)
    return await _change(
        context, LeavePresence(user=_user(request.user), client=request.client, channel=request.channel)
    )


async def presence_remove(context: ApiContext, request: r.PresenceRemove) -> dict[str, Any]:
    """Take a user out of presence of one channel or of all; tell the clients."""
    if request.channel:
        _channel(context, request.channel)
    return await _change(
        context,
        LeavePresence(
            user=_user(request.user),
            client=request.client,
            channel=request.channel,
            tell=True,
            unsubscribe=request.unsubscribe,
        ),
    )


async def _change(context: ApiContext, command: PresenceCommand) -> dict[str, Any]:
    """Have every edge execute a command; return for how many clients.

    Raises:
        ThalamusError: 108, no client has a place for presence data; 100, the outcome is unknown: repeat it.
    """
    answers = await context.cluster.everywhere(command)
    clients = sum(answer["clients"] for answer in answers)
    refused = sum(answer["refused"] for answer in answers)
    if refused and not clients:
        raise ThalamusError("`info` of the subscription is no object", ErrorCode.NOT_AVAILABLE)
    return {"num_clients": clients, **({"refused_clients": refused} if refused else {})}


def _channel(context: ApiContext, channel: str) -> None:
    if not channel:
        raise ThalamusError("no channel", ErrorCode.BAD_REQUEST)
    if not find_namespace(context.node.namespaces, channel, context.node.settings.channel_max_bytes).presence:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)


def _user(user: str) -> str:
    if not user:
        raise ThalamusError("no user", ErrorCode.BAD_REQUEST)
    return user


def _few(what: str, names: list[str]) -> None:
    if len(names) > _MOST_ASKED:
        raise ThalamusError(f"{what}: {_MOST_ASKED:,} at most", ErrorCode.LIMIT_EXCEEDED)


PRESENCE_METHODS: dict[str, tuple[type[msgspec.Struct], Callable[[ApiContext, Any], Awaitable[dict[str, Any]]]]] = {
    "presence": (r.ChannelOnly, presence),
    "presence_stats": (r.ChannelOnly, presence_stats),
    "presence_members": (r.PresenceMembers, presence_members),
    "presence_counts": (r.PresenceCounts, presence_counts),
    "presence_channels": (r.PresenceChannels, presence_channels),
    "presence_online": (r.PresenceOnline, presence_online),
    "presence_enter": (r.PresenceEnter, presence_enter),
    "presence_update": (r.PresenceUpdate, presence_update),
    "presence_leave": (r.PresenceLeave, presence_leave),
    "presence_remove": (r.PresenceRemove, presence_remove),
}
