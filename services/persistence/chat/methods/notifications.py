"""Methods of the notifier: what it asks of conversations, markers and devices.

They are not among the methods of clients and backends: edges know none of them. The notifier calls persistence itself,
without user and namespace.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.persistence.chat.methods.context import Call, Result, Tools
from services.shared import chat_requests as r

MAX_PLACES = 500  # of one call


class Plan(r.OfChannel, kw_only=True):
    """A conversation, and where in its log to begin.

    `all`: also users without a device.
    """

    first: r.Offset
    max_members: Annotated[int, Meta(ge=1, le=10_000)]
    all: bool = False


class Show(r.OfChannel, kw_only=True):
    """A message, and the user and device that it is to be shown to."""

    epoch: str
    offset: r.Offset
    user: r.UserId
    address: str = ""


class Still(r.OfChannel, kw_only=True):
    """Messages of a conversation that users see on their devices: user → offset."""

    epoch: str
    shown: Annotated[dict[str, r.Offset], Meta(max_length=MAX_PLACES)]


class Gone(r.ChatRequest, kw_only=True):
    """The address of a device that can't be reached any more."""

    user: r.UserId
    address: str


class OfUsers(r.ChatRequest, kw_only=True):
    """Users whose devices are asked for."""

    users: Annotated[list[r.UserId], Meta(max_length=MAX_PLACES)]


async def plan(tools: Tools, _call: Call, request: Plan) -> Result:
    """Say whom to notify of what, with platform and address of each device."""
    found = await tools.notifications.plan(request.channel, request.first, request.max_members)
    devices = await tools.devices.of(list(found.users)) if found.users else {}
    users = {
        user: {
            "offset": what.offset,
            "rev": what.rev,
            "devices": [[one.platform, one.address] for one in devices.get(user, [])],
        }
        for user, what in found.users.items()
        if request.all or user in devices
    }
    return {**found._asdict(), "users": users}


async def show(tools: Tools, _call: Call, request: Show) -> Result:
    """Say what a notification is to say; without `shown`: it is not wanted."""
    found = await tools.notifications.show(
        request.channel, request.epoch, request.offset, request.user, request.address
    )
    return {} if found is None else {"shown": {**found._asdict(), "device": msgspec.to_builtins(found.device)}}


async def device(tools: Tools, _call: Call, request: Gone) -> Result:
    """Return the device of a user with an address, and the user's badge.

    Without `device`: there is none.
    """
    found = await tools.notifications.device(request.user, request.address) if request.address else None
    badge = {"badge": await tools.notifications.badge(request.user)}
    return badge if found is None else {**badge, "device": msgspec.to_builtins(found)}


async def devices(tools: Tools, _call: Call, request: OfUsers) -> Result:
    """Return platform and address of each device of users."""
    found = await tools.devices.of(request.users)
    return {"users": {user: [[one.platform, one.address] for one in of] for user, of in found.items()}}


async def still(tools: Tools, _call: Call, request: Still) -> Result:
    """Say of each user whether what is shown is still to be shown."""
    return {"users": await tools.notifications.still(request.channel, request.epoch, request.shown)}


async def gone(tools: Tools, _call: Call, request: Gone) -> Result:
    """Remove a device that can't be reached any more."""
    await tools.devices.gone(request.user, request.address)
    return {}
