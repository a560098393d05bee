"""A channel that is a conversation: its events end subscriptions.

**Purpose.** Who is removed must not get one publication more, on any edge, and nobody else may miss one. The removal is
an event of the same log as the messages. So whoever follows the log in order finds it at its place.

**Rules.**

1. Every publication is fanned out alone. Behind one that may take a right away (`CHANGES_MEMBERSHIP`), and before the
   next, it is read: the subscriptions of those who are no longer members end, with unsubscribe 2100.
2. The event itself is the last publication that they get. There is no timer, and nothing to ask: persistence has
   numbered the event only because it was allowed, against the membership of that moment.
3. A subscription that is being made (`live` is false) fails: its command is refused.
4. One that catches up ends once it has read up to the event (`Subscription.ends_at`). A client may read slowly: it is
   off the roster at once, hears of no more joins and leaves, and the subscription permits nothing any more.
5. `remove` and `ban` end those of the user whom they name, `leave` those of its author, and the end of the conversation
   ends all. In an open conversation, which everybody may follow, who leaves gives up a role and goes on reading.
6. An event that was known when the membership was checked, at `Subscription.checked_at`, ends nothing: the user was
   added again since.
7. Other such events take no right to read: nobody is ended. An event that this edge does not know ends all as after a
   gap: clients come back, and are asked about anew.
8. An open conversation may have very many subscriptions, and to end one takes much longer than to send it an event. If
   all end, they are all taken out of the fan-out at once, and permit nothing from then on (`ends_at`); then they end
   `PER_TURN` at a time, and everything else on this edge has its turn between.

**Example.** The log has a message at 6, the removal of bob at 7 and a message at 8. An edge that lost all three reads
them from the log at once. Bob gets 6, 7 and then 2100; the others get 6, 7 and 8.

**Trade-offs.** One publication at a time is fanned out, also where a repair brings many. Looking for the subscriptions
of a user goes through all of the channel: that happens for events that restrict somebody, and they are few.

Decision: docs/decisions/0054-membership-is-checked-by-position.md.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
from collections.abc import Callable, Iterable

import msgspec

from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.channels.delta_channel import DeltaChannel
from services.edge.domain.model import Publication
from services.shared.namespaces import Delta, Namespace

logger = logging.getLogger(__name__)

PER_TURN = 500  # subscriptions that end without a pause, if all do
CHANGES_MEMBERSHIP = 2  # in `Publication.flags`: it may take a right away


class _Event(msgspec.Struct):
    """What matters of an event of a conversation; `user` is empty where it names none."""

    kind: str = ""
    op: str = ""
    user: str = ""


class _Ends(enum.Enum):
    """Whose subscriptions an event ends."""

    NAMED = enum.auto()
    AUTHOR = enum.auto()
    ALL = enum.auto()
    NOBODY = enum.auto()


_HowItEnds = Callable[[Subscription], None]
_MEMBER, _CONVERSATION = "member", "conversation"
_ENDS = {
    (_MEMBER, "remove"): _Ends.NAMED,
    (_MEMBER, "ban"): _Ends.NAMED,
    (_MEMBER, "leave"): _Ends.AUTHOR,
    (_CONVERSATION, "delete"): _Ends.ALL,
    **{(_MEMBER, op): _Ends.NOBODY for op in ("silence", "role", "add", "join", "invite", "decline", "unban")},
    **{(_CONVERSATION, op): _Ends.NOBODY for op in ("create", "update", "close", "reopen")},
}
_decode = msgspec.json.Decoder(_Event).decode


class ConversationChannel(Channel):
    """A channel of a namespace with conversations."""

    def __init__(self, name: str, namespace: Namespace, log: ChannelLog | None, *, join_buffer_size: int) -> None:
        super().__init__(name, namespace, log, join_buffer_size=join_buffer_size)
        self._ending: dict[Subscription, _HowItEnds] = {}  # they get nothing more, and wait for their turn to end

    def __len__(self) -> int:
        return super().__len__() + len(self._ending)

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions: joining, catching up, live, and those that are about to end."""
        return [*super().subscriptions, *self._ending]

    def leave(self, subscription: Subscription) -> None:
        """Remove a subscription: no more frames of this channel are sent to it."""
        self._ending.pop(subscription, None)
        super().leave(subscription)

    def fan_out(self, publications: Iterable[Publication]) -> None:
        """Send publications to all subscribers, and end what they end, in order."""
        for publication in publications:
            super().fan_out((publication,))
            if publication.flags & CHANGES_MEMBERSHIP:
                self._end_those_of(publication)

    def _end_those_of(self, publication: Publication) -> None:
        try:
            event = _decode(publication.data)
        except msgspec.MsgspecError:
            event = _Event()
        ends = _ENDS.get((event.kind, event.op))
        if ends is _Ends.ALL:
            self._end_all(publication.offset, _no_longer_member)
        elif ends is _Ends.NAMED:
            self._end(publication.offset, self._of(event.user))
        elif ends is _Ends.AUTHOR and publication.info is not None and not is_open_conversation(self.name):
            self._end(publication.offset, self._of(publication.info.user))
        elif ends is None:
            logger.error("an unknown event of a conversation", extra={"channel": self.name, "kind": event.kind})
            for subscription in [*self._joining, *self._catching_up]:
                self._gap(subscription)
            self._end_all(publication.offset, self._gap)

    def _of(self, user: str) -> list[Subscription]:
        """Return the subscriptions of a user.

        Without a copy of all: an open conversation may have very many.
        """
        everybody = itertools.chain(self._joining, self._catching_up, *self._live.values())
        return [one for one in everybody if one.info.user == user]

    def _end(self, offset: int, subscriptions: Iterable[Subscription]) -> None:
        """End subscriptions behind this offset."""
        for subscription in subscriptions:
            if offset > subscription.checked_at:
                self._end_one(subscription, offset)

    def _gap(self, subscription: Subscription) -> None:
        self.leave(subscription)
        subscription.session.insufficient_state(subscription)

    def _end_all(self, offset: int, how: _HowItEnds) -> None:
        """End all subscriptions behind this offset: live ones in their turns."""
        self._end(offset, [*self._joining, *self._catching_up])
        for group in list(self._live.values()):
            for subscription in [one for one in group if offset > one.checked_at]:
                super().leave(subscription)
                subscription.ends_at = offset
                self._ending[subscription] = how
        self._end_some()

    def _end_some(self) -> None:
        for subscription in list(itertools.islice(self._ending, PER_TURN)):
            how = self._ending.pop(subscription, None)
            if how is not None:  # it has not left because of one of the others
                how(subscription)
        if self._ending:
            asyncio.get_running_loop().call_soon(self._end_some)

    def _end_one(self, subscription: Subscription, offset: int) -> None:
        if subscription.live and not self.is_catching_up(subscription):
            subscription.session.no_longer_member(subscription)
            return
        subscription.ends_at = subscription.ends_at or offset
        if not subscription.live:
            subscription.broken = True
            subscription.held.clear()
            return
        subscription.asks_joins = subscription.wants_joins = False
        subscription.session.presence_over(subscription)


def _no_longer_member(subscription: Subscription) -> None:
    subscription.session.no_longer_member(subscription)


class ConversationDeltaChannel(ConversationChannel, DeltaChannel):
    """The same in a namespace that allows deltas."""


def is_open_conversation(channel: str) -> bool:
    """Whether everybody may follow the conversation: its name says so."""
    return channel.partition(":")[2].startswith("o.")


def kind_of(namespace: Namespace) -> type[Channel]:
    """Return the class of the channels of a namespace."""
    if namespace.conversations:
        return ConversationChannel if namespace.delta is Delta.OFF else ConversationDeltaChannel
    return Channel if namespace.delta is Delta.OFF else DeltaChannel
