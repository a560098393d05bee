"""Who may do what in a channel, and which channel names there are."""

from __future__ import annotations

import re
from typing import NamedTuple

from services.edge.domain.access.user_names import in_channel_name
from services.shared.checks import is_channel_name
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Namespace, Namespaces, Permission

_ANYONE, _AUTHENTICATED, _SUBSCRIBER, _GRANT = (
    Permission.ANYONE,
    Permission.AUTHENTICATED,
    Permission.SUBSCRIBER,
    Permission.GRANT,
)


class Actor(NamedTuple):
    """Who asks: the user ("" for anonymous) and how it stands to the channel."""

    user: str
    subscribed: bool = False
    granted: bool = False  # by a subscription token, the connection token or the server API


def allows(rule: frozenset[Permission], namespace: Namespace, actor: Actor) -> bool:
    """Whether any entry of the list matches."""
    user, subscribed, granted = actor
    for permission in rule:
        if permission is _ANYONE:
            return True
        if permission is _AUTHENTICATED:
            if user:
                return True
        elif permission is _SUBSCRIBER:
            if subscribed and (user or namespace.anonymous_subscriber):
                return True
        elif permission is _GRANT and granted:
            return True
    return False


def find_namespace(namespaces: Namespaces, channel: str, max_bytes: int) -> Namespace:
    """The namespace of a channel whose name is allowed.

    Raises:
        ThalamusError: 107 for the length, then 102 for the namespace, then 107 for the characters
            (the order of wire protocol, 5.2).
    """
    if len(channel.encode("utf-8", "surrogatepass")) > max_bytes:
        raise ThalamusError("channel name too long", ErrorCode.BAD_REQUEST)
    namespace = namespaces.find(channel)
    if namespace is None:
        raise ThalamusError(code=ErrorCode.UNKNOWN_CHANNEL)
    if not is_channel_name(channel):
        raise ThalamusError("channel name not allowed", ErrorCode.BAD_REQUEST)
    if namespace.channel_regex:
        rest = channel.removeprefix("$").removeprefix(f"{namespace.name}:") if namespace.name else channel
        if not re.fullmatch(namespace.channel_regex, rest):
            raise ThalamusError("channel name not allowed", ErrorCode.BAD_REQUEST)
    return namespace


def is_private(channel: str) -> bool:
    """`$…`: needs a subscription token, always."""
    return channel.startswith("$")


def listed_users(channel: str) -> frozenset[str] | None:
    """Those after the last `#` of a user-limited channel, as `in_channel_name` writes them; None: not user-limited."""
    _, mark, users = channel.rpartition("#")
    return frozenset(users.split(",")) if mark else None


def may_subscribe(namespace: Namespace, channel: str, user: str) -> bool:
    """Without a token: what the namespace says, within what the name says (`$` and `#`, wire protocol, 10)."""
    if is_private(channel):
        return False
    users = listed_users(channel)
    if users is not None and (not user or in_channel_name(user, namespaced=":" in channel) not in users):
        return False
    return allows(namespace.subscribe, namespace, Actor(user))
