"""What presence knows, as JSON: for RPC methods, and for the server API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from services.edge.domain.model import ClientInfo
from services.edge.domain.presence_ports import Presence, UserOnline
from services.shared.errors import ErrorCode, ThalamusError

MAX_PAGE = 1_000  # members or channels of one page


def client_info(info: ClientInfo) -> dict[str, Any]:
    """Return a client as others see it; infos that it has not are left out."""
    found: dict[str, Any] = {"user": info.user, "client": info.client}
    if info.conn_info:
        found["conn_info"] = msgspec.Raw(info.conn_info)
    if info.chan_info:
        found["chan_info"] = msgspec.Raw(info.chan_info)
    return found


async def members_page(presence: Presence, channel: str, limit: int, cursor: str) -> dict[str, Any]:
    """Return a page of members, by client id.

    Raises:
        ThalamusError: 107, the limit or the cursor is wrong; 100 if presence does not answer.
    """
    page = await presence.page(channel, limit=_limit(limit), cursor=cursor)
    return {"members": [client_info(info) for info in page.members], **_next(page.cursor)}


async def counts(presence: Presence, channels: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of clients and users of channels, by name.

    Raises:
        Unavailable: presence does not answer.
    """
    names = list(dict.fromkeys(channels))
    found = await presence.stats_of(names) if names else []
    return {
        "channels": {
            name: {"num_clients": stats.num_clients, "num_users": stats.num_users}
            for name, stats in zip(names, found, strict=True)
        }
    }


async def channels_page(presence: Presence, user: str, limit: int, cursor: str) -> dict[str, Any]:
    """Return a page of the channels that a user is in, by name.

    Raises:
        ThalamusError: 107, the limit or the cursor is wrong; 100 if presence does not answer.
    """
    page = await presence.channels_of(user, limit=_limit(limit), cursor=cursor)
    return {"channels": list(page.channels), **_next(page.cursor)}


async def online(presence: Presence, users: Sequence[str]) -> dict[str, Any]:
    """Return which users are online, by user.

    Raises:
        ThalamusError: 107, one of them is ""; 100 if presence does not answer.
    """
    if "" in users:
        raise ThalamusError("users: an empty id", ErrorCode.BAD_REQUEST)
    names = list(dict.fromkeys(users))
    found = await presence.online_of(names) if names else []
    return {"users": {name: _online(one) for name, one in zip(names, found, strict=True)}}


def _online(one: UserOnline) -> dict[str, Any]:
    if not one.connections:
        return {"online": False, **({"last_seen": one.last_seen_ms} if one.last_seen_ms else {})}
    return {
        "online": True,
        "state": "away" if one.away else "active",
        "since": one.since_ms,
        "connections": one.connections,
    }


def _limit(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise ThalamusError(f"limit: 1 to {MAX_PAGE:,}", ErrorCode.BAD_REQUEST)
    return limit


def _next(cursor: str) -> dict[str, str]:
    return {"cursor": cursor} if cursor else {}
