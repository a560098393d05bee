"""What each command does, by the type of the request, one module per group; publish has a quicker way, too."""

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

# Each takes (session, request, command id) and returns the result, or None where it has answered itself.
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
    """Run a command; raises `ThalamusError` for an error reply and `Disconnect` for a close."""
    return await _HANDLERS[type(command.request)](session, command.request, command.id)
