"""What the roster's rules need of Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Lease(NamedTuple):
    """One life of an edge's right to have members."""

    edge: str
    generation: int


class Renewal(NamedTuple):
    """Whether the lease goes on, and the name of the roster that Redis holds; a new name: it lost what was there."""

    granted: bool
    roster: str


@dataclass(frozen=True, slots=True)
class Enter:
    """Add a member; `info` is a serialized ClientInfo."""

    channel: str
    client: str
    user: str
    info: bytes
    announce: bool
    grace_s: float
    known: bool = False  # it was on a roster that Redis lost: no join is published


@dataclass(frozen=True, slots=True)
class Leave:
    """Take a member away; not `clean`: after its grace."""

    channel: str
    client: str
    clean: bool
    lost_info: bytes = b""  # it was on a roster that Redis lost: its serialized ClientInfo, to publish its leave


Change = Enter | Leave


class Member(NamedTuple):
    """A member of a channel."""

    channel: str
    client: str


class Due(NamedTuple):
    """What nobody else ends: leases whose members must be reaped, and members whose grace has ended."""

    leases: list[Lease]
    members: list[bytes]  # for `end_graces`


class Roster(Protocol):
    """Redis. Every method raises `Unavailable` within 2.5 s where it does not answer."""

    async def renew(self, lease: Lease, ttl_s: float, *, held: bool, roster: str = "") -> Renewal:
        """Renew the lease, or take it where it is not `held` yet; not where it has run out, or Redis has lost it.

        `roster`: the name that the edge knows; "" for none.
        """

    async def change(self, lease: Lease, changes: Sequence[Change]) -> None:
        """Apply in order; what repeats has no effect."""

    def members(self, channel: str) -> AsyncIterator[list[bytes]]:
        """Serialized ClientInfos, in pages."""

    async def stats(self, channels: Sequence[str]) -> list[tuple[int, int]]:
        """(clients, users) per channel."""

    async def due(self, limit: int) -> Due:
        """What is to be ended now, by whoever comes first; up to `limit` members."""

    async def reap(self, lease: Lease, limit: int) -> int:
        """Remove up to `limit` members that are still of this lease, one leave each; 0: nothing is left of it."""

    async def end_graces(self, members: Sequence[bytes]) -> None:
        """Remove those of them whose grace has ended, one leave each."""
