"""Scopes of API keys: which methods of the server API a key may call, and where.

A scope is an operation, or an operation in a namespace: `publish`, `publish:chat`. `-` is the namespace of channels
without a colon. `admin` is everything. A key without scopes is one of before there were any, and may do everything.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

ADMIN = "admin"
NO_NAMESPACE = "-"  # two characters at least have names of namespaces
MAX_SCOPES = 100  # of a key
_NAMESPACE = re.compile(r"[-a-zA-Z0-9_.]{2,64}|-")


class ApiOperation(enum.StrEnum):
    """A group of methods of the server API; `edge/api/scopes.py` has their names."""

    PUBLISH = "publish"
    HISTORY = "history"
    PRESENCE = "presence"
    SUBSCRIBE = "subscribe"
    MANAGE = "manage"
    GRANTS = "grants"
    CONNECTIONS = "connections"
    CHANNELS = "channels"
    REVOKE = "revoke"
    USERS = "users"


# Operations on channels. Those of others have no namespace.
IN_NAMESPACES = frozenset(
    (
        ApiOperation.PUBLISH,
        ApiOperation.HISTORY,
        ApiOperation.PRESENCE,
        ApiOperation.SUBSCRIBE,
        ApiOperation.MANAGE,
        ApiOperation.GRANTS,
    )
)


class Scopes:
    """What one key may do."""

    __slots__ = ("_namespaces", "is_admin")

    def __init__(self, texts: Iterable[str]) -> None:
        """Read the scopes.

        One that this version does not know permits nothing: a newer auth made it.
        """
        self.is_admin = False
        self._namespaces: dict[str, set[str] | None] = {}  # by operation; None: all
        for text in texts:
            operation, colon, namespace = text.partition(":")
            if text == ADMIN:
                self.is_admin = True
            elif not colon:
                self._namespaces[operation] = None
            elif (known := self._namespaces.setdefault(operation, set())) is not None:
                known.add(namespace)

    def permit(self, operation: str | None, namespaces: Iterable[str] | None = None) -> bool:
        """Return whether they permit an operation.

        Args:
            operation: None: one that only `admin` permits.
            namespaces: Of all channels that it is for; None: it is not only for some namespaces.
        """
        if self.is_admin:
            return True
        if operation is None or operation not in self._namespaces:
            return False
        permitted = self._namespaces[operation]
        return permitted is None or (namespaces is not None and permitted.issuperset(namespaces))


def check_scopes(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes, each once and sorted.

    Raises:
        ValueError: one is not known, or there are too many. The text is for people.
    """
    found = sorted(set(texts))
    if len(found) > MAX_SCOPES:
        raise ValueError(f"more than {MAX_SCOPES} scopes")
    for text in found:
        operation, colon, namespace = text.partition(":")
        if operation != ADMIN and operation not in set(ApiOperation):
            raise ValueError(f"{text!r} is no scope; known: {', '.join((ADMIN, *ApiOperation))}")
        if colon and (operation == ADMIN or operation not in IN_NAMESPACES):
            raise ValueError(f"{text!r}: {operation} is not for single namespaces")
        if colon and not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"{text!r}: no namespace has such a name; {NO_NAMESPACE!r} is for names without a colon")
    return tuple(found)


def namespace_of(channel: str) -> str | None:
    """Return the namespace that a channel, or a pattern, names; `-` if none.

    It is not looked up. None: a pattern that may stand for channels of several namespaces.
    """
    name, colon, _ = channel.partition(":")
    if "*" in name:
        return None
    return name.removeprefix("$") if colon else NO_NAMESPACE
