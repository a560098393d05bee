"""Methods for operators: compare read models with the log, and make them again.

They are not among the methods of clients and backends: edges know none of them. The command line calls persistence
itself, without user and namespace.
"""

from __future__ import annotations

from services.persistence.chat.domain.names import namespace_of, type_of
from services.persistence.chat.domain.state import Phase
from services.persistence.chat.methods.context import Call, Result, Tools
from services.persistence.chat.new_events import Refused
from services.persistence.chat.refused_call import RefusedCall
from services.shared import chat_requests as r


class Channels(r.ChatRequest, kw_only=True):
    """The namespace whose conversations are listed. `cursor`: that of the page before."""

    namespace: r.Namespace
    cursor: str = ""


async def check(tools: Tools, _call: Call, request: r.OfChannel) -> Result:
    """Compare the read model of a conversation with the log."""
    await _existing(tools, request.channel)
    checked = await tools.upkeep.check(request.channel)
    return {"channel": request.channel, "offset": checked.position, "differences": checked.differences}


async def rebuild(tools: Tools, _call: Call, request: r.OfChannel) -> Result:
    """Make the read model of a conversation again."""
    await _existing(tools, request.channel)
    return {"channel": request.channel, "offset": await tools.upkeep.rebuild(request.channel)}


async def channels(tools: Tools, _call: Call, request: Channels) -> Result:
    """List channels of a namespace that may be conversations."""
    found, cursor = await tools.upkeep.channels(request.cursor)
    own = [one for one in found if namespace_of(one) == request.namespace and type_of(one) is not None]
    return {"channels": own, "cursor": cursor}


async def _existing(tools: Tools, channel: str) -> None:
    """Refuse a channel that is no conversation."""
    if type_of(channel) is None or await tools.queries.phase(channel) is Phase.NONE:
        raise RefusedCall(Refused(404, "no_conversation", "there is no such conversation"))
