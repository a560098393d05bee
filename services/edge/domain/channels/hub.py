"""Opens, repairs and closes the channels of this edge.

**Purpose.** Pub/sub is only a hint that something is in a log: messages may be lost with or without an error. The hub
finds out when something is missing, reads it from the log, and hands it out in order. If that is impossible, it tells
the subscribers, so that they recover themselves.

**Rules.**

1. A channel is opened once, however many wait for it: first Redis confirms the subscription, then the newest position
   is read. Publications that arrive between the two are kept and handed out afterwards. So nothing is missed.
2. A repair begins after a jump in the offsets (see `channel_log`), after every reconnect of pub/sub, and when a quiet
   channel is found to be elsewhere than its log. Channels without traffic are compared about every 5 s.
3. One repair runs per channel. A request that comes meanwhile makes it read once more.
4. A repair reads everything after the last publication handed out. A read that fails (`Unavailable`, `Busy`) is
   repeated, with pauses of 0.1 to 1 s, while the channel is open.
5. If the log can't give everything (a hole, another epoch, more than `recovery_limit` publications), the channel is
   closed here, and each subscriber gets one gap notification: unsubscribe 2500, or the end of the connection for a
   server-side subscription. Subscribers that asked for no position are put on the newly opened channel instead. The
   next subscribe opens the channel again.
6. A `hot` log that is behind what was delivered of it has lost publications. It gets a new epoch first, so that no
   client recovers from the old one.
7. A channel without subscribers stays open for `channel_linger_s` (1 s).

**Example.** Offset 5 was handed out, and pub/sub brings 8. The repair reads after 5 and finds 6, 7 and 8; they are
handed out, and the channel goes on. If 6 was trimmed from the log meanwhile, the subscribers get 2500, subscribe again
with their position, and are told whether they recovered.

**Trade-offs.** A message that is lost without an error in a quiet channel is found only by the next comparison. A gap
notification goes to all subscribers of the channel on this edge, because they share one view of its log.

Decisions: docs/decisions/0005-detecting-a-rolled-back-redis.md (rule 6), docs/architecture.md, "The log of a
channel".
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.channel_log import ERASES, ChannelLog, Need
from services.edge.domain.channels.conversation_channel import kind_of
from services.edge.domain.channels.log_reader import LogReader, read_backoff
from services.edge.domain.channels.presence_events import PresenceEvents
from services.edge.domain.channels.time_tag import tag_times
from services.edge.domain.model import ClientInfo, Publication, StreamPosition
from services.edge.domain.ports import Broker
from services.edge.domain.settings import Settings
from services.edge.domain.timings import DELIVERY_SECONDS
from services.shared.errors import Busy, ThalamusError, Unavailable
from services.shared.namespaces import Durability, Namespace
from services.shared.process.single_flight import SingleFlight

logger = logging.getLogger(__name__)

_TOPS_AT_ONCE = 500  # channels compared with their logs at the same time, so that other requests are not held up


class ChannelWatcher(Protocol):
    """Hears of the channels of a namespace that this edge has open."""

    namespace: str

    async def opened(self, channel: str) -> None:
        """Prepare a channel before its first subscription is answered.

        Raises:
            Unavailable: the channel can't be opened now.
        """

    def closed(self, channel: str) -> None:
        """Note that a channel was closed."""


Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Hub:
    """All open channels of this edge. It is the `ChannelListener` of pub/sub."""

    def __init__(
        self,
        broker: Broker,
        reader: LogReader,
        settings: Settings,
        spawn: Spawn,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._reader = reader
        self._settings = settings
        self._spawn = spawn
        self._now = now
        self._wall = wall
        self._channels: dict[str, Channel] = {}
        self.presence_events = PresenceEvents(self._channels, now)
        self._opening = SingleFlight[Channel]()
        self._early: dict[str, list[tuple[str, Publication]]] = {}  # arrived while the channel was being opened
        self._unused: dict[str, float] = {}  # channel → since when it has no subscribers, monotonic seconds
        self._repairs: dict[str, asyncio.Task[None]] = {}  # channel → its running repair
        self._repair_again: set[str] = set()  # channels whose repair must read once more
        self._repair_of: dict[str, Channel] = {}  # channel → the object that its running repair is for
        self._reconnects = 0  # of pub/sub
        self._comparing = False  # a comparison of quiet channels is running
        self.publications_received = 0
        self.gaps = 0
        self.resyncs = 0
        self._deliveries_of_closed = 0
        self.watcher: ChannelWatcher | None = None

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def channels(self) -> dict[str, Channel]:
        """Open channels by name. Read only."""
        return self._channels

    @property
    def deliveries(self) -> int:
        """Pushes sent to live subscribers since the start of the edge."""
        return self._deliveries_of_closed + sum(channel.deliveries for channel in self._channels.values())

    async def open(self, name: str, namespace: Namespace) -> Channel:
        """Return the channel; open it if necessary.

        All callers that wait for the same channel share one subscribe and one read.

        Raises:
            Unavailable: Redis or the store did not answer in time.
        """
        channel = self._channels.get(name)
        if channel is not None:
            if name in self._unused:
                self._unused[name] = self._now()  # the caller has the whole linger time to join
            return channel
        return await self._opening.do(name, lambda: self._open(name, namespace), name=f"open {name}")

    async def _open(self, name: str, namespace: Namespace) -> Channel:
        self._early[name] = []
        reconnects = self._reconnects
        try:
            await self._broker.subscribe(name)
            log = None
            if namespace.durability is not Durability.NONE:
                top = await self._reader.top(name, namespace)
                log = self._log(top, namespace)
            if self.watcher is not None and namespace.name == self.watcher.namespace:
                await self.watcher.opened(name)
        except BaseException:
            self._early.pop(name, None)
            self._spawn(self._unsubscribe_if_closed(name))
            raise
        channel = kind_of(namespace)(name, namespace, log, join_buffer_size=self._settings.join_buffer_size)
        self._channels[name] = channel
        self._unused[name] = self._now()  # until the first subscription joins
        for epoch, publication in self._early.pop(name):
            self.publication(name, epoch, publication)
        if channel.log is not None and reconnects != self._reconnects:
            self._repair(channel)  # pub/sub was reconnected meanwhile: publications may have been missed
        return channel

    def _log(self, top: StreamPosition, namespace: Namespace) -> ChannelLog:
        """Create the view of a log that continues after `top`.

        The ring of a `hot` log is limited by the namespace's history size and time, as the log itself is. A `stored`
        log keeps everything, so its ring has only the limits of the settings, and those of retention.
        """
        settings, stored = self._settings, namespace.durability.keeps
        kept = (namespace.retention_messages or settings.ring_size) if stored else namespace.history_size
        return ChannelLog(
            top,
            ring_size=min(settings.ring_size, kept),
            ring_max_bytes=settings.ring_max_bytes,
            buffer_size=settings.gap_buffer_size,
            ttl_s=math.inf if stored else namespace.history_ttl_s,
            max_age_s=namespace.retention_days * 86_400 or math.inf,
        )

    def join(self, channel: Channel, subscription: Subscription) -> Channel:
        """Add a subscription to the channel; return the channel.

        Raises:
            Unavailable: the channel was closed since `open` returned it; open it again.
        """
        current = self._channels.get(channel.name)
        if current is not channel:
            raise Unavailable("the channel was closed while being joined")
        self._unused.pop(channel.name, None)
        channel.join(subscription)
        return channel

    def leave(self, subscription: Subscription) -> None:
        """Remove a subscription from its channel.

        A channel without subscriptions is closed later by `close_unused`.
        """
        channel = self._channels.get(subscription.channel)
        if channel is None:
            return
        channel.leave(subscription)
        if not len(channel):
            self._unused[channel.name] = self._now()

    def close_unused(self, now: float) -> None:
        """Close the channels that had no subscribers for `channel_linger_s`.

        `now` is in monotonic seconds.
        """
        due = [name for name, since in self._unused.items() if now - since >= self._settings.channel_linger_s]
        for name in due:
            del self._unused[name]
            channel = self._channels.pop(name)
            self._deliveries_of_closed += channel.deliveries
            if self.watcher is not None and channel.namespace.name == self.watcher.namespace:
                self.watcher.closed(name)
            self._spawn(self._unsubscribe_if_closed(name))

    async def _unsubscribe_if_closed(self, name: str) -> None:
        if name in self._channels or name in self._opening:
            return
        try:
            await self._broker.unsubscribe(name)
        except ThalamusError as error:
            logger.info(
                "unsubscribe failed; the next connection to Redis will not have it", extra={"error": str(error)}
            )

    # ChannelListener: messages of pub/sub.

    def publication(self, channel: str, epoch: str, publication: Publication) -> None:
        self.publications_received += 1
        view = self._channels.get(channel)
        if view is None:
            early = self._early.get(channel)
            if early is not None and len(early) < self._settings.join_buffer_size:
                early.append((epoch, publication))
            return
        if view.namespace.time_in_tags:
            tag_times(view.namespace, (publication,))
        if view.log is None or not publication.offset:  # a backend may publish past the log of a channel
            self._fan_out(view, [publication])
            return
        view.active_since_check = True
        ready, need = view.log.message(epoch, publication)
        if ready:
            self._fan_out(view, ready)
        if need is not Need.NOTHING:
            self._repair_or_notify_gap(view, need)

    def _fan_out(self, view: Channel, publications: Sequence[Publication]) -> None:
        view.fan_out(publications)
        now_s = self._wall()
        for publication in publications:
            if publication.flags & ERASES and view.log is not None:
                view.log.forget_before(publication.offset)
                self._reader.forget_channel(view.name)
            if publication.time_ms:
                DELIVERY_SECONDS.observe(max(0.0, now_s - publication.time_ms / 1000))

    def ephemeral(self, channel: str, publication: Publication) -> None:
        view = self._channels.get(channel)
        if view is not None and channel not in self._repairs:  # see `ephemeral`, rule 4
            view.fan_out_ephemeral(publication)

    def tell(self, channel: str, data: bytes) -> bool:
        """Send an ephemeral event to the subscribers on this edge.

        False: nobody was told, because the channel is being repaired.
        """
        if channel in self._repairs:
            return False
        self.ephemeral(channel, Publication(data))
        return True

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None:
        self.presence_events.joined(channel, infos)

    def updated(self, channel: str, infos: Sequence[ClientInfo]) -> None:
        self.presence_events.updated(channel, infos)

    def left(self, channel: str, info: ClientInfo) -> None:
        self.presence_events.left(channel, info)

    def was_reset(self, channel: str, epoch: str) -> None:
        view = self._channels.get(channel)
        if view is not None and view.log is not None and view.log.epoch != epoch:
            self._notify_gap(view)

    def reconnected(self) -> None:
        self._reconnects += 1
        for view in self._channels.values():
            if view.log is not None:
                self._repair(view)

    # Gaps.

    def check_tops(self) -> None:
        """Compare the channels without traffic since the last call with their logs.

        To be called about every `top_check_s` seconds. It finds publications that pub/sub lost without an error.
        """
        quiet = [view for view in self._channels.values() if view.log is not None and not view.active_since_check]
        for view in self._channels.values():
            view.active_since_check = False
        if quiet and not self._comparing:
            self._comparing = True
            self._spawn(self._compare_all(quiet))

    async def _compare_all(self, views: list[Channel]) -> None:
        """Compare channels with their logs, in groups, to leave Redis time for others."""
        try:
            for start in range(0, len(views), _TOPS_AT_ONCE):
                await self._compare(views[start : start + _TOPS_AT_ONCE])
        finally:
            self._comparing = False

    async def _compare(self, views: list[Channel]) -> None:
        """Repair the channels whose position differs from that of their logs."""
        names = [(view.name, view.namespace.durability.keeps) for view in views]
        try:
            tops = await self._broker.tops(names)
        except ThalamusError:
            return  # Redis does not answer; a later comparison, or the reconnect of pub/sub, finds what is missing
        for view, top in zip(views, tops, strict=True):
            if view.log is not None and self._channels.get(view.name) is view and top != view.log.position:
                self._repair(view)

    def _repair_or_notify_gap(self, view: Channel, need: Need) -> None:
        if need is Need.RESYNC:
            self._notify_gap(view)
        else:
            self.gaps += 1
            self._repair(view)

    def _repair(self, view: Channel) -> None:
        if view.name in self._repairs:
            self._repair_again.add(view.name)
        else:
            self._repair_of[view.name] = view
            self._repairs[view.name] = self._spawn(self._repair_until_whole(view))

    async def catch_up(self, view: Channel, timeout_s: float) -> None:
        """Repair the channel now: a client has a newer position than this edge.

        Raises:
            Unavailable: the log could not be read within `timeout_s` seconds, so the client's position can't be judged.
        """
        unfinished: set[asyncio.Task[None]] = set()
        of_this_view = False
        while not of_this_view and not unfinished:
            self._repair(view)
            of_this_view = self._repair_of[view.name] is view  # if not, wait for the repair of a closed channel first
            _, unfinished = await asyncio.wait([self._repairs[view.name]], timeout=timeout_s)
        if unfinished:
            raise Unavailable("the log of the channel can't be compared at the moment")

    async def _repair_until_whole(self, view: Channel) -> None:
        """Read what is missing and hand it out, until the channel is level with its log.

        Ends with gap notifications if the log can't give everything.
        """
        attempt = 0
        backoff = read_backoff()
        try:
            while self._channels.get(view.name) is view and view.log is not None:
                self._repair_again.discard(view.name)
                try:
                    page = await self._reader.after(view.name, view.namespace, view.log.position)
                except (Unavailable, Busy):
                    await asyncio.sleep(backoff.next_s())
                    continue
                backoff.reset()
                if self._channels.get(view.name) is not view:
                    return
                if page is None:  # a hole, too much, another epoch, or the log is behind
                    await self._reset_if_behind(view)
                    self._notify_gap(view)
                    return
                ready, need = view.log.repaired(page.top.epoch, page.publications)
                if ready:
                    self._fan_out(view, ready)
                if need is Need.RESYNC:
                    self._notify_gap(view)
                    return
                if (
                    need is Need.NOTHING
                    and view.log.delivered >= page.top.offset
                    and view.name not in self._repair_again
                ):
                    return
                attempt += 1
                if attempt > 2:
                    await asyncio.sleep(0.01)  # a publication that pub/sub brought is about to become readable
        finally:
            self._repairs.pop(view.name, None)
            self._repair_of.pop(view.name, None)
            asked_again = view.name in self._repair_again
            self._repair_again.discard(view.name)
            current = self._channels.get(view.name)
            if asked_again and current is not None and current is not view and current.log is not None:
                self._repair(current)  # the channel was opened again while this repair of the closed one was running

    async def _reset_if_behind(self, view: Channel) -> None:
        """Give a `hot` log a new epoch if it is behind what was delivered of it (rule 6)."""
        if view.log is None or view.namespace.durability is not Durability.HOT:
            return
        delivered = view.log.position
        try:
            top = await self._reader.top(view.name, view.namespace)
            if top.epoch == delivered.epoch and top.offset < delivered.offset:
                logger.error("the log went back", extra={"channel": view.name, "delivered": delivered.offset})
                await self._broker.reset(view.name, top.epoch)
        except ThalamusError as error:
            logger.warning("a log could not be compared", extra={"channel": view.name, "error": str(error)})

    def _notify_gap(self, view: Channel) -> None:
        """Close the channel here and send each subscriber a gap notification (rule 5)."""
        if self._channels.get(view.name) is not view:
            return
        self.resyncs += 1
        logger.warning("insufficient state", extra={"channel": view.name, "subscribers": len(view)})
        del self._channels[view.name]
        self._unused.pop(view.name, None)
        self._deliveries_of_closed += view.deliveries
        for subscription in view.subscriptions:
            view.leave(subscription)
            subscription.session.insufficient_state(subscription)
        self._spawn(self._unsubscribe_if_closed(view.name))
