"""Members of rosters, as an edge keeps them and as it sends them to presence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.edge.adapters import publication_codec as codec
from services.edge.domain.model import ClientInfo
from thalamus.common.v1 import common_pb2
from thalamus.presence.v1 import presence_pb2 as pb


@dataclass(slots=True, eq=False)
class Entry:
    """One member, as this edge wants it or wanted it before its leave."""

    info: ClientInfo
    owner: object
    announce: bool
    grace_s: float
    roster: str  # name of the roster that it was confirmed on last; "": none yet
    by_user: bool = False
    events: int = 0  # see Enter in presence.proto
    updated: bool = False  # others are to be told of the new info
    away: bool = False
    since_ms: int = 0
    stays_s: float = 0.0  # how long it stays after its leave, or for its grace if that is less; 0: not at all


def enter_of(channel: str, entry: Entry, *, lost: bool) -> pb.Change:
    """Return the change that enters a member, or replaces it.

    `channel`: "" for a connection of its user. `lost`: Redis lost the roster that had it.
    """
    enter = pb.Enter(
        announce=entry.announce,
        grace_s=entry.grace_s,
        known=lost,
        updated=entry.updated,
        by_user=entry.by_user,
        events=entry.events,
        away=entry.away,
        since_ms=entry.since_ms,
    )
    return pb.Change(channel=channel, info=codec.encode_info(entry.info), enter=enter, online=not channel)


def leave_of(channel: str, entry: Entry, *, lost: bool) -> pb.Change:
    """Return the change that takes a member off; arguments as for `enter_of`."""
    leave = pb.Leave(
        clean=entry.stays_s == 0,
        known=lost and entry.announce,
        at_most_s=entry.stays_s if math.isfinite(entry.stays_s) else 0,
        events=entry.events if lost else 0,
        by_user=entry.by_user,
    )
    told = leave.known or leave.events > 0
    info = codec.encode_info(entry.info) if told else common_pb2.ClientInfo(client=entry.info.client)
    if not channel:
        info.user = entry.info.user
    return pb.Change(channel=channel, info=info, leave=leave, online=not channel)
