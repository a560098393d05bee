"""Checks that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain.access.permissions import Actor, allows, find_namespace
from services.shared.errors import CloseCode, Disconnect, ErrorCode, ThalamusError
from services.shared.namespaces import Namespace, Permission

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


def required_channel(channel: str) -> None:
    """A command that names no channel is misuse of the protocol."""
    if not channel:
        raise Disconnect(CloseCode.BAD_REQUEST)


def namespace_of(session: Session, channel: str) -> Namespace:
    """The channel's namespace; raises 107 or 102."""
    opened = session.node.hub.channels.get(channel)
    if opened is not None:
        return opened.namespace  # its name was looked at before it was opened
    required_channel(channel)
    return find_namespace(session.node.namespaces, channel, session.node.settings.channel_max_bytes)


def is_allowed(session: Session, namespace: Namespace, channel: str, rule: frozenset[Permission]) -> bool:
    """Whether this client may, by a rule of the namespace; insecure mode lets everyone."""
    if session.node.settings.insecure:
        return True
    subscription = session.subscriptions.get(channel)
    subscribed = subscription is not None and subscription.live
    granted = subscribed and subscription is not None and subscription.granted
    return allows(rule, namespace, Actor(session.user, subscribed, granted))


def may_begin(session: Session, namespace: Namespace, channel: str) -> bool:
    """Whether it may use a channel that may not exist yet, without anybody being asked; channels of this edge exist."""
    node = session.node
    if channel in node.hub.channels or node.settings.insecure:
        return True
    return node.new_channels.may(_who(session), channel, namespace)


async def admit_new(session: Session, namespace: Namespace, channel: str) -> None:
    """Raises 111 where the channel is a new one and the user began too many lately."""
    node = session.node
    if channel not in node.hub.channels and not node.settings.insecure:
        await node.new_channels.admit(_who(session), channel, namespace)


def _who(session: Session) -> str:
    return f"u{session.user}" if session.user else f"a{session.connection.peer}"


def require(session: Session, namespace: Namespace, channel: str, rule: frozenset[Permission]) -> None:
    """Raises 103 where the client may not, whether or not the channel exists."""
    if not is_allowed(session, namespace, channel, rule):
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
