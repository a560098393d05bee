"""One channel on this edge: its subscribers and the fan-out to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.model import ClientInfo, Publication
from services.edge.domain.ports import Connection, Dialect
from services.edge.domain.replies import JoinPush, LeavePush, PublicationPush, Push
from services.shared.namespaces import Namespace


class Subscriber(Protocol):
    """The session behind a subscription, as far as a channel knows it."""

    connection: Connection
    dialect: Dialect

    def insufficient_state(self, subscription: Subscription) -> None:
        """The subscription can't go on; it is off the channel already."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One client's place in one channel."""

    session: Subscriber
    channel: str
    info: ClientInfo
    server_side: bool = False
    granted: bool = False  # by a token or the server, not by the namespace
    recoverable: bool = False
    positioned: bool = False
    wants_joins: bool = False
    announces: bool = False  # join and leave of this client are published
    presence: bool = False  # was put on the roster
    expires_at: float | None = None  # Unix seconds
    live: bool = False  # the reply has been queued; before, pushes wait in `held`
    held: list[bytes] = field(default_factory=list)
    caught_up_to: int = 0  # while it catches up: the offset that it was sent last
    broken: bool = False  # more was held than may be, or the log began anew: this join has failed


class Channel:
    """Subscribers of one channel on this edge. All of it is synchronous: one tick, one state."""

    def __init__(self, name: str, namespace: Namespace, log: ChannelLog | None, *, join_buffer_size: int) -> None:
        self.name = name
        self.namespace = namespace
        self.log = log  # None: durability `none`
        self.active_since_check = False  # a publication came since the tops were last compared
        self._join_buffer_size = join_buffer_size
        self._joining: dict[Subscription, None] = {}
        self._catching_up: dict[Subscription, None] = {}  # they read the log themselves, and hear nothing of it here
        self._live: dict[Dialect, dict[Subscription, Callable[[bytes], None]]] = {}
        self.deliveries = 0

    def __len__(self) -> int:
        return len(self._joining) + len(self._catching_up) + sum(map(len, self._live.values()))

    @property
    def subscriptions(self) -> list[Subscription]:
        """All of them: live, joining and catching up."""
        return [*self._joining, *self._catching_up, *(one for group in self._live.values() for one in group)]

    def join(self, subscription: Subscription) -> None:
        """From now on nothing is missed: what comes is held until `go_live`."""
        self._joining[subscription] = None

    def stop_holding(self, subscription: Subscription) -> None:
        """It has missed too much to be answered at once: it reads the log up to where `hear_live` is right."""
        self._joining.pop(subscription, None)
        self._catching_up[subscription] = None
        subscription.held.clear()

    def hold_again(self, subscription: Subscription) -> None:
        """It does not catch up after all: as `join`, from now on."""
        del self._catching_up[subscription]
        self.join(subscription)

    def is_catching_up(self, subscription: Subscription) -> bool:
        """Whether it still reads the log."""
        return subscription in self._catching_up

    def hear_live(self, subscription: Subscription) -> None:
        """It has been sent everything up to what the log's view has delivered, in this very tick."""
        del self._catching_up[subscription]
        self._live.setdefault(subscription.session.dialect, {})[subscription] = subscription.session.connection.send

    def go_live(self, subscription: Subscription) -> None:
        """The reply is queued: send what was held, then go on directly."""
        catches_up = subscription in self._catching_up
        if not catches_up and subscription not in self._joining:
            return
        send = subscription.session.connection.send
        for frame in subscription.held:
            send(frame)
        subscription.held.clear()
        subscription.live = True
        if not catches_up:
            del self._joining[subscription]
            self._live.setdefault(subscription.session.dialect, {})[subscription] = send

    def leave(self, subscription: Subscription) -> None:
        """No frame of this channel is sent to it any more."""
        self._joining.pop(subscription, None)
        self._catching_up.pop(subscription, None)
        group = self._live.get(subscription.session.dialect)
        if group is not None and group.pop(subscription, None) is not None and not group:
            del self._live[subscription.session.dialect]
        subscription.held.clear()

    def fan_out(self, publications: Iterable[Publication]) -> None:
        """Send each to every subscriber: encoded once per dialect, no bookkeeping per subscriber."""
        epoch = self.log.epoch if self.log else ""
        for publication in publications:
            push = PublicationPush(self.name, publication, epoch if publication.offset == 1 else "")
            if self._catching_up and not publication.offset:
                self._send_past_the_log(push, lambda s, but=publication.exclude_client: s.info.client != but)  # type: ignore[misc]
            if publication.exclude_client:
                self._send_some(push, lambda s, but=publication.exclude_client: s.info.client != but)  # type: ignore[misc]
                continue
            for dialect, group in self._live.items():
                frame = dialect.encode(push)
                for send in list(group.values()):  # a full outbox may end its session here and now
                    send(frame)
                self.deliveries += len(group)
            if self._joining:
                self._hold(push, self._joining)

    def announce_joins(self, pushes: Sequence[JoinPush]) -> None:
        """Tell those who asked who came: encoded once, one write to each."""
        for dialect, group in self._live.items():
            sends = [send for subscription, send in group.items() if subscription.wants_joins]
            if sends:
                frame = dialect.encode_joins(pushes)
                for send in sends:
                    send(frame)
                self.deliveries += len(sends) * len(pushes)
        for subscription in list(self._catching_up):
            if subscription.live and subscription.wants_joins:
                subscription.session.connection.send(subscription.session.dialect.encode_joins(pushes))
        waiting = [one for one in (*self._joining, *self._catching_up) if one.wants_joins and not one.live]
        if waiting:
            for push in pushes:
                self._hold(push, waiting)

    def announce_leave(self, push: LeavePush) -> None:
        """Tell those who asked who went, but for one's own leave."""

        def wants(subscription: Subscription) -> bool:
            return subscription.wants_joins and subscription.info.client != push.info.client

        self._send_some(push, wants)
        self._send_past_the_log(push, wants)

    def _send_past_the_log(self, push: Push, chosen: Callable[[Subscription], bool]) -> None:
        """What has no place in the log need not wait for it: to who catches up, too, behind the reply."""
        for subscription in list(self._catching_up):
            if not chosen(subscription):
                continue
            if subscription.live:
                subscription.session.connection.send(subscription.session.dialect.encode(push))
            else:
                self._hold(push, (subscription,))

    def _send_some(self, push: Push, chosen: Callable[[Subscription], bool]) -> None:
        for dialect, group in self._live.items():
            sends = [send for subscription, send in group.items() if chosen(subscription)]
            if sends:
                frame = dialect.encode(push)
                for send in sends:
                    send(frame)
                self.deliveries += len(sends)
        if self._joining:
            self._hold(push, [subscription for subscription in self._joining if chosen(subscription)])

    def _hold(self, push: Push, subscriptions: Iterable[Subscription]) -> None:
        frames: dict[Dialect, bytes] = {}
        for subscription in subscriptions:
            if len(subscription.held) >= self._join_buffer_size:
                subscription.broken = True
                subscription.held.clear()
            elif not subscription.broken:
                dialect = subscription.session.dialect
                frame = frames.get(dialect)
                if frame is None:
                    frame = frames[dialect] = dialect.encode(push)
                subscription.held.append(frame)
