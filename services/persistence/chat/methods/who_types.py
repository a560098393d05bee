"""Methods by which users say that they type."""

from __future__ import annotations

from services.persistence.chat.domain.access import why_no_post
from services.persistence.chat.domain.state import Type
from services.persistence.chat.methods.context import Call, Result, Tools
from services.persistence.chat.new_events import Refused
from services.persistence.chat.refusals import answer
from services.persistence.chat.refused_call import RefusedCall, malformed
from services.shared import chat_requests as r

_TOO_SOON, _TOO_MANY_MEMBERS, _UNCHANGED = "too_soon", "too_many_members", "unchanged"


async def start(tools: Tools, call: Call, request: r.OfChannel) -> Result:
    """Tell the others that the caller types."""
    why = await _why_not(tools, call, request.channel)
    if why is None and not await tools.typing.began(request.channel, call.user):
        why = _TOO_SOON
    return _told(call, request.channel, why, on=True)


async def stop(tools: Tools, call: Call, request: r.OfChannel) -> Result:
    """Tell the others that the caller types no more."""
    why = await _why_not(tools, call, request.channel)
    if why is None and not await tools.typing.stopped(request.channel, call.user):
        why = _UNCHANGED
    return _told(call, request.channel, why, on=False)


def _told(call: Call, channel: str, why: str | None, *, on: bool) -> Result:
    if why is not None:
        return {"channel": channel, "told": False, "why": why}
    call.ephemerals.append((channel, {"kind": "typing", "user": call.user, "on": on}))
    return {"channel": channel, "told": True}


async def _why_not(tools: Tools, call: Call, channel: str) -> str | None:
    """Return why nobody is told; None: they may be.

    Raises:
        RefusedCall: the caller may not write there.
    """
    if not call.user:
        raise malformed("it is a user who types: `as`")
    state, now_ms = (await tools.queries.seen(channel, call.user)).state, tools.now_ms()
    if (why := why_no_post(state, call.user, now_ms)) is not None:
        raise RefusedCall(Refused(*answer(state, call.user, now_ms, why)))
    too_many = state.type is Type.OPEN or len(state.members) > call.options.typing_max_members
    return _TOO_MANY_MEMBERS if too_many else None
