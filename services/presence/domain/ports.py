"""Interface of the roster store that presence needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Lease(NamedTuple):
    """One generation of an edge's right to have members in rosters."""

    edge: str
    generation: int


class Renewal(NamedTuple):
    """Whether the lease is granted, and the name of the roster that Redis holds.

    A name that the edge does not know means that Redis lost the roster before.
    """

    granted: bool
    roster: str


@dataclass(frozen=True, slots=True)
class Enter:
    """Add a member. `info` is a serialized ClientInfo."""

    channel: str
    client: str
    user: str
    info: bytes
    announce: bool
    grace_s: float
    known: bool = False  # it was on a roster that Redis lost: no join is published


@dataclass(frozen=True, slots=True)
class Leave:
    """Remove a member: at once if `clean`, else after its grace.

    `at_most_s`: the grace ends after so many seconds at the latest; 0: no such bound.
    """

    channel: str
    client: str
    clean: bool
    lost_info: bytes = b""  # if it was on a roster that Redis lost: its ClientInfo, for the leave
    at_most_s: float = 0.0


Change = Enter | Leave


class Due(NamedTuple):
    """What the sweeper must end now.

    `leases` are generations whose members must be removed, `members` are members whose grace has ended.
    """

    leases: list[Lease]
    members: list[bytes]  # for `end_graces`


class Roster(Protocol):
    """The rosters of all channels, in Redis.

    Every method raises `Unavailable` within 2.5 s if Redis does not answer.
    """

    async def renew(self, lease: Lease, ttl_s: float, *, held: bool, roster: str = "") -> Renewal:
        """Renew the lease, or take it if the edge does not hold it yet (`held`).

        Not granted if it has run out, if Redis has lost it, or if Redis was restarted since: it may have lost members.
        `roster` is the name that the edge knows; "" for none.
        """

    async def change(self, lease: Lease, changes: Sequence[Change]) -> None:
        """Apply the changes in order. A repeated change has no effect."""

    def members(self, channel: str) -> AsyncIterator[list[bytes]]:
        """Iterate over the members of a channel as serialized ClientInfos, in pages."""

    async def stats(self, channels: Sequence[str]) -> list[tuple[int, int]]:
        """Return (clients, users) for each channel."""

    async def due(self, limit: int) -> Due:
        """Return what must be ended now, with up to `limit` members."""

    async def reap(self, lease: Lease, limit: int) -> int:
        """Remove up to `limit` members that still belong to this lease, one leave each.

        Returns how many were looked at; 0: nothing of the lease is left.
        """

    async def end_graces(self, members: Sequence[bytes]) -> None:
        """Remove those of the members whose grace has ended, one leave each."""
