"""Which clients a control command is for."""

from __future__ import annotations

import msgspec

from services.edge.domain.session.node import Node
from services.edge.domain.session.session import Session


class Target(msgspec.Struct, kw_only=True):
    """Selects clients: all clients of a user, or the one with the id `client`."""

    user: str
    client: str = ""


def sessions_of(node: Node, target: Target, before: float) -> list[Session]:
    """Return the selected sessions of this edge.

    `before`: those that were opened before this time, monotonic seconds.
    """
    of_user = node.users.get(target.user, {})
    if target.client:
        one = of_user.get(target.client)
        found = [one] if one else []
    else:
        found = list(of_user.values())
    return [session for session in found if session.opened_at < before]
