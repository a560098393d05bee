"""Handlers of the client commands, one module per group, and the table of them.

`CommandRunner` mostly calls `begin_publish` for a publish command instead, which needs no task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from services.edge.domain import commands as c
from services.edge.domain.replies import Result
from services.edge.domain.session.handlers.connect import connect
from services.edge.domain.session.handlers.publish import publish
from services.edge.domain.session.handlers.query import history, presence, presence_stats, rpc, send
from services.edge.domain.session.handlers.refresh import refresh, sub_refresh
from services.edge.domain.session.handlers.subscribe import subscribe, unsubscribe

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

# A handler takes (session, request, command id) and returns the result, or None if it has sent the reply itself.
_HANDLERS: dict[type[c.Request], Callable[[Session, Any, int], Awaitable[Result | None]]] = {
    c.Connect: connect,
    c.Subscribe: subscribe,
    c.Unsubscribe: unsubscribe,
    c.Publish: publish,
    c.Presence: presence,
    c.PresenceStats: presence_stats,
    c.History: history,
    c.Send: send,
    c.Rpc: rpc,
    c.Refresh: refresh,
    c.SubRefresh: sub_refresh,
}


async def handle(session: Session, command: c.Command) -> Result | None:
    """Execute a command; return its result, or None if the reply was sent already.

    Raises:
        ThalamusError: the command is answered with this error.
        Disconnect: the connection ends for this reason.
    """
    return await _HANDLERS[type(command.request)](session, command.request, command.id)
