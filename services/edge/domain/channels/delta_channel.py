"""A channel that sends subscribers with delta patches of the last publication.

**Purpose.** Of a publication that resembles the one before, a subscriber needs only what changed. A patch is made once
per publication, and all subscribers get the same bytes. Channels without delta do none of this: they are `Channel`.

**The invariant.** Every subscription in a patch group (those in `_live` under a `DeltaEncoders.patch`) was sent
`_previous` as the last publication of this subscription. So a client never gets a patch of something that it does not
have. It holds for any publication, with an offset or without one, in a log or in none: what counts is what this edge
sent, not what the log has.

**Rules.**

1. A subscription joins with its encoder `full`. So what is held for it is full, and so is what comes past the log while
   it catches up.
2. A full group moves to the patch group behind the fan-out of a publication: all of them have it now.
3. Behind a publication that a client is excluded from, or that an encoder failed to encode, those who do not have it
   are in the full group.
4. What follows a gap is no exception. A repair hands out the missed publications in order, and if that is impossible,
   the channel is closed here. The next view of it begins with no previous publication, and all who join it with rule 1.
5. Recovered publications are sent past the channel (`Session.push_recovered`, and the subscribe reply). In each list
   the first is full, and each later one may be a patch of the one before.
6. SDKs take an ephemeral event as their base, too, but a client that reads slowly may not get it. So it is full, and
   all patch groups move to the full group with it.

**Example.** Ann is subscribed with delta; bob joins. Publication 7 comes: it is held for bob, full. Bob's reply is
queued, then 7, and he is live. 8 comes: ann gets a patch of 7, bob gets 8 in full. 9 comes: both get the same patch.

**Memory.** The base is kept only while somebody is in a patch group. A patch keeps its base alive, so it stays with a
publication only if the base is the one before it in the log, which the ring has too. So a ring holds at most twice the
bytes that it counts, and one publication more.

**Trade-off.** Two or three publications more than necessary are full for a new subscriber. In return no state of a
client has to be compared with that of the channel.

Decision: docs/decisions/0036-deltas.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.connections import DeltaEncoders, Encoder
from services.edge.domain.model import Publication
from services.edge.domain.replies import PublicationPush, Push
from services.shared.namespaces import Namespace


class DeltaChannel(Channel):
    """A channel of a namespace that allows deltas."""

    def __init__(self, name: str, namespace: Namespace, log: ChannelLog | None, *, join_buffer_size: int) -> None:
        super().__init__(name, namespace, log, join_buffer_size=join_buffer_size)
        self._encoders: dict[DeltaEncoders, None] = {}  # those of subscriptions that joined: one for each encoding
        self._missed: set[Encoder] = set()  # encoders that failed to encode the present publication
        self._offset = 0  # of the last publication; 0: it is in no log

    def join(self, subscription: Subscription) -> None:
        """Add a subscription.

        With delta, it gets everything in full until it is live and has a publication.
        """
        if subscription.delta is not None:
            subscription.encoder = subscription.delta.full
            self._encoders[subscription.delta] = None
        super().join(subscription)

    def fan_out(self, publications: Iterable[Publication]) -> None:
        """Send publications to all subscribers, as patches to those who have the last one."""
        for publication in publications:
            super().fan_out((publication,))
            self._regroup(publication.exclude_client)
            has_base = any(encoders.patch in self._live for encoders in self._encoders)
            self._previous = publication.data if has_base else None
            if publication.offset != self._offset + 1:
                publication.patch = None
            self._offset = publication.offset

    def fan_out_ephemeral(self, publication: Publication) -> None:
        """Send an ephemeral event in full; nobody's base is known behind it (rule 6)."""
        for encoders in self._encoders:
            if (group := self._live.pop(encoders.patch, None)) is not None:
                self._live.setdefault(encoders.full, {}).update(group)
                for subscription in group:
                    subscription.encoder = encoders.full
        self._previous = None
        super().fan_out_ephemeral(publication)

    def _failed(self, encoder: Encoder, push: Push, error: Exception) -> None:
        if isinstance(push, PublicationPush):
            self._missed.add(encoder)
        super()._failed(encoder, push, error)

    def _regroup(self, excluded: str) -> None:
        """Set the patch groups to the subscriptions that got the present publication."""
        for encoders in self._encoders:
            if self._missed or excluded:
                self._back_to_full(encoders, excluded)
            elif (group := self._live.pop(encoders.full, None)) is not None:
                self._live.setdefault(encoders.patch, {}).update(group)
                for subscription in group:
                    subscription.encoder = encoders.patch
        self._missed.clear()

    def _back_to_full(self, encoders: DeltaEncoders, excluded: str) -> None:
        """Sort the subscriptions of one encoding into those who get patches and others.

        Called after a publication that not all of them were sent.
        """
        old = {encoder: self._live.pop(encoder, {}) for encoder in encoders}
        for encoder, group in old.items():
            for subscription, send in group.items():
                has_it = encoder not in self._missed and subscription.info.client != excluded
                subscription.encoder = encoders.patch if has_it else encoders.full
                self._live.setdefault(subscription.encoder, {})[subscription] = send
