"""What others see of one client: its entries on rosters, and that it is online.

**Purpose.** To be seen in a channel is apart from looking on. A client enters when it subscribes, where the namespace
has `presence_auto`, or by `presence.enter`, or a backend enters it.

**Rules.**

1. A client has one entry in a channel, whoever made it. Whoever enters again replaces the data; others are told of that
   as an update.
2. An entry that a subscription made ends with it. One that the client or a backend made stays for the time of the
   connection. That of the client ends earlier, once the rule `presence_enter` permits it no more.
3. `chan_info` of the entry is what the subscription's token gave, and the presence data (`data.py`).
4. An entry is the owner of what the presence service has of it. So the late end of an older one takes no newer one off.

**Example.** Ann subscribes, and has an entry without data. She calls `presence.enter` with data: her entry is her own
now. She unsubscribes: where only subscribers may enter, the entry goes; where everyone may, she stays visible.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from services.edge.domain.channels.channel import Subscription
from services.edge.domain.model import ClientInfo
from services.edge.domain.presence.data import chan_info, checked, merged
from services.edge.domain.presence_ports import Presence
from services.shared.errors import ThalamusError
from services.shared.namespaces import Mode, Namespace, PresenceBy

_ONLINE_GRACE_S = 10.0  # seconds that a user stays online after a broken connection: SDKs are back in that time


class MadeBy(enum.Enum):
    """Who made an entry."""

    SUBSCRIPTION = enum.auto()
    CLIENT = enum.auto()
    BACKEND = enum.auto()


@dataclass(slots=True, eq=False)
class Entry:
    """One entry: what others see of the client in a channel.

    `subscription` is the client's subscription to the channel, None without one. `given` is the `chan_info` that it has
    from a token or a backend, `data` the presence data; both are JSON texts or empty.
    """

    channel: str
    namespace: Namespace
    made_by: MadeBy
    subscription: Subscription | None = None
    given: bytes = b""
    data: bytes = b""
    announce: bool = False


class ClientPresence:
    """What others see of one client.

    Changes take effect at once here, and in presence as soon as it answers.
    """

    __slots__ = ("_by_channel", "_online", "_presence", "_who", "is_over")

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._who = ClientInfo("", "")
        self._by_channel: dict[str, Entry] = {}
        self._online: tuple[int, bool] | None = None  # Unix ms of the connection, and whether its events are told
        self.is_over = False  # the connection ends: nobody calls `enter` any more

    def __len__(self) -> int:
        return len(self._by_channel)

    def set_who(self, who: ClientInfo) -> None:
        """Set how others see the client, without `chan_info`; tell them."""
        self._who = who
        for entry in self._by_channel.values():
            self._write(entry, is_new=False)

    def come_online(self, *, since_s: float, events: bool = False) -> None:
        """Note that the user has this connection.

        `since_s`: when it was opened, Unix seconds. `events`: the feed tells of it.
        """
        if self._who.user:
            self._online = (int(1000 * since_s), events)
            self.set_away(False)

    def set_away(self, away: bool) -> bool:
        """Note whether the user is away, as the connection says; False: it is not kept."""
        if self._online is None:
            return False
        since_ms, events = self._online
        self._presence.online(
            self._who.user, self._who.client, since_ms=since_ms, away=away, grace_s=_ONLINE_GRACE_S, events=events
        )
        return True

    def get(self, channel: str) -> Entry | None:
        """Return the entry in a channel; None: the client is not seen there."""
        return self._by_channel.get(channel)

    def all(self) -> list[Entry]:
        """Return all entries."""
        return list(self._by_channel.values())

    def subscribed(self, namespace: Namespace, subscription: Subscription, *, enters: bool) -> None:
        """Note a subscription.

        With `enters` it makes an entry, if there is none.
        """
        entry = self._by_channel.get(subscription.channel)
        if entry is None:
            if enters and not self.is_over:
                self._write(_entry(namespace, subscription.channel, MadeBy.SUBSCRIPTION, subscription), is_new=True)
            return
        given = subscription.info.chan_info
        try:
            chan_info(given, entry.data)
        except ThalamusError:  # it has no place for the data
            entry.data = b""
        entry.subscription, entry.given, entry.announce = subscription, given, subscription.announces
        self._write(entry, is_new=False)

    def enter(
        self, channel: str, namespace: Namespace, made_by: MadeBy, data: bytes, subscription: Subscription | None
    ) -> None:
        """Make an entry, or replace the data of the one that is there.

        Args:
            channel: Name of the channel.
            namespace: Its namespace.
            made_by: Who makes it.
            data: Presence data, checked; empty: none.
            subscription: The client's subscription to the channel; None without one.

        Raises:
            ThalamusError: 108, what the subscription was given has no place for data.
        """
        entry = self._by_channel.get(channel)
        is_new = entry is None
        if entry is None:
            entry = _entry(namespace, channel, made_by, subscription)
        chan_info(entry.given, data)
        entry.data, entry.made_by = data, made_by
        self._write(entry, is_new=is_new)

    def update(self, channel: str, data: bytes, *, replace: bool) -> None:
        """Change the data of an entry; no effect without one.

        `data` is checked. With `replace` it takes the place of the data of before; if not, it is merged.

        Raises:
            ThalamusError: 108, what the subscription was given has no place for data; 106, the data becomes too long.
        """
        entry = self._by_channel.get(channel)
        if entry is None:
            return
        after = data if replace else checked(merged(entry.data, data))
        chan_info(entry.given, after)
        entry.data = after
        self._write(entry, is_new=False)

    def leave(self, channel: str, stays_s: float = 0.0) -> ClientInfo | None:
        """Take the entry off; return what others saw, None if there was none.

        It stays for `stays_s`, or for the namespace's grace if that is less.
        """
        entry = self._by_channel.pop(channel, None)
        if entry is None:
            return None
        self._presence.leave(channel, self._who.client, owner=entry, stays_s=stays_s)
        return self._seen(entry)

    def end(self, stays_s: float) -> None:
        """Take all entries off, because the connection is over or ends.

        They stay for `stays_s`, or for the grace of each if that is less. No entry is made afterwards.
        """
        self.is_over = True
        for channel in list(self._by_channel):
            self.leave(channel, stays_s)
        if self._online is not None:
            self._online = None
            self._presence.offline(self._who.user, self._who.client, stays_s=stays_s)

    def subscription_over(self, channel: str, subscription: Subscription, may_stay: Callable[[], bool]) -> None:
        """Note that a subscription is over; its entry goes.

        `may_stay`: returns whether the client may enter without it; then an entry of its own stays.
        """
        entry = self._by_channel.get(channel)
        if entry is None or entry.subscription is not subscription:
            return
        if entry.made_by is MadeBy.BACKEND or (entry.made_by is MadeBy.CLIENT and may_stay()):
            entry.subscription = None
            if entry.given:
                entry.given = b""
                self._write(entry, is_new=False)
        else:
            self.leave(channel)

    def _seen(self, entry: Entry) -> ClientInfo:
        """Return the client as others see it in the channel of an entry."""
        who = self._who
        return ClientInfo(who.user, who.client, who.conn_info, chan_info(entry.given, entry.data))

    def _write(self, entry: Entry, *, is_new: bool) -> None:
        self._by_channel[entry.channel] = entry
        namespace = entry.namespace
        self._presence.enter(
            entry.channel,
            self._seen(entry),
            owner=entry,
            announce=entry.announce,
            grace_s=namespace.presence_grace_s,
            by_user=namespace.presence_by is PresenceBy.USER,
            events=namespace.events,
            updated=not is_new or bool(entry.data),  # an update if its leave was not sent yet
        )


def _entry(namespace: Namespace, channel: str, made_by: MadeBy, subscription: Subscription | None) -> Entry:
    """Return a new entry without data."""
    if subscription is None:
        return Entry(channel, namespace, made_by, announce=namespace.join_leave is not Mode.OFF)
    return Entry(
        channel, namespace, made_by, subscription, subscription.info.chan_info, announce=subscription.announces
    )
