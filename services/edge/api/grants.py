"""Methods of the server API for grants of users.

The first line of each docstring is the method's summary in OpenAPI.
"""

from __future__ import annotations

from typing import Any

from services.edge.api import requests as r
from services.edge.api.context import ApiContext
from services.edge.domain.access.grants import NEVER
from services.shared.checks import MAX_GRANT_USER_BYTES
from services.shared.errors import ErrorCode, ThalamusError


async def grants_give(context: ApiContext, request: r.GrantsGive) -> dict[str, Any]:
    """Give grants of operations in channels to a user."""
    until = request.expire_at or NEVER
    await context.granter.give(_user(request.user), request.channels, request.operations, until)
    return {}


async def grants_take(context: ApiContext, request: r.GrantsTake) -> dict[str, Any]:
    """Take grants from a user; end the subscriptions that need them, on every node."""
    await context.granter.take(_user(request.user), request.channels, request.operations)
    return {}


async def grants_list(context: ApiContext, request: r.GrantsList) -> dict[str, Any]:
    """Return the grants of a user that were given by `grants_give`."""
    return {
        "grants": [
            {
                "channel": grant.channel,
                "operation": grant.operation.value,
                **({} if grant.until == NEVER else {"expire_at": grant.until}),
            }
            for grant in await context.granter.of(_user(request.user))
        ]
    }


def _user(user: str) -> str:
    if not 1 <= len(user.encode("utf-8", "surrogatepass")) <= MAX_GRANT_USER_BYTES:
        raise ThalamusError(f"user: 1 to {MAX_GRANT_USER_BYTES} bytes", ErrorCode.BAD_REQUEST)
    return user
