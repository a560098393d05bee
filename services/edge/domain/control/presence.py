"""Presence of a user's clients, as a backend wants it: enter, update, take off.

Each edge executes it for its own clients, and waits until the presence service has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.control.targets import Target, sessions_of
from services.edge.domain.presence.client_presence import MadeBy
from services.edge.domain.session.node import Node
from services.edge.domain.session.session import Session
from services.shared.errors import ErrorCode, ThalamusError, Unavailable, UnsubscribeCode


class EnterPresence(Target):
    """Puts clients into presence of a channel.

    `data`: their presence data, a JSON text, or empty.
    """

    channel: str
    data: bytes = b""


class UpdatePresence(Target):
    """Changes the presence data of those clients that are in presence of a channel.

    `replace`: the data replaces that of before; if not, it is merged.
    """

    channel: str
    data: bytes
    replace: bool = False


class LeavePresence(Target):
    """Takes clients out of presence of a channel; empty: of all channels.

    `tell`: they are told by a leave of their own. `unsubscribe`: subscriptions to those channels end, too.
    """

    channel: str = ""
    tell: bool = False
    unsubscribe: bool = False


PresenceCommand = EnterPresence | UpdatePresence | LeavePresence


async def execute(node: Node, command: PresenceCommand, before: float) -> dict[str, Any]:
    """Execute a command; `clients` of the result: for how many clients.

    `refused`: how many have no place for presence data, because their subscription has an `info` that is no object.

    Raises:
        Unavailable: presence has not taken all changes within a second; it does as soon as it answers.
    """
    clients = refused = 0
    changed: list[tuple[str, str]] = []
    for session in sessions_of(node, command, before):
        if not session.is_open:
            continue
        try:
            channels = _CHANGES[type(command)](session, command)
        except ThalamusError as error:
            if error.code is not ErrorCode.NOT_AVAILABLE:
                raise
            refused += 1
            continue
        clients += bool(channels)
        changed += [(channel, session.client) for channel in channels]
    if not all(await asyncio.gather(*(node.presence.written(*one) for one in changed))):
        raise Unavailable("presence does not answer; the change is made as soon as it does")
    return {"clients": clients, "refused": refused}


def _enter(session: Session, command: EnterPresence) -> list[str]:
    if session.presence.is_over:
        return []
    namespace = find_namespace(session.node.namespaces, command.channel, session.node.settings.channel_max_bytes)
    session.presence.enter(
        command.channel, namespace, MadeBy.BACKEND, command.data, session.subscriptions.get(command.channel)
    )
    return [command.channel]


def _update(session: Session, command: UpdatePresence) -> list[str]:
    if session.presence.get(command.channel) is None:
        return []
    session.presence.update(command.channel, command.data, replace=command.replace)
    return [command.channel]


def _leave(session: Session, command: LeavePresence) -> list[str]:
    found = [entry.channel for entry in session.presence.all() if command.channel in ("", entry.channel)]
    for channel in found:
        if command.tell:
            session.taken_off(channel)
        else:
            session.presence.leave(channel)
    if command.unsubscribe:
        for channel in found if not command.channel else [command.channel]:
            subscription = session.subscriptions.get(channel)
            if subscription is not None:
                session.end_subscription(subscription, UnsubscribeCode.SERVER)
    return found


_CHANGES: dict[type, Callable[[Session, Any], list[str]]] = {
    EnterPresence: _enter,
    UpdatePresence: _update,
    LeavePresence: _leave,
}
