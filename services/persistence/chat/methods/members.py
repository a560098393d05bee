"""Methods on the members of a conversation."""

from __future__ import annotations

from typing import Any

from services.persistence.chat.methods.context import Call, Done, Result, Tools, reply
from services.shared import chat_requests as r


async def add(tools: Tools, call: Call, request: r.MembersAdd) -> Result:
    """Add a user to a group."""
    return await _told(tools, call, request, "add", "added")


async def invite(tools: Tools, call: Call, request: r.MembersInvite) -> Result:
    """Invite a user to a group."""
    return await _told(tools, call, request, "invite", "invited")


async def remove(tools: Tools, call: Call, request: r.OfMember) -> Result:
    """Remove a member, or take an invitation back."""
    return await _told(tools, call, request, "remove", "removed")


async def ban(tools: Tools, call: Call, request: r.MembersUntil) -> Result:
    """Ban a user; a membership ends."""
    return await _told(tools, call, request, "ban", "removed")


async def unban(tools: Tools, call: Call, request: r.OfMember) -> Result:
    """Lift a ban."""
    return reply(request.channel, await _change(tools, call, request, "unban"))


async def role(tools: Tools, call: Call, request: r.MembersRole) -> Result:
    """Give a member another role."""
    return reply(request.channel, await _change(tools, call, request, "role"))


async def silence(tools: Tools, call: Call, request: r.MembersUntil) -> Result:
    """Forbid a member to write for a time, or allow it again."""
    return reply(request.channel, await _change(tools, call, request, "silence"))


async def _told(tools: Tools, call: Call, request: r.OfMember, op: str, notice: str) -> Result:
    """Change a membership, and tell the user."""
    done = await _change(tools, call, request, op)
    await tools.notify(call, request.user, notice, request.channel, done)
    return reply(request.channel, done)


async def _change(tools: Tools, call: Call, request: r.OfMember, op: str) -> Done:
    given: dict[str, Any] = request.given()
    event = {"kind": "member", "op": op, **{name: given[name] for name in _MEMBERS if name in given}}
    done = await tools.write(call, request.channel, event, call.key)
    await tools.settle(request.channel)
    return done


_MEMBERS = ("user", "role", "from", "until")
