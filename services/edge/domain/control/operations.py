"""What the server API asks of one edge about its own clients. The cluster calls this on every edge."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from typing import Any

import msgspec

from services.edge.domain import commands as c
from services.edge.domain.access.permissions import find_namespace
from services.edge.domain.access.tokens import Override
from services.edge.domain.replies import RefreshPush, SubscribePush
from services.edge.domain.session.command_runner import State
from services.edge.domain.session.handlers.subscribe import Wanted, begin, establish
from services.edge.domain.session.node import Node
from services.edge.domain.session.session import Session
from services.shared.errors import CloseCode, ThalamusError, UnsubscribeCode


class Target(msgspec.Struct, kw_only=True):
    """Which clients: all of a user, or one of them."""

    user: str
    client: str = ""


class Disconnect(Target):
    """End connections; `whitelist`: client ids that stay."""

    code: int = int(CloseCode.FORCE_DISCONNECT)
    reason: str = ""
    whitelist: list[str] = []


class Revoke(Target):
    """End the connections whose tokens come from this signing-in."""

    session: str


class Unsubscribe(Target):
    channel: str


class WirePosition(msgspec.Struct, frozen=True):
    """A stream position as it travels between edges: an object, not a list."""

    offset: int = 0
    epoch: str = ""


class Subscribe(Target):
    """`info` and `data` are JSON texts; `recover_since` is the position to recover from."""

    channel: str
    info: bytes = b""
    data: bytes = b""
    expire_at: float = 0.0
    recover_since: WirePosition | None = None
    override: dict[str, bool] = {}


class Refresh(Target):
    """`expired`: end it now; else `expire_at` (Unix seconds; 0: never) is the new expiry."""

    expired: bool = False
    expire_at: float = 0.0


class Channels(msgspec.Struct):
    """`pattern`: shell-style; empty: all."""

    pattern: str = ""


class Info(msgspec.Struct):
    """Figures of the edge."""


class ForgetHistory(msgspec.Struct):
    """The history of the channel was removed: rings must not answer for it."""

    channel: str


Question = Channels | Info
Operation = Disconnect | Revoke | Unsubscribe | Subscribe | Refresh | ForgetHistory | Question
OPERATIONS: dict[str, type[Operation]] = {
    kind.__name__: kind for kind in (Disconnect, Revoke, Unsubscribe, Subscribe, Refresh, ForgetHistory, Channels, Info)
}


async def execute(node: Node, operation: Operation, before: float = math.inf) -> dict[str, Any]:
    """Do it on this edge; returns JSON-ready values.

    `before` (monotonic seconds): when it was asked for. An order may come late, and is not for who came after it.
    """
    match operation:
        case Disconnect():
            return _disconnect(node, operation, before)
        case Revoke():
            return _revoke(node, operation)
        case Unsubscribe():
            return await _unsubscribe(node, operation, before)
        case Subscribe():
            return await _subscribe(node, operation, before)
        case Refresh():
            return _refresh(node, operation, before)
        case Channels():
            return {name: len(ch) for name, ch in node.hub.channels.items() if len(ch) and _matches(name, operation)}
        case Info():
            return _info(node)
        case ForgetHistory():
            channel = node.hub.channels.get(operation.channel)
            if channel is not None and channel.log is not None:
                channel.log.forget()
            node.reader.forget()
            return {}


def _matches(name: str, operation: Channels) -> bool:
    return not operation.pattern or fnmatch.fnmatchcase(name, operation.pattern)


def _sessions(node: Node, target: Target, before: float) -> Iterable[Session]:
    of_user = node.users.get(target.user, {})
    if target.client:
        one = of_user.get(target.client)
        found = [one] if one else []
    else:
        found = list(of_user.values())
    return [session for session in found if session.opened_at < before]


def _disconnect(node: Node, operation: Disconnect, before: float) -> dict[str, Any]:
    count = 0
    for session in _sessions(node, operation, before):
        if session.client not in operation.whitelist:
            session.disconnect(operation.code, _reason(operation))
            count += 1
    return {"clients": count}


def _reason(operation: Disconnect) -> str:
    if operation.reason:
        return operation.reason
    known = operation.code in set(CloseCode)
    return CloseCode(operation.code).reason if known else CloseCode.FORCE_DISCONNECT.reason


def _revoke(node: Node, operation: Revoke) -> dict[str, Any]:
    """Whenever they came: nobody signs in again under the name of an ended session."""
    count = 0
    for session in _sessions(node, operation, math.inf):
        if session.token_session == operation.session:
            session.disconnect(CloseCode.FORCE_DISCONNECT, CloseCode.FORCE_DISCONNECT.reason)
            count += 1
    return {"clients": count}


async def _unsubscribe(node: Node, operation: Unsubscribe, before: float) -> dict[str, Any]:
    count = 0
    for session in _sessions(node, operation, before):
        subscription = session.subscriptions.get(operation.channel)
        if subscription is not None:
            session.end_subscription(subscription, UnsubscribeCode.SERVER)
            count += 1
    return {"clients": count}


async def _subscribe(node: Node, operation: Subscribe, before: float) -> dict[str, Any]:
    namespace = find_namespace(node.namespaces, operation.channel, node.settings.channel_max_bytes)
    since = operation.recover_since
    count = 0
    for session in _sessions(node, operation, before):
        if session.state is not State.OPEN or operation.channel in session.subscriptions:
            continue
        if len(session.subscriptions) >= node.settings.channels_per_client:
            session.disconnect(CloseCode.CHANNEL_LIMIT, CloseCode.CHANNEL_LIMIT.reason)
            continue
        request = c.Subscribe(channel=operation.channel)
        if since is not None:
            request.recover, request.offset, request.epoch = True, since.offset, since.epoch
        wanted = Wanted(
            operation.channel,
            namespace,
            request,
            server_side=True,
            granted=True,
            info=operation.info,
            data=operation.data,
            expires_at=operation.expire_at or None,
            override=Override(**operation.override),
        )
        try:
            channel, subscription, result = await establish(session, wanted)
        except ThalamusError:
            if session.state is State.OPEN:
                raise
            continue  # it went away meanwhile
        session.push(
            SubscribePush(
                operation.channel, result.recoverable, result.epoch, result.offset, result.positioned, result.data
            )
        )
        for publication in result.publications:
            session.push_publication(operation.channel, publication)
        begin(session, channel, subscription)
        session.deadlines.reschedule()
        count += 1
    return {"clients": count}


def _refresh(node: Node, operation: Refresh, before: float) -> dict[str, Any]:
    count = 0
    for session in _sessions(node, operation, before):
        if session.state is not State.OPEN:
            continue
        if operation.expired:
            session.disconnect(CloseCode.EXPIRED, CloseCode.EXPIRED.reason)
        else:
            ttl = session.deadlines.set_expiry(operation.expire_at or None)
            session.push(RefreshPush(expires=session.deadlines.expires_at is not None, ttl=ttl))
        count += 1
    return {"clients": count}


def _info(node: Node) -> dict[str, Any]:
    return {
        "uid": node.edge_id,
        "name": node.edge_name,
        "version": node.settings.version,
        "num_clients": len(node.clients),
        "num_users": len(node.users),
        "num_channels": sum(1 for channel in node.hub.channels.values() if len(channel)),
        "num_subs": sum(len(channel) for channel in node.hub.channels.values()),
        "uptime": int(node.clock.monotonic() - node.started_at),
    }
