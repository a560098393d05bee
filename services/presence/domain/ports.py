"""Interface of the store of rosters that presence needs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

_OF_USERS = "/u"  # begins the name of the roster of a user's connections


def connections_of(user: str) -> str:
    """Return the name of the roster of a user's connections."""
    return _OF_USERS + hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


def channel_of(roster: str) -> str:
    """Return the channel of a roster; "" if it is one of a user's connections."""
    return "" if roster.startswith(_OF_USERS) else roster


ALL_EVENTS = 1 + 2 + 4 + 8 + 16  # join, leave, update, occupied, vacated; see Enter in presence.proto


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
    """Add a member to a roster, or replace its entry.

    `info` is a serialized ClientInfo. `roster` is a channel, or the name of the roster of a user's connections.
    `by_user`: joins and leaves are told by user. `events`: which lifecycle events are written, see ALL_EVENTS.
    `updated`: others are told of a new info. Of a user's connection: `away`, and `since_ms`, when it began, Unix ms; 0:
    now.
    """

    roster: str
    client: str
    user: str
    info: bytes
    announce: bool
    grace_s: float
    known: bool = False  # it was on a roster that Redis lost: no join is published
    by_user: bool = False
    events: int = 0
    updated: bool = False
    away: bool = False
    since_ms: int = 0


class Lost(NamedTuple):
    """A member that was on a roster that Redis lost: what is told when it leaves.

    `told`: its leave is published. `by_user`: only if no other client of the user is there.
    """

    info: bytes
    user: str
    told: bool
    events: int
    by_user: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """Remove a member: at once if `clean`, else after its grace.

    `at_most_s`: the grace ends after so many seconds at the latest; 0: no such bound.
    """

    roster: str
    client: str
    clean: bool
    lost: Lost | None = None
    at_most_s: float = 0.0


Change = Enter | Leave


class Due(NamedTuple):
    """What the sweeper must end now.

    `leases` are generations whose members must be removed, `members` are members whose grace has ended.
    """

    leases: list[Lease]
    members: list[bytes]  # for `end_graces`


class MembersPage(NamedTuple):
    """Members as serialized ClientInfos, in the order of their client ids.

    `after` is the client after which the next page begins; "": there is none.
    """

    members: list[bytes]
    after: str


class ChannelsPage(NamedTuple):
    """Channels in the order of their names.

    `after` is the channel after which the next page begins; "": there is none.
    """

    channels: list[str]
    after: str


class UserOnline(NamedTuple):
    """What is known of a user's connections; times are Unix ms, 0: none."""

    connections: int
    away: bool
    since_ms: int
    last_seen_ms: int


class Roster(Protocol):
    """The rosters of all channels, and of the connections of all users, in Redis.

    Every method raises `Unavailable` within 2.5 s if Redis does not answer.
    """

    async def renew(self, lease: Lease, ttl_s: float, *, held: bool, roster: str = "") -> Renewal:
        """Renew the lease, or take it if the edge does not hold it yet (`held`).

        Not granted if it has run out, if Redis has lost it, or if Redis was restarted since: it may have lost members.
        `roster` is the name that the edge knows; "" for none.
        """

    async def change(self, lease: Lease, changes: Sequence[Change]) -> bool:
        """Apply the changes in order. A repeated change has no effect.

        Returns False if the lease was lost meanwhile: then nobody of those who enter is on a roster.
        """

    def members(self, channel: str) -> AsyncIterator[list[bytes]]:
        """Iterate over the members of a channel as serialized ClientInfos, in pages."""

    async def stats(self, channels: Sequence[str]) -> list[tuple[int, int]]:
        """Return (clients, users) for each channel."""

    async def page(self, channel: str, after: str, limit: int) -> MembersPage:
        """Return up to `limit` members after the client `after`; "": from the first."""

    async def channels(self, user: str, after: str, limit: int) -> ChannelsPage:
        """Return up to `limit` channels of a user after `after`; "": from the first."""

    async def online(self, users: Sequence[str]) -> list[UserOnline]:
        """Return what is known of each user, in their order."""

    async def due(self, limit: int) -> Due:
        """Return what must be ended now, with up to `limit` members."""

    async def reap(self, lease: Lease, limit: int) -> int:
        """Remove up to `limit` members that still belong to this lease, one leave each.

        Returns how many were looked at; 0: nothing of the lease is left.
        """

    async def end_graces(self, members: Sequence[bytes]) -> None:
        """Remove those of the members whose grace has ended, one leave each."""
