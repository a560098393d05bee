"""`Broker` on Redis: sends commands in batches, refuses a Redis that lost data.

**Batching.** (`services/shared/batching`) The commands of one tick of the event loop, or of the time until the next
batch may leave, go as one batch of up to 512: first PUBLISH, then scripts, which append to up to 64 channels each. A
busy edge lingers for up to 15 ms between batches. Four may be in flight, 20,000 commands may wait (then `Busy`), and
each has a reply within 2.8 s.
**Repeats.** A batch that fails early is sent again once, but without PUBLISH and appends without idempotency key: those
may have been executed, and nothing would recognise a repeat. For 0.25 s after a failure, commands fail at once.
**Fencing.** Appends and reads bring the highest number of writes to `hot` logs that this edge has seen. A Redis that
has fewer does nothing, and the incarnation is checked at once. Results count only while the incarnation is the same.
Redis numbers the append calls of this edge; one number twice means that it went back between two (`own_appends`).
**Example.** On a busy edge 300 clients publish to 100 channels within 15 ms: one batch, two script calls.
**Trade-off.** Publishing takes up to 15 ms longer on a busy edge. See docs/decisions/0005, 0010, 0020 and 0039.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from services.edge.adapters import publication_codec as codec
from services.edge.adapters.redis import self_check
from services.edge.adapters.redis.acknowledged import AcknowledgedPositions
from services.edge.adapters.redis.batch_sender import DEADLINE_S, BatchSender
from services.edge.adapters.redis.command_log import RedisControlLog
from services.edge.adapters.redis.counts import RedisCounts
from services.edge.adapters.redis.dispatcher import PubSubDispatcher
from services.edge.adapters.redis.edge_lease import EdgeLeases
from services.edge.adapters.redis.ephemeral_readers import EphemeralReaders
from services.edge.adapters.redis.incarnation import IncarnationWatch
from services.edge.adapters.redis.limit_calls import LimitCalls
from services.edge.adapters.redis.own_appends import OwnAppends
from services.edge.adapters.redis.queued import Append, OtherCommand, give_up_unkeyed
from services.edge.adapters.redis.rates import RedisRates
from services.edge.adapters.redis.revocations import RedisRevocationLog
from services.edge.adapters.redis.self_check import PubSubSelfCheck
from services.edge.adapters.redis.session_table import RedisSessionTable
from services.edge.adapters.redis.subscriber import RedisSubscriber
from services.edge.adapters.redis.tickets import RedisTickets
from services.edge.domain.model import AppendResult, HistoryPage, Publication, StreamPosition
from services.edge.domain.ports import ChannelListener, ControlListener
from services.shared.batching.batcher import Batcher
from services.shared.batching.linger import Linger
from services.shared.errors import Unavailable
from services.shared.hotlog import hotlog, keys
from services.shared.hotlog.scripts import Call, raise_for_error
from services.shared.incarnation.calls import Incarnation, Known
from services.shared.incarnation.gate import IncarnationGate
from services.shared.process.cancellation import end_task
from services.shared.process.metrics import BATCH_BUCKETS, SECONDS_BUCKETS, QuickHistogram
from services.shared.redis.clock import RedisClock
from services.shared.redis.pipeline import NotSent, RedisPipeline

logger = logging.getLogger(__name__)

MAX_WAITING = 20_000  # commands in the queue
_MAX_BATCH = 512  # commands in a batch
_IN_FLIGHT = 4  # batches at the same time
MAX_BATCH_DELAY_S = 0.015  # longest linger of a busy edge between two batches, seconds
_BREAK_S = 0.25  # how long commands fail at once after a batch has failed, seconds
_NEVER = -1e9
_SECONDS = QuickHistogram(
    "thalamus_edge_redis_seconds", "Seconds of a round trip to Redis.", SECONDS_BUCKETS
).unlabelled()
_ITEMS = QuickHistogram(
    "thalamus_edge_redis_batch_items", "Calls in a round trip to Redis.", BATCH_BUCKETS
).unlabelled()


class RedisBroker:
    """Redis for the domain: a command connection and a pub/sub connection."""

    def __init__(
        self,
        url: str,
        *,
        edge_id: str = "",  # under which this edge holds its lease; empty: a new one
        meta_ttl_s: int = hotlog.META_TTL_S,  # how long Redis keeps epoch and top of an unused `hot` channel, seconds
        feed_max_entries: int = hotlog.FEED_MAX_ENTRIES,  # entries that a stream of the feed keeps
        max_batch_delay_s: float = MAX_BATCH_DELAY_S,
        self_check_s: float = self_check.EVERY_S,  # pause between two probes of the pub/sub self-check, seconds
        on_time: Callable[[float], None] = lambda unix_s: None,  # called with the clock of Redis
        on_incarnation: Callable[[], None] = lambda: None,  # called when another incarnation of Redis is in use
    ) -> None:
        self._meta_ttl_s = meta_ttl_s
        self._gate = IncarnationGate()
        self._acknowledged = AcknowledgedPositions()
        self._on_time = on_time
        self._clock = RedisClock()
        appends = OwnAppends()
        self._incarnation = IncarnationWatch(
            url,
            self._gate,
            self._acknowledged,
            appends,
            on_change=lambda: self._on_new_incarnation(on_incarnation),
            on_time=self._on_redis_time,
            on_run=lambda run_id: self._subscriber.follow(run_id),
        )
        self._pipeline = RedisPipeline(
            url, gate=self._gate, before_use=lambda ask: self.revocation_log.read(ask, first=True)
        )
        self._sender = BatchSender(
            self._pipeline,
            self._gate,
            self._incarnation,
            appends,
            self._acknowledged,
            self._clock,
            meta_ttl_s=meta_ttl_s,
            feed_max_entries=feed_max_entries,
        )
        self.control_log = RedisControlLog(self._pipeline)
        self.tickets = RedisTickets(self._pipeline, lambda: self._gate.token)
        self.leases = EdgeLeases(self._pipeline, edge_id or str(uuid.uuid4()))
        self._limit_calls = LimitCalls(self._pipeline)
        self.rates = RedisRates(self._limit_calls)
        self.session_table = RedisSessionTable(self._pipeline, self.leases, self._clock)
        self.counts = RedisCounts(self._limit_calls, self.leases, self._clock)
        self.revocation_log = RedisRevocationLog(self._pipeline)
        self._subscriber = RedisSubscriber(
            url,
            on_message=self._message,
            on_connected=self._connected,
            on_lost=self._incarnation.check_now,
            before_restore=self.revocation_log.poll,
        )
        self._dispatcher: PubSubDispatcher | None = None
        self._queue = Batcher[Append | OtherCommand](
            self._flush,
            max_items=_MAX_BATCH,
            max_waiting=MAX_WAITING,
            deadline_s=DEADLINE_S,
            late=_no_reply,
            linger=Linger(max_batch_delay_s),
        )
        self._tasks: set[asyncio.Task[None]] = set()  # batches in flight
        self._reading: asyncio.Task[None] | None = None  # the list of revocations, of a new incarnation
        self._failed_at = _NEVER
        self._self_check = PubSubSelfCheck(
            self._publish,
            self._subscriber.drop,
            is_open=lambda: self._subscriber.has_connection,
            every_s=self_check_s,
        )
        self._ephemeral_readers = EphemeralReaders(self._publish)

    async def start(
        self, listener: ChannelListener, on_control: Callable[[bytes], None], commands: ControlListener | None = None
    ) -> None:
        """Connect; the listeners are called on the event loop, in the order of arrival."""
        self._dispatcher = PubSubDispatcher(listener, on_control, commands, self._self_check, self._acknowledged)
        await self._incarnation.start()
        for channel in (keys.control(), self._ephemeral_readers.channel, self._self_check.channel):
            self._subscriber.want(channel)  # even if Redis is not available yet
        await self._subscriber.start()
        try:
            await self._subscriber.subscribe(keys.control())
        except Unavailable:
            logger.warning("Redis is not there yet")  # the subscriptions follow as soon as it is
        with contextlib.suppress(Unavailable):
            await self._subscriber.subscribe(self._self_check.channel)
        self._self_check.start()

    async def watch(self) -> None:
        """Wait until cancelled; raises ConfigError if this Redis can't be used."""
        await self._incarnation.watch()

    async def close(self) -> None:
        """Wait up to 1 s for commands in flight, then close."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        if self._reading is not None:
            await end_task(self._reading)
        await self._self_check.close()
        await self._limit_calls.close()
        await self.session_table.close()
        self._queue.close(_no_reply)
        await self._subscriber.close()
        await self._incarnation.close()
        await self._pipeline.aclose()

    @property
    def is_ready(self) -> bool:
        """Whether this edge may serve clients.

        Pub/sub works, the present incarnation of Redis may be used, and the list of revocations has been read.
        """
        return (
            self._subscriber.connected
            and self._gate.is_open
            and self.revocation_log.is_read
            and not self._self_check.stalled
        )

    @property
    def limits_are_local(self) -> bool:
        """Whether this edge keeps the limits of the cluster alone, because Redis is away."""
        return self._limit_calls.is_away

    # `Broker`, see domain/ports.py.

    async def subscribe(self, channel: str) -> None:
        await self._subscriber.subscribe(keys.pub(channel))

    async def unsubscribe(self, channel: str) -> None:
        await self._subscriber.unsubscribe(keys.pub(channel))

    async def publish(self, channel: str, publication: Publication) -> None:
        await self._publish(keys.pub(channel), keys.UNNUMBERED + codec.encode(publication))

    async def publish_ephemeral(self, channel: str, publication: Publication) -> bool:
        if not await self._ephemeral_readers.are_all():
            return False
        await self._publish(keys.pub(channel), keys.EPHEMERAL + codec.encode(publication))
        return True

    async def publish_control(self, payload: bytes) -> int:
        return await self._publish(keys.control(), payload)

    async def _publish(self, channel: str, payload: bytes) -> int:
        """Publish on a pub/sub channel; return how many subscribers received it."""
        return int(await self._run_command(None, publish=(channel, payload)))

    def append(
        self,
        channel: str,
        publication: Publication,
        *,
        key_user: str,
        key: str,
        history_size: int,
        history_ttl_s: int,
        feed: bool = False,
    ) -> asyncio.Future[AppendResult]:
        future: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        self._submit(
            Append(
                channel,
                publication.id,
                codec.encode(publication, timed=False),
                keys.key(channel, key_user, key) if key else "",
                history_size,
                history_ttl_s,
                future,
                (publication.info.user if publication.info else "") if feed else None,
            )
        )
        return future

    async def top(self, channel: str) -> StreamPosition:
        found = hotlog.top(await self._run_command(self._top_call(channel, False)))
        if found is None:
            self._incarnation.check_now()
            raise Unavailable("the log is of a later generation, or Redis went back")
        return StreamPosition(*found)

    def saw(self, known: Known) -> None:
        """Note what persistence has seen of Redis before it acknowledged something."""
        self._gate.saw(known)

    async def tops(self, channels: Sequence[tuple[str, bool]]) -> list[StreamPosition | None]:
        calls = [self._top_call(name, stored) for name, stored in channels]
        found = [hotlog.top(result) for result in await asyncio.gather(*map(self._run_command, calls))]
        return [None if top is None else StreamPosition(*top) for top in found]

    async def stored_top(self, channel: str) -> StreamPosition | None:
        found = hotlog.top(await self._run_command(self._top_call(channel, True)))
        return None if found is None else StreamPosition(*found)

    def _top_call(self, channel: str, stored: bool) -> Callable[[Incarnation], Call]:
        if stored:
            return lambda incarnation: hotlog.stored_top_call(channel, incarnation.token, writes=self._gate.writes)
        return lambda incarnation: hotlog.hot_top_call(
            channel, incarnation.generation, self._meta_ttl_s, writes=self._gate.writes
        )

    async def read(
        self, channel: str, *, since_offset: int, limit: int, reverse: bool, stored: bool, max_bytes: int
    ) -> HistoryPage | None:
        def call(incarnation: Incarnation) -> Call:
            return hotlog.read_call(
                channel,
                stored=stored,
                incarnation=incarnation.token if stored else incarnation.generation,
                since_offset=since_offset,
                limit=limit,
                reverse=reverse,
                max_bytes=max_bytes,
                writes=self._gate.writes,
            )

        page = hotlog.page(await self._run_command(call))
        if page is None:
            return None
        publications = [codec.decode(payload, offset) for offset, payload in page.entries]
        return HistoryPage(publications, StreamPosition(page.top, page.epoch))

    async def reset(self, channel: str, epoch: str) -> None:
        await self._run_command(lambda incarnation: hotlog.reset_call(channel, epoch, incarnation.generation))

    async def remove_history(self, channel: str) -> None:
        generation = self._gate.generation
        (reply,) = await self._pipeline.run([hotlog.clear_call(channel)], timeout_s=DEADLINE_S)
        self._gate.saw(Known(generation, int(raise_for_error(reply))))

    async def _run_command(
        self, call: Callable[[Incarnation], Call] | None, *, publish: tuple[str, bytes] | None = None
    ) -> Any:
        """Queue a script call or a PUBLISH for the next batch; return its reply."""
        work = OtherCommand(call, publish, asyncio.get_running_loop().create_future())
        self._submit(work)
        return await work.future

    def _submit(self, work: Append | OtherCommand) -> None:
        if asyncio.get_running_loop().time() - self._failed_at < _BREAK_S:
            raise Unavailable("Redis does not answer")
        self._queue.put(work)

    def _flush(self) -> None:
        if len(self._tasks) < _IN_FLIGHT and (batch := self._queue.take()):
            task = asyncio.get_running_loop().create_task(self._round_trip(batch))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._queue.wake()

    async def _round_trip(self, batch: list[Append | OtherCommand]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        _ITEMS.observe(len(batch))
        try:
            try:
                await self._sender.send(batch)
            except Unavailable as error:
                if loop.time() - started > DEADLINE_S / 2:
                    raise
                # The connection broke. Repeat everything except appends without a key, and PUBLISH (settled already).
                if not isinstance(error, NotSent):
                    give_up_unkeyed(batch, error)
                await asyncio.sleep(0.05)
                await self._sender.send(batch)
            self._failed_at = _NEVER  # although another batch may have failed just now
        except Unavailable as error:
            self._failed_at = loop.time()
            for work in batch:
                if not work.future.done():
                    work.future.set_exception(Unavailable(str(error)))
        except Exception as error:
            logger.exception("a batch for Redis failed")
            for work in batch:
                if not work.future.done():
                    work.future.set_exception(Unavailable(repr(error)))
        finally:
            _SECONDS.observe(loop.time() - started)

    def _on_redis_time(self, unix_s: float) -> None:
        self._clock.sync(unix_s)
        self._on_time(unix_s)

    def _connected(self, again: bool) -> None:
        if self._dispatcher is not None:
            self._dispatcher.connected(again)

    def _on_new_incarnation(self, on_incarnation: Callable[[], None]) -> None:
        """Go on with an incarnation of Redis that was just found to be whole."""
        self._failed_at = _NEVER  # a failure of the last incarnation says nothing about this one
        self._connected(True)
        self.leases.renew_now()
        on_incarnation()
        self._reading = asyncio.get_running_loop().create_task(self._read_revocations())

    async def _read_revocations(self) -> None:
        with contextlib.suppress(Unavailable):  # else it is read with the next connection
            await self.revocation_log.read_again()

    def _message(self, channel: bytes, payload: bytes) -> None:
        if self._dispatcher is not None:
            self._dispatcher.message(channel, payload)


def _no_reply() -> Unavailable:
    return Unavailable("Redis did not answer in time")
