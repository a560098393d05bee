"""Ends what a client may no longer do, after its grants have changed.

Operations are checked each time that they are asked for. What goes on without being asked for is looked at here:
subscriptions that a grant permits, the joins and leaves that are pushed to them, and presence that the client has
entered by itself. Subscriptions that are still being made count as made. Recovery and positions are up to when a
subscription is made: they go on until it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain.access.authorize import GrantsUnknown, is_permitted, is_permitted_as
from services.edge.domain.access.grants import Operation
from services.edge.domain.access.stored_grants import TRIES
from services.edge.domain.presence.client_presence import MadeBy
from services.shared.errors import ThalamusError, Unavailable, UnsubscribeCode

if TYPE_CHECKING:
    from services.edge.domain.channels.channel import Subscription
    from services.edge.domain.session.node import Node
    from services.edge.domain.session.session import Session


async def grants_changed(node: Node, user: str) -> None:
    """Read the stored grants of a user again, and end what they no longer permit.

    If they can't be read, subscriptions that depend on them end with 2500: clients subscribe again, until auth answers.
    """
    node.grants.forget(user)
    await look_again(node, user)


async def look_again(node: Node, user: str) -> None:
    """End what the grants of a user no longer permit, as `grants_changed` does."""
    for session in list(node.users.get(user, {}).values()):
        await look_again_at(session)


async def look_again_at(session: Session) -> None:
    """End what the grants of one client no longer permit, as `grants_changed` does."""
    for _ in range(TRIES):
        try:
            end_unpermitted(session)
            return
        except GrantsUnknown:
            try:
                await session.node.grants.load(session.user)
            except Unavailable:
                break
    end_unpermitted(session, unknown_is_over=True)


def end_unpermitted(session: Session, *, unknown_is_over: bool = False) -> None:
    """End the subscriptions, and the presence, that the client may no longer have.

    Those that a token or a backend made stay: they end with it. One whose subscribe command is still running fails; the
    client repeats it and is refused.

    `unknown_is_over`: end those too that depend on grants which can't be read.

    Raises:
        GrantsUnknown: something depends on stored grants that must be read first; what does not was ended.
    """
    for subscription in list(session.subscriptions.values()):
        try:
            if subscription.granted or _may_subscribe(session, subscription):
                if subscription.asks_joins:
                    subscription.wants_joins = _may_see_joins(session, subscription)
                continue
            code = UnsubscribeCode.PERMISSION_DENIED
        except GrantsUnknown:
            if not unknown_is_over:
                raise
            code = UnsubscribeCode.INSUFFICIENT_STATE
        if subscription.live:
            session.end_subscription(subscription, code)
        else:
            subscription.broken = True
    _end_presence(session, unknown_is_over=unknown_is_over)


def may_enter_without(session: Session, channel: str) -> bool:
    """Return whether the client may enter a channel that it is not subscribed to.

    Grants that must be read first count as none.
    """
    namespace = session.node.namespaces.find(channel)
    try:
        return namespace is not None and is_permitted_as(session, namespace, channel, Operation.ENTER, False, False)
    except (ThalamusError, GrantsUnknown):
        return False


def _end_presence(session: Session, *, unknown_is_over: bool) -> None:
    """Take the client off rosters that it entered and may no longer be on."""
    for entry in session.presence.all():
        if entry.made_by is not MadeBy.CLIENT:
            continue
        try:
            may = is_permitted(session, entry.namespace, entry.channel, Operation.ENTER)
        except ThalamusError:  # the token has expired, as below
            continue
        except GrantsUnknown:
            if not unknown_is_over:
                raise
            may = False
        if not may:
            session.taken_off(entry.channel)


def _may_subscribe(session: Session, subscription: Subscription) -> bool:
    channel = subscription.channel
    namespace = session.node.namespaces.find(channel)
    if namespace is not None and namespace.conversations:  # no grant permits it; the events of the conversation end it
        return True
    try:
        return namespace is not None and is_permitted(session, namespace, channel, Operation.SUBSCRIBE)
    except ThalamusError:  # the token has expired: the connection ends soon, or a refresh brings other grants
        return True


def _may_see_joins(session: Session, subscription: Subscription) -> bool:
    channel = subscription.channel
    namespace = session.node.namespaces.find(channel)
    try:
        return namespace is not None and is_permitted_as(
            session, namespace, channel, Operation.PRESENCE, True, subscription.granted
        )
    except ThalamusError:  # the token has expired: the connection ends soon, or a refresh brings other grants
        return True
