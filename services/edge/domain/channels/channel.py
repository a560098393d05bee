"""One open channel of this edge: its subscribers, and the fan-out to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.edge.domain.channels import ephemeral
from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.channels.encoding import encoded, encoded_joins, note_failure
from services.edge.domain.connections import Connection, DeltaEncoders, Encoder
from services.edge.domain.model import ClientInfo, Publication
from services.edge.domain.replies import JoinPush, LeavePush, PublicationPush, Push
from services.shared.namespaces import Namespace


class Subscriber(Protocol):
    """The part of a session that its channels use."""

    connection: Connection
    encoder: Encoder

    def insufficient_state(self, subscription: Subscription) -> None:
        """Handle a gap that can't be repaired; the channel has removed the subscription."""

    def no_longer_member(self, subscription: Subscription) -> None:
        """End a live subscription of a client that may not read the conversation any more."""

    def presence_over(self, subscription: Subscription) -> None:
        """Note in presence that a subscription is over."""


@dataclass(slots=True, eq=False)
class Subscription:
    """Subscription of one client to one channel."""

    session: Subscriber
    channel: str
    info: ClientInfo
    delta: DeltaEncoders | None = None  # the client has asked for deltas, and the namespace allows them
    encoder: Encoder = field(init=False)  # of its pushes at the moment: one of `delta`, or the session's
    server_side: bool = False
    granted: bool = False  # permitted by a token or by the server, not by a rule of the namespace
    recoverable: bool = False
    positioned: bool = False
    wants_joins: bool = False  # joins and leaves of others are pushed to this client
    asks_joins: bool = False  # it asks for them; they depend on the permission to read presence
    announces: bool = False  # joins and leaves of this client are published
    expires_at: float | None = None  # Unix seconds; None: never
    live: bool = False  # the reply has been queued; until then pushes wait in `held`
    held: list[bytes] = field(default_factory=list)  # frames to send behind the reply
    caught_up_to: int = 0  # last offset sent, while the subscription catches up
    broken: bool = False  # the join has failed: `held` was full, the log was started again, or `ends_at` is set
    history_from: int = 0  # publications up to this offset are not for the client
    checked_at: int = 0  # its user was found to be a member at this offset
    ends_at: int = 0  # the client may have nothing above this offset, and the subscription ends there; 0: it goes on

    def __post_init__(self) -> None:
        self.encoder = self.session.encoder if self.delta is None else self.delta.full


class Channel:
    """The subscriptions of one channel on this edge.

    A subscription is in one of three states:

    * joining: its reply is not queued yet; frames are held for it (up to `join_buffer_size`),
    * catching up: it reads the log page by page; publications with an offset are not fanned out to it,
    * live: frames are sent to it directly.

    All methods are synchronous, so a method never sees the changes of another one half done.
    """

    def __init__(self, name: str, namespace: Namespace, log: ChannelLog | None, *, join_buffer_size: int) -> None:
        self.name = name
        self.namespace = namespace
        self.log = log  # None: durability `none`
        self.active_since_check = False  # a publication came since the channel was last compared with its log
        self._join_buffer_size = join_buffer_size  # largest number of held frames per subscription
        self._joining: dict[Subscription, None] = {}  # a dict as an ordered set
        self._catching_up: dict[Subscription, None] = {}  # these read the log themselves
        self._live: dict[Encoder, dict[Subscription, Callable[[bytes], None]]] = {}  # value: `Connection.send`
        self._previous: bytes | None = None  # see `DeltaChannel`
        self.deliveries = 0  # pushes sent to live subscribers
        self.became_live = 0  # how many subscriptions have become live, since the channel was opened

    def __len__(self) -> int:
        return len(self._joining) + len(self._catching_up) + sum(map(len, self._live.values()))

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions: joining, catching up and live."""
        return [*self._joining, *self._catching_up, *(one for group in self._live.values() for one in group)]

    def join(self, subscription: Subscription) -> None:
        """Add a subscription: from now on frames are held for it, until `go_live`."""
        self._joining[subscription] = None

    def stop_holding(self, subscription: Subscription) -> None:
        """Let a joining subscription catch up: it has missed too much for one reply.

        Held frames are dropped. The subscription reads the log itself until it calls `receive_live`.
        """
        self._joining.pop(subscription, None)
        self._catching_up[subscription] = None
        subscription.held.clear()

    def hold_again(self, subscription: Subscription) -> None:
        """Let a subscription that catches up join again: frames are held from now on."""
        del self._catching_up[subscription]
        self.join(subscription)

    def is_catching_up(self, subscription: Subscription) -> bool:
        """Return whether the subscription still reads the log."""
        return subscription in self._catching_up

    def receive_live(self, subscription: Subscription) -> None:
        """Make a subscription that caught up live.

        In the same tick it must have been sent everything that `log.delivered` covers. So nothing is missed or
        repeated.
        """
        del self._catching_up[subscription]
        self.became_live += 1
        self._live.setdefault(subscription.encoder, {})[subscription] = subscription.session.connection.send

    def go_live(self, subscription: Subscription) -> None:
        """Send the held frames; called once the subscribe reply is queued.

        A joining subscription then gets everything directly. One that catches up goes on catching up. No effect if the
        subscription has left the channel.
        """
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
            self.became_live += 1
            self._live.setdefault(subscription.encoder, {})[subscription] = send

    def leave(self, subscription: Subscription) -> None:
        """Remove a subscription: no more frames of this channel are sent to it."""
        self._joining.pop(subscription, None)
        self._catching_up.pop(subscription, None)
        group = self._live.get(subscription.encoder)
        if group is not None and group.pop(subscription, None) is not None and not group:
            del self._live[subscription.encoder]
        subscription.held.clear()

    def fan_out(self, publications: Iterable[Publication]) -> None:
        """Send the publications to all subscribers.

        A publication is encoded once per encoder, and all subscribers get the same bytes. Subscriptions that
        catch up get only publications without an offset; they read the others from the log.
        """
        epoch = self.log.epoch if self.log else ""
        for publication in publications:
            push = PublicationPush(self.name, publication, epoch if publication.offset == 1 else "", self._previous)
            if self._catching_up and not publication.offset:
                self._send_past_the_log(push, lambda s, but=publication.exclude_client: s.info.client != but)  # type: ignore[misc]
            if publication.exclude_client:
                self._send_some(push, lambda s, but=publication.exclude_client: s.info.client != but)  # type: ignore[misc]
                continue
            for encoder, group in self._live.items():
                try:
                    frame = encoder.encode(push)
                except Exception as error:
                    self._failed(encoder, push, error)
                    continue
                if frame is None:
                    continue
                for send in list(group.values()):  # a copy: a full outbox ends its session, which changes `group`
                    send(frame)
                self.deliveries += len(group)
            if self._joining:
                self._hold(push, self._joining)

    def fan_out_ephemeral(self, publication: Publication) -> None:
        """Send an ephemeral event to the live subscribers that have room for it.

        See `ephemeral`.
        """
        live = self._live.items()
        groups = ((encoder, (one.session.connection for one in group)) for encoder, group in live)
        ephemeral.send_to(groups, self.name, publication, self.log.delivered if self.log else 0)

    def announce_joins(self, pushes: Sequence[JoinPush]) -> None:
        """Send joins to the subscribers that want them: all in one frame for live ones."""
        for encoder, group in self._live.items():
            sends = [send for subscription, send in group.items() if subscription.wants_joins]
            if sends and (frame := encoded_joins(encoder, pushes)) is not None:
                for send in sends:
                    send(frame)
                self.deliveries += len(sends) * len(pushes)
        for subscription in list(self._catching_up):
            if subscription.live and subscription.wants_joins:
                _send(subscription, encoded_joins(subscription.encoder, pushes))
        waiting = [one for one in (*self._joining, *self._catching_up) if one.wants_joins and not one.live]
        if waiting:
            for push in pushes:
                self._hold(push, waiting)

    def announce_leave(self, push: LeavePush) -> None:
        """Send a leave to the subscribers that want it, except to the client that left."""

        def wants(subscription: Subscription) -> bool:
            return subscription.wants_joins and subscription.info.client != push.info.client

        self._send_some(push, wants)
        self._send_past_the_log(push, wants)

    def _send_past_the_log(self, push: Push, chosen: Callable[[Subscription], bool]) -> None:
        """Send a push that is in no log to the chosen subscriptions that catch up.

        It need not wait until they have read the log. It is held only until their reply is queued.
        """
        for subscription in list(self._catching_up):
            if not chosen(subscription):
                continue
            if subscription.live:
                _send(subscription, encoded(subscription.encoder, push))
            else:
                self._hold(push, (subscription,))

    def _send_some(self, push: Push, chosen: Callable[[Subscription], bool]) -> None:
        for encoder, group in self._live.items():
            sends = [send for subscription, send in group.items() if chosen(subscription)]
            if sends and (frame := self._encoded(encoder, push)) is not None:
                for send in sends:
                    send(frame)
                self.deliveries += len(sends)
        if self._joining:
            self._hold(push, [subscription for subscription in self._joining if chosen(subscription)])

    def _hold(self, push: Push, subscriptions: Iterable[Subscription]) -> None:
        frames: dict[Encoder, bytes | None] = {}
        for subscription in subscriptions:
            if len(subscription.held) >= self._join_buffer_size:
                subscription.broken = True
                subscription.held.clear()
            elif not subscription.broken:
                encoder = subscription.encoder
                if encoder not in frames:
                    frames[encoder] = self._encoded(encoder, push)
                frame = frames[encoder]
                if frame is not None:
                    subscription.held.append(frame)

    def _encoded(self, encoder: Encoder, push: Push) -> bytes | None:
        """Return the push as a frame; if the encoder fails, None, as `_failed` says."""
        try:
            return encoder.encode(push)
        except Exception as error:
            self._failed(encoder, push, error)
            return None

    def _failed(self, encoder: Encoder, push: Push, error: Exception) -> None:
        """Let only the subscribers of an encoder that failed miss the push.

        Those that follow the log get a gap notification for a publication of the log, as their next one would hide it.
        """
        note_failure(encoder, error)
        if not (isinstance(push, PublicationPush) and push.publication.offset):
            return
        self._live = self._live.copy()  # the caller may go through it
        for subscription in list(self._live.get(encoder, ())):
            if subscription.positioned or subscription.recoverable:
                self.leave(subscription)
                subscription.session.insufficient_state(subscription)
        for subscription in self._joining:
            if subscription.encoder is encoder:
                subscription.broken = True
                subscription.held.clear()


def _send(subscription: Subscription, frame: bytes | None) -> None:
    """Send a frame to one subscriber; None: its protocol has no words for it."""
    if frame is not None:
        subscription.session.connection.send(frame)
