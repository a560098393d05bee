"""Which operation of an API key's scopes each method of the server API needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.edge.domain.access.api_keys import ApiKey
from services.shared.api_scopes import ADMIN, IN_NAMESPACES, ApiOperation, namespace_of
from services.shared.chat_methods import METHODS, Act
from services.shared.errors import ErrorCode, ThalamusError

_OPERATIONS = {
    "publish": ApiOperation.PUBLISH,
    "broadcast": ApiOperation.PUBLISH,
    "history": ApiOperation.HISTORY,
    "presence": ApiOperation.PRESENCE,
    "presence_stats": ApiOperation.PRESENCE,
    "presence_members": ApiOperation.PRESENCE,
    "presence_counts": ApiOperation.PRESENCE,
    "presence_channels": ApiOperation.PRESENCE,
    "presence_online": ApiOperation.PRESENCE,
    "presence_enter": ApiOperation.MANAGE,
    "presence_update": ApiOperation.MANAGE,
    "presence_leave": ApiOperation.MANAGE,
    "presence_remove": ApiOperation.MANAGE,
    "subscribe": ApiOperation.SUBSCRIBE,
    "unsubscribe": ApiOperation.SUBSCRIBE,
    "history_remove": ApiOperation.MANAGE,
    "disconnect": ApiOperation.CONNECTIONS,
    "refresh": ApiOperation.CONNECTIONS,
    "connections": ApiOperation.CONNECTIONS,
    "channels": ApiOperation.CHANNELS,
    "info": ApiOperation.CHANNELS,
    "revoke": ApiOperation.REVOKE,
}
_ACTS = {
    Act.READ: ApiOperation.HISTORY,
    Act.WRITE: ApiOperation.PUBLISH,
    Act.OWN: ApiOperation.PUBLISH,
    Act.MANAGE: ApiOperation.MANAGE,
}
_OPERATIONS |= {method.call: _ACTS[method.act] for method in METHODS.values()}
_FAMILIES = {"users": ApiOperation.USERS, "invites": ApiOperation.USERS, "grants": ApiOperation.GRANTS}


class ScopeMissing(ThalamusError):
    """The key may not call the method, or not for these channels. HTTP 403."""

    code = ErrorCode.PERMISSION_DENIED

    def __init__(self, method: str) -> None:
        super().__init__(f"the API key has no scope {operation_of(method) or ADMIN} for this")


def operation_of(method: str) -> ApiOperation | None:
    """Return the operation that a scope must have for a method.

    None: only `admin` permits it.
    """
    return _OPERATIONS.get(method) or _FAMILIES.get(method.partition("_")[0])


def permits(key: ApiKey, method: str, request: Any) -> bool:
    """Return whether the scopes of a key permit a request.

    Only the text of the request counts: the answer is the same whether or not a channel or a namespace exists.
    """
    if key.scopes.is_admin:
        return True
    operation = operation_of(method)
    found = [namespace_of(channel) for channel in _channels(request)] if operation in IN_NAMESPACES else []
    namespaces = {name for name in found if name is not None}
    return key.scopes.permit(operation, namespaces if found and None not in found else None)


def _channels(request: Any) -> Iterator[str]:
    if channel := getattr(request, "channel", ""):
        yield channel
    elif namespace := getattr(request, "namespace", ""):
        yield f"{namespace}:"
    yield from getattr(request, "channels", ())
