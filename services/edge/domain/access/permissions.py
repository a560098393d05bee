"""Permissions of users in channels, and the rules for channel names."""

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
    """A user, and its relation to one channel. The user is "" for an anonymous client."""

    user: str
    subscribed: bool = False
    granted: bool = False  # by a subscription token, the connection token or the server API


def allows(rule: frozenset[Permission], namespace: Namespace, actor: Actor) -> bool:
    """Return whether at least one permission of the rule applies to the actor."""
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
    """Return the namespace of a channel; check the channel's name.

    Raises:
        ThalamusError: 107 if the name is too long, 102 if there is no such namespace, 107 if the name has characters
            that are not allowed. They are checked in this order (wire protocol, 5.2).
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
    """Return whether the channel needs a subscription token: its name begins with `$`."""
    return channel.startswith("$")


def listed_users(channel: str) -> frozenset[str] | None:
    """Return the users that a user-limited channel lists behind its last `#`.

    They are encoded as by `in_channel_name`. None if the channel is not user-limited.
    """
    _, mark, users = channel.rpartition("#")
    return frozenset(users.split(",")) if mark else None


def may_subscribe(namespace: Namespace, channel: str, user: str) -> bool:
    """Return whether the user may subscribe without a token (wire protocol, 10).

    The channel's name must allow it (`$` and `#`), and the rule of the namespace too.
    """
    if is_private(channel):
        return False
    users = listed_users(channel)
    if users is not None and (not user or in_channel_name(user, namespaced=":" in channel) not in users):
        return False
    return allows(namespace.subscribe, namespace, Actor(user))
