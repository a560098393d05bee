"""Methods on the devices that notifications are sent to."""

from __future__ import annotations

from typing import Any

from services.persistence.chat.devices.device import Device, is_auth, is_key, sign_in, why_no_endpoint
from services.persistence.chat.methods.context import Call, Result, Tools
from services.persistence.chat.refused_call import malformed
from services.shared import chat_requests as r


async def set_device(tools: Tools, call: Call, request: r.DevicesSet) -> Result:
    """Add a device of the caller, or replace the one with its id."""
    device = Device(
        id=request.id,
        platform=request.platform,
        set_ms=tools.now_ms(),
        token=request.token or "",
        endpoint=request.endpoint or "",
        p256dh=request.keys.p256dh if request.keys else "",
        auth=request.keys.auth if request.keys else "",
        session=sign_in(call.session),
    )
    if device.platform == "webpush":
        if why := why_no_endpoint(device.endpoint, tools.web_push_hosts):
            raise malformed(f"`endpoint` {why}")
        if not (is_key(device.p256dh) and is_auth(device.auth)):
            raise malformed("`keys` are not those of a browser")
    await tools.devices.set(_user(call), device)
    return {"id": device.id, "applied": True}


async def remove(tools: Tools, call: Call, request: r.OfDevice) -> Result:
    """Remove a device of the caller."""
    if await tools.devices.remove(_user(call), request.id):
        return {"id": request.id, "applied": True}
    return {"id": request.id, "applied": False, "why": "unchanged"}


async def list_all(tools: Tools, call: Call, _: r.DevicesList) -> Result:
    """List the devices of the caller."""
    return {"devices": await devices_of(tools, _user(call))}


class OfUser(r.ChatRequest, kw_only=True):
    """A user who is refused from now on."""

    user: str


async def forget(tools: Tools, _call: Call, request: OfUser) -> Result:
    """Remove all devices of a user; edges call it, and clients can't."""
    await tools.devices.forget(request.user)
    return {}


class OfSessions(r.ChatRequest, kw_only=True):
    """Sign-ins of a user that have ended; `user` "": of whoever it is."""

    user: str
    sessions: list[str]


async def forget_sessions(tools: Tools, _call: Call, request: OfSessions) -> Result:
    """Remove the devices set in these sign-ins; edges call it, and clients can't."""
    await tools.devices.forget_sessions(request.user, request.sessions)
    return {}


async def devices_of(tools: Tools, user: str) -> list[dict[str, Any]]:
    """Return the devices of a user, without what is needed to send to them."""
    found = await tools.devices.of([user])
    return [
        {"id": one.id, "platform": one.platform, "address": _shown(one), "set": one.set_ms}
        for one in found.get(user, [])
    ]


def _shown(device: Device) -> str:
    """The part of an address by which its user knows it, and nobody can send to it."""
    if device.endpoint:
        return device.endpoint.split("/")[2]
    return f"…{device.token[-4:]}" if len(device.token) >= _LONG else "…"


_LONG = 16  # characters of a token, of which the last four tell nothing


def _user(call: Call) -> str:
    if not call.user:
        raise malformed("whose devices is said by `as`")
    return call.user
