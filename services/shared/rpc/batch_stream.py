"""Sends items to another service in batches, over one gRPC stream per replica.

**Purpose.** An edge appends many publications per second through persistence. A gRPC message costs CPU on both sides,
whatever is in it. Items that arrive while batches are in flight are therefore collected, and leave together as the next
batch (group commit). Batches grow with the load by themselves; with nothing in flight an item leaves at once.

**Rules.**

* There is one bidirectional stream to every replica. The next batch goes to the connected replica with the fewest
  batches that it has not taken over yet, and to none that has two of those.
* A replica takes the items of a stream in order, says how many it has taken over, and answers each item when its result
  is known. Between replicas there is no order: a caller that needs one submits the next item after the result.
* Items must be idempotent. When a stream breaks, its unanswered items go back to the front of the queue, in order, with
  their deadlines unchanged. They are sent again, to another replica or to the same one after it is back.
* Every item has a deadline (`deadline_s`). After it the caller gets `Unavailable`, and the outcome is unknown.
* A stream with batches in flight that says nothing counts as broken: after half the deadline if another replica is
  connected, which could still answer in time, else after the whole deadline.
* A replica on whose stream nothing came in time is not used until it answers a probe (`breaker`, which single calls
  share). If no replica can be used, or the last attempt to connect failed for every one, `submit` raises `Unavailable`
  at once.
* `max_waiting` items may wait, sent or not; beyond that `submit` raises `Busy`.
* If the repeat of an item is refused with `Busy`, its caller gets `Unavailable`: the first one may have been done.

**Example.** Two batches are in flight and the only replica has taken over neither. 700 callers submit meanwhile. When
the replica takes over the first batch, 256 of the 700 leave as one batch; the rest follows as the replica goes on.

**Trade-offs.** Items may be executed twice after a break, so they need idempotency keys. `linger` adds a short wait
under load for larger batches: less CPU per item, a little more latency.

Decision: docs/decisions/0010 (linger). See also docs/architecture.md, "gRPC is batched".
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc

from services.shared.batching.batcher import Batcher
from services.shared.batching.linger import Linger
from services.shared.errors import Busy, Unavailable
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import is_being_cancelled
from services.shared.process.metrics import client_metrics
from services.shared.rpc.channel import IdentifiedChannel
from services.shared.rpc.replicas import Replicas

logger = logging.getLogger(__name__)

_CONNECT_S = 1.0  # longest time to open a stream, seconds
_MAX_IN_FLIGHT = 2  # batches of one stream that the replica has not taken over
_PAUSE_S = (0.05, 0.5)  # pause before reconnecting, seconds: the first one, and the longest after doubling

Item = TypeVar("Item")
Result = TypeVar("Result")


class _State(enum.Enum):
    TRYING = enum.auto()  # new or just lost; the first attempt to connect is under way
    CONNECTED = enum.auto()
    FAILED = enum.auto()  # the last attempt to connect failed; it is repeated


class _Waiting(Generic[Item, Result]):
    """One item and the future of its result."""

    __slots__ = ("future", "is_repeat", "item")

    def __init__(self, item: Item, future: asyncio.Future[Result]) -> None:
        self.item = item
        self.future = future
        self.is_repeat = False  # it was sent over a stream that broke, and may have been done there


class _Batch:
    """A batch in flight: its last item's number, and how many items lack a result."""

    __slots__ = ("last", "left", "sent_at")

    def __init__(self, last: int, left: int, sent_at: float) -> None:
        self.last = last
        self.left = left
        self.sent_at = sent_at


class _Stream(Generic[Item, Result]):
    """The stream to one replica, with the batches in flight on it, oldest first."""

    def __init__(self, address: str, channel: IdentifiedChannel) -> None:
        self.address = address
        self.channel = channel
        self.state = _State.TRYING
        self.lacks_method = False  # the replica said so when it was last asked to open the stream
        self.retired = False  # the address is gone: await the results in flight, send nothing new
        self.batches: deque[_Batch] = deque()  # batches that lack a result
        self.in_flight: dict[int, tuple[_Waiting[Item, Result], _Batch]] = {}  # by the number of the item
        self.sent = self.taken = 0  # items sent and taken over since it was opened
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue()  # batches to write; None ends the stream
        self.silence: asyncio.Timeout | None = None
        self.received_at = 0.0
        self.fruitful = False  # has answered an item since it was opened
        self.last_sent = 0.0
        self.task: asyncio.Task[None] | None = None

    @property
    def untaken(self) -> int:
        """How many batches the replica has not confirmed to have taken over."""
        return sum(batch.last >= self.taken for batch in self.batches)


class BatchStream(Generic[Item, Result]):
    """Sends items in batches to the replicas of a service. See the module."""

    def __init__(
        self,
        replicas: Replicas,
        *,
        open: Callable[[grpc.aio.Channel], Any],
        pack: Callable[[Sequence[Item]], Any],
        unpack: Callable[[Any], tuple[int, Sequence[tuple[int, Result | Exception]]]],
        size: Callable[[Item], int],
        max_items: int = 256,
        max_bytes: int = 1 << 20,
        max_waiting: int = 10_000,
        deadline_s: float = 3.0,
        linger: Linger | None = None,
    ) -> None:
        """Set up the queue; opens no stream yet. Needs a running event loop.

        Args:
            replicas: The replicas to send to.
            open: Returns the method of a channel: `lambda channel: Stub(channel).Append`.
            pack: Makes one request message of the items of a batch.
            unpack: Returns how many items of the stream the replica has taken over, and results by the number of their
                item, counted from 0. A result that is an exception is raised to the caller of `submit`.
            size: Bytes of an item.
            max_items: Most items of a batch.
            max_bytes: Most bytes of a batch; one item alone may have more.
            max_waiting: Most items without a result, sent or not.
            deadline_s: Longest wait for a result, seconds.
            linger: How long a batch waits for more items; None: not at all.
        """
        self._replicas = replicas
        self._open, self._pack, self._unpack = open, pack, unpack
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._queue = Batcher[_Waiting[Item, Result]](
            self._flush,
            max_items=max_items,
            max_bytes=max_bytes,
            size=lambda waiting: size(waiting.item),
            max_waiting=max_waiting,
            counts_taken=True,
            deadline_s=deadline_s,
            late=lambda: self._unavailable("no response in time"),
            linger=linger or Linger(0.0),
        )
        self._streams: dict[str, _Stream[Item, Result]] = {}
        self._retired: set[_Stream[Item, Result]] = set()
        self._started = self._closed = False
        self._metrics = client_metrics(replicas.service)
        self._method = "none"

    @property
    def connected(self) -> bool:
        """Whether at least one replica is connected."""
        return any(stream.state is _State.CONNECTED for stream in self._streams.values())

    @property
    def is_served(self) -> bool:
        """Whether no replica has answered that it does not have the method.

        A replica of an older version is noticed once the stream to it was tried, and forgotten once it is gone, or has
        the method.
        """
        return not any(stream.lacks_method for stream in self._streams.values())

    async def start(self) -> None:
        """Begin to open the streams; does not wait for them. Call `Replicas.start` first."""
        self._started = True
        self._replicas.on_change(self._follow)
        self._follow()

    async def close(self) -> None:
        """End the streams. Callers that still wait get `Unavailable`."""
        self._closed = True
        streams = [*self._streams.values(), *self._retired]
        tasks = [stream.task for stream in streams if stream.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._queue.close(lambda: self._unavailable("this service is stopping"))

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Queue one item and return the future of its result.

        The future has a result within `deadline_s`. If it raises `Unavailable`, there was no response, and the
        outcome is unknown.

        Raises:
            Busy: too many items wait already; nothing was done.
            Unavailable: no replica can be reached, or the stream is closed.
        """
        if self._closed or self._is_down():
            raise Unavailable(f"nobody answers at {self._replicas.target}")
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.put(_Waiting(item, future))
        return future

    def _is_down(self) -> bool:
        """Whether no replica can be reached at the moment."""
        return self._started and all(
            stream.state is _State.FAILED or stream.channel.breaker.is_open for stream in self._streams.values()
        )

    # Sending.

    def _flush(self) -> None:
        while self._queue and (stream := self._least_busy()) is not None:
            items = self._queue.take()
            if not items:
                return
            try:
                message = self._pack([waiting.item for waiting in items])
            except Exception as error:  # a fault in `pack`: its callers get it, the stream goes on
                for waiting in items:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
                continue
            now = self._loop.time()
            batch = _Batch(stream.sent + len(items) - 1, len(items), now)
            stream.batches.append(batch)
            for number, waiting in enumerate(items, stream.sent):
                stream.in_flight[number] = (waiting, batch)
            stream.sent += len(items)
            stream.last_sent = now
            stream.outgoing.put_nowait(message)
            self._watch(stream)
            self._metrics.batch_items.labels(self._method).observe(len(items))

    def _least_busy(self) -> _Stream[Item, Result] | None:
        """Return the stream that gets the next batch; None if all have enough to do."""
        room = [
            stream
            for stream in self._streams.values()
            if stream.state is _State.CONNECTED and stream.untaken < _MAX_IN_FLIGHT
        ]
        return min(room, key=lambda stream: (stream.untaken, len(stream.batches), stream.last_sent), default=None)

    # Waiting.

    def _on_response(
        self, stream: _Stream[Item, Result], taken: int, results: Sequence[tuple[int, Result | Exception]]
    ) -> None:
        now = stream.received_at = self._loop.time()
        stream.taken = max(stream.taken, taken)
        for number, result in results:
            if number not in stream.in_flight:
                raise _BrokenStream("a response that fits no item")
            waiting, batch = stream.in_flight.pop(number)
            stream.fruitful = True
            if not waiting.future.done():
                if waiting.is_repeat and isinstance(result, Busy):
                    result = self._unavailable("refused after a stream was lost; the outcome is unknown")
                if isinstance(result, Exception):
                    waiting.future.set_exception(result)
                else:
                    waiting.future.set_result(result)
            batch.left -= 1
            if not batch.left:
                stream.batches.remove(batch)
                self._metrics.seconds.labels(self._method).observe(now - batch.sent_at)
        self._watch(stream)
        self._queue.wake()

    def _watch(self, stream: _Stream[Item, Result]) -> None:
        """Set when the stream counts as silent and is given up.

        Earlier if another replica is connected, which could still answer in time.
        """
        if stream.silence is not None and not stream.silence.expired():
            others = any(other is not stream and other.state is _State.CONNECTED for other in self._streams.values())
            limit_s = self._deadline_s / 2 if others else self._deadline_s
            since = max(stream.received_at, stream.batches[0].sent_at) if stream.batches else None
            stream.silence.reschedule(None if since is None else since + limit_s)

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(f"{self._method} at {self._replicas.target}: {why}")

    # Streams.

    def _follow(self) -> None:
        """Open streams to new addresses, and retire streams to addresses that are gone."""
        if self._closed:
            return
        channels = self._replicas.channels
        for address in [one for one, stream in self._streams.items() if channels.get(one) is not stream.channel]:
            stream = self._streams.pop(address)
            stream.retired = True
            self._retired.add(stream)
            if stream.task is not None and not stream.in_flight:
                stream.task.cancel()
        for address, channel in channels.items():
            if address not in self._streams:
                stream = _Stream[Item, Result](address, channel)
                self._streams[address] = stream
                stream.task = self._loop.create_task(self._keep_open(stream))

    async def _keep_open(self, stream: _Stream[Item, Result]) -> None:
        """Keep the stream of a replica open until its address is gone."""
        try:
            await self._reconnect(stream)
        finally:
            self._retired.discard(stream)

    async def _reconnect(self, stream: _Stream[Item, Result]) -> None:
        backoff = Backoff(*_PAUSE_S)
        while not stream.retired:
            stream.fruitful = False
            await stream.channel.breaker.wait_closed()
            lacks_method = False
            try:
                await self._run(stream)
                why = "ended by the server"
            except (grpc.aio.AioRpcError, TimeoutError, _BrokenStream, asyncio.InvalidStateError) as error:
                why = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error) or "silent"
                lacks_method = why == grpc.StatusCode.UNIMPLEMENTED.name
                if isinstance(error, TimeoutError):
                    stream.channel.breaker.failed()
            except Exception as error:  # a fault in `open` or `unpack`: logged as an error, then tried again
                logger.exception("stream failed", extra={"address": stream.address})
                why = repr(error)
            stream.lacks_method = lacks_method
            self._on_lost(stream, why)
            if stream.fruitful:
                backoff.reset()
                continue
            # Also if the stream could be opened: a server that fails every batch must not be asked without a pause.
            await asyncio.sleep(backoff.next_s())

    async def _run(self, stream: _Stream[Item, Result]) -> None:
        """Open the stream and use it until it ends.

        Returns when the server ends it; raises when it breaks.
        """
        method = self._open(stream.channel)
        stream.outgoing = asyncio.Queue()
        stream.sent = stream.taken = 0
        call = method(_requests(stream.outgoing))
        self._method = stream.channel.method
        try:
            async with asyncio.timeout(_CONNECT_S):
                await call.initial_metadata()  # the server sends it as soon as it accepts the stream
            if call.done():
                await call.read()  # raises the status
                return
            stream.state = _State.CONNECTED
            stream.lacks_method = False
            logger.info("stream open", extra={"method": self._method, "address": stream.address})
            self._queue.wake()
            async with asyncio.timeout(None) as stream.silence:
                while not (stream.retired and not stream.in_flight):
                    response = await call.read()
                    if response is grpc.aio.EOF:
                        return
                    self._on_response(stream, *self._unpack(response))
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            raise _BrokenStream("cancelled") from error  # grpc.aio also raises this for a call that ended by itself
        finally:
            stream.silence = None
            stream.outgoing.put_nowait(None)
            call.cancel()

    def _on_lost(self, stream: _Stream[Item, Result], why: str) -> None:
        """Put the items without a result back to the front of the queue; note the state."""
        unanswered = [waiting for waiting, _ in stream.in_flight.values()]
        for waiting in unanswered:
            waiting.is_repeat = True
        again = self._queue.put_back(unanswered)
        stream.in_flight.clear()
        stream.batches.clear()
        if stream.state is not _State.FAILED:  # a repeated failure is logged once
            logger.warning(
                "stream lost" if stream.state is _State.CONNECTED else "no stream",
                extra={"method": self._method, "address": stream.address, "why": why, "repeated_items": again},
            )
        stream.state = _State.TRYING if stream.state is _State.CONNECTED else _State.FAILED
        if again:
            self._metrics.repeated.labels(self._method).inc(again)


class _BrokenStream(Exception):
    """The stream can't be used any longer."""


async def _requests(outgoing: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """Yield the messages to write until None comes."""
    while (message := await outgoing.get()) is not None:
        yield message
