"""Handlers of the commands presence, presence_stats, history, rpc and send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.replies import HistoryResult, PresenceResult, PresenceStatsResult, RpcResult
from services.edge.domain.session.handlers.common import (
    admit_new,
    namespace_of,
    require,
    require_format,
    require_token,
)
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Durability

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


async def presence(session: Session, request: c.Presence, _: int) -> PresenceResult:
    """Return the clients in the channel. Wire protocol, 5.5."""
    _check_presence(session, request)
    return PresenceResult(list(await session.node.presence.members(request.channel)))


async def presence_stats(session: Session, request: c.PresenceStats, _: int) -> PresenceStatsResult:
    """Return the numbers of clients and users in the channel. Wire protocol, 5.5."""
    _check_presence(session, request)
    stats = await session.node.presence.stats(request.channel)
    return PresenceStatsResult(stats.num_clients, stats.num_users)


def _check_presence(session: Session, request: c.Presence | c.PresenceStats) -> None:
    namespace = namespace_of(session, request.channel)
    if not namespace.presence:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    require(session, namespace, request.channel, namespace.presence_read, request.command_token)


async def history(session: Session, request: c.History, _: int) -> HistoryResult:
    """Return one page of the channel's log. Wire protocol, 11.2."""
    namespace = namespace_of(session, request.channel)
    if namespace.durability is Durability.NONE or not namespace.history_size:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    require_format(session, namespace)
    require(session, namespace, request.channel, namespace.history, request.command_token)
    await admit_new(session, namespace, request.channel)
    most = session.node.settings.history_limit
    page = await session.node.reader.history(
        request.channel,
        namespace,
        limit=most if request.limit < 0 else min(request.limit, most),
        since=request.since,
        reverse=request.reverse,
    )
    return HistoryResult(page.publications, page.top)


async def rpc(session: Session, request: c.Rpc, _: int) -> RpcResult:
    """Call an RPC method that is registered on this edge. Wire protocol, 5.7.

    A method has no namespace: whether the command needs a token is up to the default namespace.
    """
    require_token(session, session.node.namespaces.default, request.command_token)
    return RpcResult(await session.node.rpc.call(request.method, session.user, session.client, request.data))


async def send(session: Session, request: c.Send, _: int) -> None:
    """End the connection: messages without reply are not accepted. Wire protocol, 5.7."""
    raise Disconnect(EndReason.NOT_AVAILABLE)
