"""Queues of frames to clients: one write per connection and round, bounded for each and for all together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from services.edge.transport.metrics import TransportCounters

HIGH_WATER_BYTES = 65_536  # in the buffer of asyncio's transport; beyond, frames wait here
REPLIES_WAIT_BYTES = 65_536  # of what a client asked for; while more waits, it should not ask for more
SMALL_REPLY_BYTES = 4_096  # while the transport takes all, such are treated as pushes: it is less work
_WRITE_BYTES = 65_536  # at most in one write, unless a frame is longer
_FLUSHES_PER_CALL = 1_000  # then other callbacks of the loop get their turn: about 4 ms
_REST = 8  # times what a round took: writing takes a ninth of the time, until rounds are as far apart as they may be
_SHORTEST_REST_S = 0.0005  # what is longer, the timers of the loop round up to a millisecond


class Flusher:
    """Writes what the outboxes of one event loop hold, in rounds, and counts what all hold back.

    A round comes at the end of the tick in which something was queued; after one that took long, the next waits, so
    that more leaves with each write: most of what a delivery costs is the system call. How far apart rounds begin is
    bounded, so two edges with half the clients each write as rarely as one with all. Where writing would then take more
    than half of the time, a round waits for as long as the one before took, while that is no longer than allowed.

    Args:
        max_outbox_bytes: Bound of one outbox.
        max_total_bytes: Bound of all; beyond, an outbox over 64 KiB is over its bound, too.
        max_interval_s: No rest goes on when the round before began this long ago, nor is one longer than this.
        clock: Seconds, from whenever.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_dirty",
        "_loop",
        "_max_interval_s",
        "_rest_until",
        "_scheduled",
        "_took_s",
        "counters",
        "held_bytes",
        "max_outbox_bytes",
        "max_total_bytes",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        counters: TransportCounters,
        *,
        max_outbox_bytes: int,
        max_total_bytes: int,
        max_interval_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._max_interval_s = max_interval_s
        self._rest_until = 0.0
        self._began = 0.0  # this round; 0: none is under way
        self._took_s = 0.0  # so far: others had their turns meanwhile
        self._dirty: deque[Outbox] = deque()
        self._scheduled = False
        self.counters = counters
        self.held_bytes = 0  # of clients that read slowly; what leaves within the tick is not counted
        self.max_outbox_bytes = max_outbox_bytes
        self.max_total_bytes = max_total_bytes

    def mark(self, outbox: Outbox) -> None:
        """Flush this outbox in the next round."""
        self._dirty.append(outbox)
        if not self._scheduled:
            self._scheduled = True
            rest_s = self._rest_until - self._clock() if self._rest_until else 0.0
            if rest_s >= _SHORTEST_REST_S:
                self._loop.call_later(rest_s, self._flush)
            else:
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        began = self._clock()
        self._began = self._began or began
        dirty = self._dirty
        for _ in range(min(len(dirty), _FLUSHES_PER_CALL)):
            outbox = dirty.popleft()
            outbox.marked = False
            outbox.flush()
        now = self._clock()
        self._took_s += now - began
        if dirty:
            self._loop.call_soon(self._flush)
            return
        took_s, longest_s = self._took_s, self._max_interval_s
        rest_s = min(took_s * _REST, max(self._began + longest_s - now, min(took_s, longest_s)))
        self._rest_until = now + rest_s if rest_s >= _SHORTEST_REST_S else 0.0
        self._began = self._took_s = 0.0
        self._scheduled = False


class Outbox:
    """What one connection is still to be sent. Subclasses say what happens when it runs full or empty.

    What the client asked for (`put_reply`) does not count towards the bound of its outbox: it is no sign of slowness.
    In place of a bound, the client may be kept from asking for more while `replies_wait`.
    """

    __slots__ = (
        "_flusher",
        "_frames",
        "_has_last",
        "_held",
        "_paused",
        "_queued",
        "_replies",
        "_reply_bytes",
        "_transport",
        "_written",
        "marked",
        "replies_wait",
    )

    def __init__(self, transport: asyncio.Transport, flusher: Flusher) -> None:
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._transport = transport
        self._flusher = flusher
        self._frames: list[bytes] = []
        self._queued = 0  # bytes of these frames
        self._has_last = False  # one of them is the last
        self._paused = False  # the transport takes no more
        self._held = 0  # bytes in its buffer when it said so
        self._written = 0  # bytes that were handed to the transport
        self._replies: deque[tuple[int, int]] | None = None  # that wait: where each ends, as in `_written`; its size
        self._reply_bytes = 0  # of these
        self.replies_wait = False  # more of them than `REPLIES_WAIT_BYTES`
        self.marked = False

    def put(self, frame: bytes) -> None:
        """Queue a frame; may call `outbox_full`."""
        self._frames.append(frame)
        self._queued += len(frame)
        flusher = self._flusher
        if self._paused:
            flusher.held_bytes += len(frame)
            if (self._queued > flusher.max_outbox_bytes and self._queued_pushes() > flusher.max_outbox_bytes) or (
                flusher.held_bytes > flusher.max_total_bytes and self._queued > HIGH_WATER_BYTES
            ):
                self.outbox_full()
        elif self._queued > _WRITE_BYTES:
            self.flush()  # much within one tick is no sign of a slow client
        elif not self.marked:
            self.marked = True
            flusher.mark(self)

    def _queued_pushes(self) -> int:
        """Bytes in the queue that the client has not asked for."""
        return self._queued - sum(size for end, size in self._replies or () if end > self._written)

    def put_reply(self, frame: bytes) -> None:
        """As `put`, for what the client asked for."""
        size = len(frame)
        if self._paused or size > SMALL_REPLY_BYTES:
            if self._replies is None:
                self._replies = deque()
            self._replies.append((self._written + self._queued + size, size))
            self._reply_bytes += size
        self.put(frame)
        self.replies_wait = self._reply_bytes > REPLIES_WAIT_BYTES  # what is written at once does not wait

    def put_last(self, frame: bytes) -> None:
        """Queue the last frame, whatever the bounds; `outbox_empty` tells when it is written."""
        self._has_last = True
        self._frames.append(frame)
        self._queued += len(frame)
        if self._paused:
            self._flusher.held_bytes += len(frame)
        elif not self.marked:
            self.marked = True
            self._flusher.mark(self)

    def flush(self) -> None:
        """Write until all is written or the transport takes no more."""
        frames = self._frames
        if not frames or self._paused:
            return
        transport = self._transport
        if transport.is_closing():
            self.drop_queue()
            return
        if self._queued <= _WRITE_BYTES:  # nearly always: as `_write`, with no call
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            counters = self._flusher.counters
            counters.writes += 1
            counters.frames_sent += len(frames)
            counters.bytes_sent += self._queued
            frames.clear()
            self._written += self._queued
            self._queued = 0
            transport.write(data)
        else:
            while self._frames and not self._paused:
                self._write_some()
        if self._replies is not None:
            self._forget_replies()
        if self._has_last and not self._frames:
            self.outbox_empty()

    def _forget_replies(self) -> None:
        """Count no longer what the system has taken."""
        replies = self._replies
        assert replies is not None
        taken = self._written - (self._held if self._paused else 0)
        while replies and replies[0][0] <= taken:
            self._reply_bytes -= replies.popleft()[1]
        if not replies:
            self._replies = None
        if self.replies_wait and self._reply_bytes <= REPLIES_WAIT_BYTES:
            self.replies_wait = False
            self.replies_taken()

    def _write_some(self) -> None:
        count = size = 0
        for frame in self._frames:
            if count and size + len(frame) > _WRITE_BYTES:
                break
            count += 1
            size += len(frame)
        self._write(self._frames[:count], size)

    def _write(self, frames: list[bytes], size: int) -> None:
        """Write the first frames of the queue. The transport may call `pause_writing` meanwhile."""
        count = len(frames)
        data = frames[0] if count == 1 else b"".join(frames)
        del self._frames[:count]
        self._queued -= size
        self._written += size
        counters = self._flusher.counters
        counters.writes += 1
        counters.frames_sent += count
        counters.bytes_sent += size
        self._transport.write(data)

    def drop_queue(self) -> None:
        """Forget what is queued."""
        if self._paused:
            self._flusher.held_bytes -= self._queued
        self._frames.clear()
        self._queued = 0
        self._replies = None
        self._reply_bytes = 0
        self.replies_wait = False

    def release(self) -> None:
        """The connection is over: nothing of it counts any more."""
        self.drop_queue()
        self.resume_writing()

    def pause_writing(self) -> None:
        """From asyncio: more than `HIGH_WATER_BYTES` wait in the transport."""
        self._paused = True
        self._held = self._transport.get_write_buffer_size()
        self._flusher.held_bytes += self._held + self._queued

    def resume_writing(self) -> None:
        """From asyncio: the transport has room again."""
        if self._paused:
            self._paused = False
            self._flusher.held_bytes -= self._held + self._queued
            self._held = 0
            self.flush()
            if self._replies is not None:
                self._forget_replies()

    def outbox_full(self) -> None:
        """The queue is over its bound."""
        raise NotImplementedError

    def replies_taken(self) -> None:
        """`replies_wait` is no longer true."""
        raise NotImplementedError

    def outbox_empty(self) -> None:
        """Everything has been written, the last frame, too."""
        raise NotImplementedError
