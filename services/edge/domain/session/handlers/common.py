"""Checks that several command handlers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain.access.permissions import Actor, allows, find_namespace
from services.edge.domain.channels.data_format import can_use
from services.edge.domain.ends import Disconnect, EndReason
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import CommandToken, Namespace, Permission

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


def required_channel(channel: str) -> None:
    """Raise `Disconnect` (`BAD_REQUEST`) if the command names no channel."""
    if not channel:
        raise Disconnect(EndReason.BAD_REQUEST)


def namespace_of(session: Session, channel: str) -> Namespace:
    """Return the namespace of the channel.

    Raises:
        Disconnect: the name is empty.
        ThalamusError: 107 if the name is not allowed, 102 if there is no such namespace.
    """
    opened = session.node.hub.channels.get(channel)
    if opened is not None:
        return opened.namespace  # the name was checked before the channel was opened
    required_channel(channel)
    return find_namespace(session.node.namespaces, channel, session.node.settings.channel_max_bytes)


def require_format(session: Session, namespace: Namespace) -> None:
    """Raise error 108 if the client's protocol can't carry data of the namespace."""
    if not can_use(namespace, carries_bytes=session.encoder.carries_bytes):
        raise ThalamusError("binary data", ErrorCode.NOT_AVAILABLE)


def is_allowed(session: Session, namespace: Namespace, channel: str, rule: frozenset[Permission]) -> bool:
    """Return whether a rule of the namespace permits this client.

    Insecure mode permits everything.
    """
    if session.node.settings.insecure:
        return True
    subscription = session.subscriptions.get(channel)
    subscribed = subscription is not None and subscription.live
    granted = subscribed and subscription is not None and subscription.granted
    return allows(rule, namespace, Actor(session.user, subscribed, granted))


def try_admit_new(session: Session, namespace: Namespace, channel: str) -> bool:
    """Accept a channel that may be new, without waiting; False if it must be checked.

    Channels that are open on this edge exist. See `NewChannels.try_admit`.
    """
    node = session.node
    if channel in node.hub.channels or node.settings.insecure:
        return True
    return node.new_channels.try_admit(_who(session), channel, namespace)


async def admit_new(session: Session, namespace: Namespace, channel: str) -> None:
    """Accept a channel that may be new; see `NewChannels.admit`.

    Raises:
        ThalamusError: 111 if the channel does not exist and the user began too many lately.
    """
    node = session.node
    if channel not in node.hub.channels and not node.settings.insecure:
        await node.new_channels.admit(_who(session), channel, namespace)


def _who(session: Session) -> str:
    return f"u{session.user}" if session.user else f"a{session.connection.peer}"


def require(
    session: Session, namespace: Namespace, channel: str, rule: frozenset[Permission], command_token: str
) -> None:
    """Raise `ThalamusError` if the client is not permitted (103) or has expired (109).

    The same holds for the token of the command, where the namespace requires one. The reply does not depend on whether
    the channel exists.
    """
    require_token(session, namespace, command_token)
    if not is_allowed(session, namespace, channel, rule):
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)


def require_token(session: Session, namespace: Namespace | None, command_token: str) -> None:
    """Check the token of the connection, and that of the command if it must have one.

    Raises:
        ThalamusError: 109 if one of them has expired; 103 if that of the command is missing or wrong.
    """
    if session.deadlines.has_expired:
        raise ThalamusError(code=ErrorCode.TOKEN_EXPIRED)
    if (
        namespace is not None
        and namespace.command_token is CommandToken.REQUIRED
        and not session.node.settings.insecure
    ):
        session.node.command_tokens.require(command_token, session.user)
