"""Interface between the edge's domain and its client of the presence service.

**Rosters.** A channel has a roster: the clients that are in it. A user has one, too: the user's connections on all
edges. The edge says what should be on them; the adapter brings it to the presence service, however long that takes.

**Who is told.** `announce` has joins, leaves and updates published to the channel; with `by_user` the join of a user's
first client and the leave of the last one only. `events` says which lifecycle events are written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from services.edge.domain.model import ClientInfo, PresenceStats
from services.shared.namespaces import ChannelEvent


class MembersPage(NamedTuple):
    """Members of a channel, in the order of their client ids.

    `cursor` is for the next page; "": this is the last one.
    """

    members: Sequence[ClientInfo]
    cursor: str


class ChannelsPage(NamedTuple):
    """Channels that a user is in, in the order of their names.

    `cursor` is for the next page; "": this is the last one. A page before the last one may be empty.
    """

    channels: Sequence[str]
    cursor: str


class UserOnline(NamedTuple):
    """What presence knows of the connections of a user.

    Times are Unix milliseconds; 0: none.
    `connections` is 0 for a user who is not online. `since_ms`: when the user came online. `last_seen_ms`: when the
    last connection ended, in the last 30 days; 0 while the user is online. `away`: all connections say so.
    """

    connections: int
    away: bool
    since_ms: int
    last_seen_ms: int


class Presence(Protocol):
    """The rosters: which clients are in which channel, and which users are online.

    Changes are remembered on the edge until the presence service has them. So only reads can fail: they raise
    `Unavailable` within 1 s. `page`, `channels_of` and `online_of` do so while presence is of an earlier version.
    """

    def enter(
        self,
        channel: str,
        info: ClientInfo,
        *,
        owner: object,
        announce: bool,
        grace_s: float,
        by_user: bool = False,
        events: Collection[ChannelEvent] = (),
        updated: bool = False,
    ) -> None:
        """Put the client on the roster of the channel, or replace its entry.

        Args:
            channel: Name of the channel.
            info: The client, as others see it.
            owner: Whom the entry belongs to from now on. Leaves of other owners do not remove it.
            announce: Joins, leaves and updates are published.
            grace_s: Seconds that the entry stays after a broken connection.
            by_user: The join is published for the user's first client, the leave for the last one.
            events: Lifecycle events that are written.
            updated: Others are told of the new info, if the client was on the roster with another one.
        """

    def leave(self, channel: str, client: str, *, owner: object, stays_s: float) -> None:
        """Take the client off the roster, if its entry belongs to `owner`.

        The entry stays for `stays_s`, or for its grace if that is less; 0: it goes at once.
        """

    async def written(self, channel: str, client: str) -> bool:
        """Wait until presence has the latest change of this entry, 1 s at most.

        Return False if it has not yet: it gets the change as soon as it answers again.
        """

    def online(
        self, user: str, client: str, *, since_ms: int, away: bool = False, grace_s: float = 0.0, events: bool = False
    ) -> None:
        """Note a connection of a user, or replace what was noted of it.

        Nothing is noted of the anonymous ("").

        Args:
            user: The user.
            client: The connection's client id.
            since_ms: When the connection began, Unix milliseconds.
            away: The client says that its user is away.
            grace_s: Seconds that the user stays online after a broken connection.
            events: Lifecycle events are written: connect, update, disconnect.
        """

    def offline(self, user: str, client: str, *, stays_s: float) -> None:
        """Note that a connection ended.

        The user stays online for `stays_s`, or for the grace if that is less; 0: not at all.
        """

    async def members(self, channel: str) -> Sequence[ClientInfo]:
        """Return the clients in the channel."""

    async def page(self, channel: str, *, limit: int, cursor: str) -> MembersPage:
        """Return up to `limit` (1 to 1,000) clients, from `cursor` on.

        The cursor "" begins with the first one.

        Raises:
            ThalamusError: 107, the cursor is none of this channel's pages.
        """

    async def stats(self, channel: str) -> PresenceStats:
        """Return the numbers of clients and users."""

    async def stats_of(self, channels: Sequence[str]) -> list[PresenceStats]:
        """Return the same of up to 1,000 channels, in their order."""

    async def channels_of(self, user: str, *, limit: int, cursor: str) -> ChannelsPage:
        """Return up to `limit` (1 to 1,000) channels that the user is in.

        They begin at `cursor`; "": with the first one.

        Raises:
            ThalamusError: 107, the cursor is not one of these pages'.
        """

    async def online_of(self, users: Sequence[str]) -> list[UserOnline]:
        """Return what is known of up to 1,000 users, in their order.

        None of them is anonymous ("").
        """
