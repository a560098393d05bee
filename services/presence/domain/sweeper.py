"""Removes members of edges that are gone, and members whose grace has ended.

Any number of replicas may sweep at the same time.
"""

from __future__ import annotations

from services.presence.domain.ports import Roster

_LIMIT = 500  # members per round trip
_ROUNDS = 200  # most round trips per lease, and for graces, in one sweep


async def sweep(roster: Roster) -> int:
    """Sweep once; return how many members were looked at."""
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
