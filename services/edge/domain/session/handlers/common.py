"""Checks that several command handlers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.channels.data_format import can_use
from services.edge.domain.ends import Disconnect, EndReason
from services.shared.addresses import network_of
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Namespace

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


def try_admit_new(session: Session, namespace: Namespace, channel: str) -> bool:
    """Accept a channel that may be new, without waiting; False if it must be checked.

    Channels that are open on this edge exist. See `NewChannels.try_admit`.
    """
    node = session.node
    if channel in node.hub.channels or node.settings.insecure:
        return True
    return node.new_channels.try_admit(who_of(session), channel, namespace)


async def admit_new(session: Session, namespace: Namespace, channel: str) -> None:
    """Accept a channel that may be new; see `NewChannels.admit`.

    Raises:
        ThalamusError: 111 if the channel does not exist and the user began too many lately.
    """
    node = session.node
    if channel not in node.hub.channels and not node.settings.insecure:
        await node.new_channels.admit(who_of(session), channel, namespace)


def who_of(session: Session) -> str:
    """Return whom limits count the client as: its user; if anonymous, its address."""
    return f"u{session.user}" if session.user else f"a{network_of(session.connection.peer)}"
