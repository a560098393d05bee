"""Names of channels: which are allowed, of which namespace, and for whom."""

from __future__ import annotations

import re

from services.edge.domain.access.user_names import in_channel_name
from services.shared.checks import is_channel_name
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Namespace, Namespaces


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


def name_permits(channel: str, user: str) -> bool:
    """Return whether the name lets the user subscribe without a token.

    Wire protocol, 10.
    """
    if is_private(channel):
        return False
    users = listed_users(channel)
    return users is None or (bool(user) and in_channel_name(user, namespaced=":" in channel) in users)
