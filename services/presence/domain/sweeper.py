"""Ends what nobody ends: members of dead edges, and graces. Any number of replicas may do so at once."""

from __future__ import annotations

from services.presence.domain.ports import Roster

_LIMIT = 500
_ROUNDS = 200


async def sweep(roster: Roster) -> int:
    """One round; returns how many members it looked at."""
    seen = 0
    due = await roster.due(_LIMIT)
    for lease in due.leases:
        for _ in range(_ROUNDS):
            found = await roster.reap(lease, _LIMIT)
            seen += found
            if found < _LIMIT:
                break
    for _ in range(_ROUNDS):
        if not due.members:
            break
        await roster.end_graces(due.members)
        seen += len(due.members)
        due = await roster.due(_LIMIT)
    return seen
