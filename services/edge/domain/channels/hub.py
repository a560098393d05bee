"""This edge's channels: opened once Redis has confirmed, repaired when something is missing, closed when unused."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.channel_log import ChannelLog, Need
from services.edge.domain.channels.log_reader import LogReader, pause_s
from services.edge.domain.channels.time_tag import tag_times
from services.edge.domain.model import ClientInfo, Publication, StreamPosition
from services.edge.domain.ports import Broker
from services.edge.domain.replies import JoinPush, LeavePush
from services.edge.domain.settings import Settings
from services.edge.domain.timings import DELIVERY_SECONDS
from services.shared.errors import Busy, ThalamusError, Unavailable
from services.shared.namespaces import Durability, Namespace

logger = logging.getLogger(__name__)

_TOPS_AT_ONCE = 500

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Hub:
    """Map of channel name to `Channel`, and the listener of what Redis brings."""

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
        self._opening: dict[str, asyncio.Task[Channel]] = {}
        self._early: dict[str, list[tuple[str, Publication]]] = {}  # came between SUBSCRIBE and the top
        self._unused: dict[str, float] = {}  # channel → monotonic seconds since when nobody listens
        self._repairs: dict[str, asyncio.Task[None]] = {}
        self._repair_again: set[str] = set()
        self._repair_of: dict[str, Channel] = {}  # the view that the repair under this name is for
        self._reconnects = 0
        self._comparing = False
        self.publications_received = 0
        self.gaps = 0
        self.resyncs = 0
        self._deliveries_of_closed = 0

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def channels(self) -> dict[str, Channel]:
        """Open channels by name; do not change it."""
        return self._channels

    @property
    def deliveries(self) -> int:
        """Frames handed to subscribers since the start."""
        return self._deliveries_of_closed + sum(channel.deliveries for channel in self._channels.values())

    async def open(self, name: str, namespace: Namespace) -> Channel:
        """The channel, opened if it is not: one subscribe and one read of the top however many wait.

        Raises:
            Unavailable: Redis or the store did not answer in time.
        """
        channel = self._channels.get(name)
        if channel is not None:
            if name in self._unused:
                self._unused[name] = self._now()  # long enough to be joined; whoever asked may be gone by then
            return channel
        task = self._opening.get(name)
        if task is None:
            task = asyncio.create_task(self._open(name, namespace), name=f"open {name}")
            self._opening[name] = task
        return await asyncio.shield(task)

    async def _open(self, name: str, namespace: Namespace) -> Channel:
        self._early[name] = []
        reconnects = self._reconnects
        try:
            await self._broker.subscribe(name)
            log = None
            if namespace.durability is not Durability.NONE:
                top = await self._reader.top(name, namespace)
                log = self._log(top, namespace)
        except BaseException:
            self._early.pop(name, None)
            self._spawn(self._unsubscribe_if_closed(name))
            raise
        finally:
            self._opening.pop(name, None)
        channel = Channel(name, namespace, log, join_buffer_size=self._settings.join_buffer_size)
        self._channels[name] = channel
        self._unused[name] = self._now()  # until the first joins
        for epoch, publication in self._early.pop(name):
            self.publication(name, epoch, publication)
        if channel.log is not None and reconnects != self._reconnects:
            self._repair(channel)  # what came between the read of the top and now may have been missed
        return channel

    def _log(self, top: StreamPosition, namespace: Namespace) -> ChannelLog:
        """The view of a log. Its ring has nothing that the log itself would not give out; a `stored` one keeps all."""
        settings, stored = self._settings, namespace.durability is Durability.STORED
        return ChannelLog(
            top,
            ring_size=settings.ring_size if stored else min(settings.ring_size, namespace.history_size),
            ring_max_bytes=settings.ring_max_bytes,
            buffer_size=settings.gap_buffer_size,
            ttl_s=math.inf if stored else namespace.history_ttl_s,
        )

    def join(self, channel: Channel, subscription: Subscription) -> Channel:
        """Add a subscription; returns the channel it really is on (the given one may have been closed meanwhile)."""
        current = self._channels.get(channel.name)
        if current is not channel:
            raise Unavailable("the channel was closed while being joined")
        self._unused.pop(channel.name, None)
        channel.join(subscription)
        return channel

    def leave(self, subscription: Subscription) -> None:
        """Take a subscription off its channel; the last one leaves it unused."""
        channel = self._channels.get(subscription.channel)
        if channel is None:
            return
        channel.leave(subscription)
        if not len(channel):
            self._unused[channel.name] = self._now()

    def close_unused(self, now: float) -> None:
        """Forget channels that nobody has listened to for a while (`channel_linger_s`)."""
        due = [name for name, since in self._unused.items() if now - since >= self._settings.channel_linger_s]
        for name in due:
            del self._unused[name]
            channel = self._channels.pop(name)
            self._deliveries_of_closed += channel.deliveries
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

    # What Redis brings (ChannelListener).

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
        if view.log is None or not publication.offset:  # a backend may ask that one is not kept
            self._fan_out(view, [publication])
            return
        view.active_since_check = True
        ready, need = view.log.message(epoch, publication)
        if ready:
            self._fan_out(view, ready)
        if need is not Need.NOTHING:
            self._act(view, need)

    def _fan_out(self, view: Channel, publications: Sequence[Publication]) -> None:
        view.fan_out(publications)
        now_s = self._wall()
        for publication in publications:
            if publication.time_ms:
                DELIVERY_SECONDS.observe(max(0.0, now_s - publication.time_ms / 1000))

    def joined(self, channel: str, infos: Sequence[ClientInfo]) -> None:
        view = self._channels.get(channel)
        if view is not None:
            view.announce_joins([JoinPush(channel, info) for info in infos])

    def left(self, channel: str, info: ClientInfo) -> None:
        view = self._channels.get(channel)
        if view is not None:
            view.announce_leave(LeavePush(channel, info))

    def was_reset(self, channel: str, epoch: str) -> None:
        view = self._channels.get(channel)
        if view is not None and view.log is not None and view.log.epoch != epoch:
            self._resync(view)

    def reconnected(self) -> None:
        self._reconnects += 1
        for view in self._channels.values():
            if view.log is not None:
                self._repair(view)

    # Gaps.

    def check_tops(self) -> None:
        """Compare channels that were quiet since the last time with their logs; call every `top_check_s`."""
        quiet = [view for view in self._channels.values() if view.log is not None and not view.active_since_check]
        for view in self._channels.values():
            view.active_since_check = False
        if quiet and not self._comparing:
            self._comparing = True
            self._spawn(self._compare_all(quiet))

    async def _compare_all(self, views: list[Channel]) -> None:
        """A few at a time: others want something of Redis, too."""
        try:
            for start in range(0, len(views), _TOPS_AT_ONCE):
                await self._compare(views[start : start + _TOPS_AT_ONCE])
        finally:
            self._comparing = False

    async def _compare(self, views: list[Channel]) -> None:
        """Repair those that are not where their logs are."""
        names = [(view.name, view.namespace.durability is Durability.STORED) for view in views]
        try:
            tops = await self._broker.tops(names)
        except ThalamusError:
            return  # Redis is away: when it is back, everything is compared
        for view, top in zip(views, tops, strict=True):
            if view.log is not None and self._channels.get(view.name) is view and top != view.log.position:
                self._repair(view)

    def _act(self, view: Channel, need: Need) -> None:
        if need is Need.RESYNC:
            self._resync(view)
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
        """Hand out all that the log holds by now; a client may come from an edge that is ahead of this one.

        Raises:
            Unavailable: the log could not be asked within the time: nobody knows which of the two is right.
        """
        unfinished: set[asyncio.Task[None]] = set()
        of_this_view = False
        while not of_this_view and not unfinished:
            self._repair(view)
            of_this_view = self._repair_of[view.name] is view  # else first the end of one for a view that is gone
            _, unfinished = await asyncio.wait([self._repairs[view.name]], timeout=timeout_s)
        if unfinished:
            raise Unavailable("the log of the channel can't be compared at the moment")

    async def _repair_until_whole(self, view: Channel) -> None:
        """Read what is missing and hand it out, one reader per channel; give up only where the log itself can't."""
        attempt = failures = 0
        try:
            while self._channels.get(view.name) is view and view.log is not None:
                self._repair_again.discard(view.name)
                try:
                    page = await self._reader.after(view.name, view.namespace, view.log.position)
                except (Unavailable, Busy):
                    failures += 1
                    await asyncio.sleep(pause_s(failures))
                    continue
                failures = 0
                if self._channels.get(view.name) is not view:
                    return
                if page is None:  # the log has a hole there, went back, or is another one
                    await self._reset_if_behind(view)
                    self._resync(view)
                    return
                ready, need = view.log.repaired(page.top.epoch, page.publications)
                if ready:
                    self._fan_out(view, ready)
                if need is Need.RESYNC:
                    self._resync(view)
                    return
                if (
                    need is Need.NOTHING
                    and view.log.delivered >= page.top.offset
                    and view.name not in self._repair_again
                ):
                    return
                attempt += 1
                if attempt > 2:
                    await asyncio.sleep(0.01)  # what was announced is about to be readable
        finally:
            self._repairs.pop(view.name, None)
            self._repair_of.pop(view.name, None)
            asked_again = view.name in self._repair_again
            self._repair_again.discard(view.name)
            current = self._channels.get(view.name)
            if asked_again and current is not None and current is not view and current.log is not None:
                self._repair(current)  # it was asked for while this one, of a view that is gone, had not ended

    async def _reset_if_behind(self, view: Channel) -> None:
        """A `hot` log below what was delivered of it has lost something: nobody may go on with its epoch."""
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

    def _resync(self, view: Channel) -> None:
        """Every subscriber is told once that it can't go on; the next subscribe opens the channel anew."""
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
