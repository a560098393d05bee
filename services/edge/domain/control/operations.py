"""Operations of the server API, as each edge executes them for its own clients.

`Cluster` sends an operation to every edge, and each edge calls `execute`.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from services.edge.domain import commands as c
from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.access.claims import Override
from services.edge.domain.access.revocations import Revocation, Revocations, RevokedKind
from services.edge.domain.channels.data_format import can_use
from services.edge.domain.control import connections, presence
from services.edge.domain.control.connections import Connections
from services.edge.domain.control.presence import EnterPresence, LeavePresence, UpdatePresence
from services.edge.domain.control.targets import Target, sessions_of
from services.edge.domain.ends import EndReason
from services.edge.domain.replies import RefreshPush, SubscribePush
from services.edge.domain.session.command_runner import State
from services.edge.domain.session.handlers.subscribe import Wanted, begin, establish
from services.edge.domain.session.node import Node
from services.edge.domain.session.withdrawal import grants_changed
from services.shared.errors import ThalamusError, UnsubscribeCode

NO_CODE = 3503  # of `Disconnect`, on the control channel and in the server API: no code of the backend's own


class Disconnect(Target):
    """Closes connections. `whitelist`: ids of clients that stay connected."""

    code: int = NO_CODE
    reason: str = ""
    whitelist: list[str] = msgspec.field(default_factory=list)


class Revoke(Target):
    """Revokes a user, a sign-in session or a token, and closes their connections.

    `kind`, `id`, `at` and `until` are those of `Revocation`. Older edges know only `user` and `session`, and
    only close the connections of that session.
    """

    session: str
    kind: str = ""
    id: str = ""
    at: float = 0.0
    until: float = 0.0


class Unsubscribe(Target):
    channel: str


class WirePosition(msgspec.Struct, frozen=True):
    """A stream position as it is sent between edges: an object, not a list."""

    offset: int = 0
    epoch: str = ""


class Subscribe(Target):
    """Makes a server-side subscription.

    `info` and `data` are JSON texts. `expire_at` is in Unix seconds, 0: never. `recover_since` is the position to
    recover from.
    """

    channel: str
    info: bytes = b""
    data: bytes = b""
    expire_at: float = 0.0
    recover_since: WirePosition | None = None
    override: dict[str, bool] = msgspec.field(default_factory=dict)


class Refresh(Target):
    """Changes the expiry of connections.

    `expired`: close them now. If not, `expire_at` is the new expiry, in Unix seconds; 0: never.
    """

    expired: bool = False
    expire_at: float = 0.0


class Channels(msgspec.Struct):
    """Asks for the channels with subscribers. `pattern` is shell-style; empty: all."""

    pattern: str = ""


class Info(msgspec.Struct):
    """Asks for the statistics of the edge."""


class GrantsChanged(msgspec.Struct):
    """Has edges read the stored grants of a user again.

    They end what the grants no longer permit.
    """

    user: str


class SetUser(msgspec.Struct):
    """Says that a user was disabled, until auth says so too.

    `version`: see `Revocations`; 0: of an edge or an auth of before. `disabled` False ends
    no refusal, which only auth does: edges read the profile anew.
    """

    user: str
    disabled: bool
    version: int = 0


class ProfilesChanged(msgspec.Struct):
    """Says which profiles have changed: users, and the versions that they have now.

    0: any. Nobody answers it. Edges of before log a warning, and have no profiles.
    """

    versions: dict[str, int]


class ForgetHistory(msgspec.Struct):
    """Empties what edges cache of the channel's log, because its history was removed."""

    channel: str


Question = Channels | Info | Connections
_Command = Disconnect | Revoke | Unsubscribe | Subscribe | Refresh | EnterPresence | UpdatePresence | LeavePresence
_News = GrantsChanged | ForgetHistory | SetUser | ProfilesChanged
Operation = _Command | _News | Question
OPERATIONS: dict[str, type[Operation]] = {kind.__name__: kind for kind in get_args(Operation)}


async def execute(node: Node, operation: Operation, before: float = math.inf) -> dict[str, Any]:
    """Execute an operation on this edge; return values that can be encoded as JSON.

    Args:
        before: When the operation was requested, in monotonic seconds. A control command may arrive late; it is not for
            clients that connected after it.
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
        case EnterPresence() | UpdatePresence() | LeavePresence():
            return await presence.execute(node, operation, before)
        case GrantsChanged():
            await grants_changed(node, operation.user)
            return {}
        case SetUser():
            if operation.disabled:
                node.revocations.add_disabled(operation.user, operation.version)
            node.profiles.changed(operation.user)
            return {"clients": end_disabled(node, operation.user)}
        case ProfilesChanged():
            for user, version in operation.versions.items():
                node.profiles.changed(user, version)
            return {}
        case Channels():
            return {name: len(ch) for name, ch in node.hub.channels.items() if len(ch) and _matches(name, operation)}
        case Info():
            return _info(node)
        case Connections():
            return connections.find(node, operation)
        case ForgetHistory():
            channel = node.hub.channels.get(operation.channel)
            if channel is not None and channel.log is not None:
                channel.log.forget()
            node.reader.forget()
            return {}


def _matches(name: str, operation: Channels) -> bool:
    return not operation.pattern or fnmatch.fnmatchcase(name, operation.pattern)


def _disconnect(node: Node, operation: Disconnect, before: float) -> dict[str, Any]:
    count = 0
    for session in sessions_of(node, operation, before):
        if session.client not in operation.whitelist:
            code = 0 if operation.code == NO_CODE else operation.code
            session.disconnect(EndReason.DISCONNECTED, code, operation.reason)
            count += 1
    return {"clients": count}


def _revoke(node: Node, operation: Revoke) -> dict[str, Any]:
    entry = Revocation(
        kind=RevokedKind(operation.kind) if operation.kind else RevokedKind.SESSION,
        id=operation.id or operation.session,
        at=operation.at,
        until=operation.until,
    )
    if entry.until > node.clock.wall():
        node.revocations.add(entry)
    return {"clients": end_revoked(node, [entry], user=operation.user)}


def end_revoked(node: Node, entries: Iterable[Revocation], *, user: str = "") -> int:
    """Close the connections that revocations cover; return how many.

    The id of a session or a token is never used again, so it does not matter when the connections were opened. Those of
    a user stay if their token was issued later.

    `user`: only this user has such connections; empty: anybody may. All connections are looked through once.
    """
    revoked = Revocations()
    for entry in entries:
        revoked.add(entry)
    ended = [
        session
        for session in (node.users.get(user, {}) if user else node.clients).values()
        if revoked.covers(
            user=session.user,
            session=session.token_session,
            token=session.token_id,
            issued_at=session.token_issued_at,
        )
    ]
    for session in ended:
        session.disconnect(EndReason.DISCONNECTED)
    return len(ended)


def take_disabled(node: Node, digests: Iterable[bytes] | None, version: int) -> None:
    """Take what auth says of disabled users, see `Revocations`; close connections."""
    if node.revocations.set_disabled(digests, version, now=node.clock.monotonic()):
        for user in node.revocations.disabled_among(node.users):
            end_disabled(node, user)


def end_disabled(node: Node, user: str) -> int:
    """Close the connections of a user who is disabled; return how many."""
    if not node.revocations.is_disabled(user):
        return 0
    ended = list(node.users.get(user, {}).values())
    for session in ended:
        session.disconnect(EndReason.DISCONNECTED)
    return len(ended)


async def _unsubscribe(node: Node, operation: Unsubscribe, before: float) -> dict[str, Any]:
    count = 0
    for session in sessions_of(node, operation, before):
        subscription = session.subscriptions.get(operation.channel)
        if subscription is not None:
            session.end_subscription(subscription, UnsubscribeCode.SERVER)
            count += 1
    return {"clients": count}


async def _subscribe(node: Node, operation: Subscribe, before: float) -> dict[str, Any]:
    """Subscribe the clients.

    Those whose protocol can't carry the channel's data are counted as `refused`.
    """
    namespace = find_namespace(node.namespaces, operation.channel, node.settings.channel_max_bytes)
    since = operation.recover_since
    count = refused = 0
    for session in sessions_of(node, operation, before):
        if session.state is not State.OPEN:
            continue
        if operation.channel in session.subscriptions:
            count += 1
            continue
        if not can_use(namespace, carries_bytes=session.encoder.carries_bytes):
            refused += 1
            continue
        if len(session.subscriptions) >= node.settings.channels_per_client:
            session.disconnect(EndReason.CHANNEL_LIMIT)
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
            continue  # the session ended meanwhile
        session.push(
            SubscribePush(
                operation.channel, result.recoverable, result.epoch, result.offset, result.positioned, result.data
            )
        )
        session.push_recovered(subscription, result.publications)
        begin(session, channel, subscription)
        session.deadlines.reschedule()
        count += 1
    return {"clients": count, "refused": refused}


def _refresh(node: Node, operation: Refresh, before: float) -> dict[str, Any]:
    count = 0
    for session in sessions_of(node, operation, before):
        if session.state is not State.OPEN:
            continue
        if operation.expired:
            session.disconnect(EndReason.EXPIRED, by_backend=True)
        else:
            ttl = session.deadlines.set_expiry(operation.expire_at or None, by_backend=True)
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
