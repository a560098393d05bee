"""Brings joins, updates and leaves from pub/sub to the subscribers of this edge.

**Purpose.** In a channel with thousands of clients, joins and leaves would be most of what its subscribers receive. So
a namespace may bound how many events per second its subscribers are told of.

**Rules.**

1. Without `presence_event_rate` every event is told at once.
2. With it, each edge tells the subscribers of a channel of so many events per second, and at most of those of half a
   second at once. What is beyond waits.
3. Of each client one event waits, the newest: a leave replaces a join, a join a leave. An update of a client whose join
   waits becomes a join with the new info. Where joins and leaves are told by user, it is one of each user.
4. A leave is told even if the join before it never was: a subscriber may know the client from a list of members.
5. What waited longest is told first. Beyond 10,000 clients of a channel the oldest event is dropped and counted.

So who keeps members by client, and takes them out by leaves, ends with those that are there, but for clients that took
the place of another one of their user within its grace: of these nobody is told. Counts are asked for, and do not come
from events.

**Example.** `presence_event_rate = 10`, and 1,000 clients join at once: 5 joins are told at once, then 5 every half
second. One of those that wait leaves again: in the place of its join, its leave is told.

**Trade-offs.** Events come later, by minutes where thousands wait. A page of members is the quicker way to see who is
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Counter

from services.edge.domain.channels.channel import Channel
from services.edge.domain.model import ClientInfo
from services.edge.domain.replies import JoinPush, LeavePush
from services.edge.domain.token_bucket import TokenBucket
from services.shared.namespaces import PresenceBy

MAX_WAITING = 10_000  # events of one channel, each of another client
_DROPPED = Counter(
    "thalamus_edge_presence_events_dropped", "Joins, updates and leaves that were dropped because too many waited."
)
_Event = JoinPush | LeavePush


class _Waiting:
    """The events of one channel that wait, by client or user."""

    def __init__(self, rate: float, now: float, *, by_user: bool) -> None:
        self._burst = max(1.0, rate / 2)
        self._bucket = TokenBucket(rate, self._burst, now)
        self._by_user = by_user
        self._events: dict[str, _Event] = {}

    def is_idle(self, now: float) -> bool:
        """Return whether nothing waits, and as much may be told at once as ever."""
        return not self._events and self._bucket.left(now) >= self._burst

    def add(self, event: _Event) -> None:
        key = self._key(event.info)
        before = self._events.get(key)
        if isinstance(event, JoinPush) and event.updated and isinstance(before, JoinPush) and not before.updated:
            event = JoinPush(event.channel, event.info)
        self._events[key] = event  # in the place of the one before
        if len(self._events) > MAX_WAITING:
            del self._events[next(iter(self._events))]
            _DROPPED.inc()

    def due(self, now: float) -> list[_Event]:
        """Take the events that may be told now, oldest first."""
        found: list[_Event] = []
        while self._events and self._bucket.take(now):
            found.append(self._events.pop(next(iter(self._events))))
        return found

    def _key(self, info: ClientInfo) -> str:
        return f"u{info.user}" if self._by_user and info.user else f"c{info.client}"


class PresenceEvents:
    """Tells the subscribers of all channels of joins, updates and leaves."""

    def __init__(self, channels: Mapping[str, Channel], now: Callable[[], float]) -> None:
        self._channels = channels
        self._now = now
        self._waiting: dict[str, tuple[Channel, _Waiting]] = {}  # channels with a rate that had events lately

    def joined(self, channel: str, infos: Iterable[ClientInfo]) -> None:
        self._tell(channel, [JoinPush(channel, info) for info in infos])

    def updated(self, channel: str, infos: Iterable[ClientInfo]) -> None:
        self._tell(channel, [JoinPush(channel, info, updated=True) for info in infos])

    def left(self, channel: str, info: ClientInfo) -> None:
        self._tell(channel, [LeavePush(channel, info)])

    def tick(self, now: float) -> None:
        """Tell what has become due; to be called about every half second."""
        for name, (channel, waiting) in list(self._waiting.items()):
            if self._channels.get(name) is not channel:
                del self._waiting[name]
                continue
            due = waiting.due(now)
            if due:
                _announce(channel, due)
            elif waiting.is_idle(now):
                del self._waiting[name]

    def _tell(self, name: str, events: Sequence[_Event]) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        rate = channel.namespace.presence_event_rate
        if not rate:
            _announce(channel, events)
            return
        now = self._now()
        known = self._waiting.get(name)
        if known is None or known[0] is not channel:
            by_user = channel.namespace.presence_by is PresenceBy.USER
            known = self._waiting[name] = (channel, _Waiting(rate, now, by_user=by_user))
        due: list[_Event] = []
        for event in events:
            known[1].add(event)
            due += known[1].due(now)
        _announce(channel, due)


def _announce(channel: Channel, events: Iterable[_Event]) -> None:
    """Push events in their order; joins that follow one another in one frame."""
    joins: list[JoinPush] = []
    for event in events:
        if isinstance(event, JoinPush):
            joins.append(event)
            continue
        if joins:
            channel.announce_joins(joins)
            joins = []
        channel.announce_leave(event)
    if joins:
        channel.announce_joins(joins)
