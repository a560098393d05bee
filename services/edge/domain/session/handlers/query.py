"""Handlers of the commands presence, presence_stats, history, rpc and send.

A read is permitted when it begins. One that is under way when a grant is taken still gets its answer: it is what the
client was permitted to see when it asked, and the wait for it is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain import commands as c
from services.edge.domain.access.authorize import authorize
from services.edge.domain.access.grants import Operation
from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.replies import HistoryResult, PresenceResult, PresenceStatsResult, RpcResult
from services.edge.domain.session import membership
from services.edge.domain.session.handlers.common import admit_new, namespace_of, require_format
from services.edge.domain.session.rpc import RpcContext
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Durability

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


async def presence(session: Session, request: c.Presence, _: int) -> PresenceResult:
    """Return the clients in the channel. Wire protocol, 5.5."""
    await _check_presence(session, request)
    return PresenceResult(list(await session.node.presence.members(request.channel)))


async def presence_stats(session: Session, request: c.PresenceStats, _: int) -> PresenceStatsResult:
    """Return the numbers of clients and users in the channel. Wire protocol, 5.5."""
    await _check_presence(session, request)
    stats = await session.node.presence.stats(request.channel)
    return PresenceStatsResult(stats.num_clients, stats.num_users)


async def _check_presence(session: Session, request: c.Presence | c.PresenceStats) -> None:
    namespace = namespace_of(session, request.channel)
    if not namespace.presence:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    await authorize(session, namespace, request.channel, Operation.PRESENCE, request.command_token)


async def history(session: Session, request: c.History, _: int) -> HistoryResult:
    """Return one page of the channel's log. Wire protocol, 11.2."""
    namespace = namespace_of(session, request.channel)
    if namespace.durability is Durability.NONE or not namespace.history_size:
        raise ThalamusError(code=ErrorCode.NOT_AVAILABLE)
    require_format(session, namespace)
    access = await authorize(session, namespace, request.channel, Operation.HISTORY, request.command_token)
    await admit_new(session, namespace, request.channel)
    most = session.node.settings.history_limit
    limit = most if request.limit < 0 else min(request.limit, most)
    if namespace.conversations:
        page = await membership.history(session, namespace, request, access, limit)
        return HistoryResult(page.publications, page.top)
    page = await session.node.reader.history(
        request.channel,
        namespace,
        limit=limit,
        since=request.since,
        reverse=request.reverse,
    )
    return HistoryResult(page.publications, page.top)


async def rpc(session: Session, request: c.Rpc, _: int) -> RpcResult:
    """Call an RPC method that is registered on this edge. Wire protocol, 5.7."""
    context = RpcContext(session, request.method, request.command_token)
    return RpcResult(await session.node.rpc.call(context, request.data))


async def send(session: Session, request: c.Send, _: int) -> None:
    """End the connection: messages without reply are not accepted. Wire protocol, 5.7."""
    raise Disconnect(EndReason.NOT_AVAILABLE)
