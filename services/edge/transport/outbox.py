"""Send queues of the connections, and the rounds in which they are written.

**Purpose.** Most of what a delivery costs is the system call. So frames are not written one by one: each connection
queues its frames in an `Outbox`, and one `Flusher` per event loop writes all outboxes that hold something, in rounds.
A client that reads slowly must not fill the memory, and must not be closed for what it asked for itself.

**Rounds.** A round begins at the end of the loop's tick in which a frame was queued. It writes each outbox once, in
writes of at most 64 KiB, and gives other callbacks a turn after every 1,000 outboxes. Then the flusher rests:

1. for 8 times as long as the round took, so that writing takes a ninth of the time, but
2. only until `max_interval_s` after the begin of the round, so that no frame waits for long, but
3. at least for as long as the round took (`max_interval_s` at most): writing takes no more than about half of the time
   unless one round takes longer than `max_interval_s`.

**Example** (`max_interval_s` is 25 ms). A round of 1 ms is followed by 8 ms of rest; one of 5 ms by 20 ms, which is the
bound; one of 20 ms by 20 ms; one of 40 ms by 25 ms. A round of less than 0.06 ms is followed by no rest at all.

**Bounds.** They apply while asyncio's transport has reported that its buffer is full (64 KiB). Before that, everything
leaves with the next write, so nothing is counted.

* *Pushes*, which others caused, are bounded for each outbox (`max_outbox_bytes`). Beyond: `outbox_full`.
* *Replies*, which the client asked for, are not counted there. While more than 64 KiB of them wait, `replies_wait` is
  true, and the session handles no further command of that client. `replies_taken` says when it may go on.
* *Total*: all outboxes together, with replies (`max_total_bytes`). Beyond, an outbox that queues over 64 KiB is full.
* *Ephemeral events* (`has_room_for`) may only take the first quarter of either bound; replies count, too. Beyond, they
  are dropped: a client that reads slowly loses them long before it loses anything else.

**Trade-offs.** A push may wait for up to `max_interval_s` on a busy edge. A reply of up to 4 KiB is counted as a push
while the transport takes everything, because this is cheaper. See docs/decisions/0011.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from services.edge.transport.metrics import TransportCounters

HIGH_WATER_BYTES = 65_536  # bytes in the buffer of asyncio's transport from which on frames wait in the outbox
REPLIES_WAIT_BYTES = 65_536  # bytes of waiting replies from which on the client's next command waits
SMALL_REPLY_BYTES = 4_096  # a smaller reply counts as a push while the transport takes everything: less work
_WRITE_BYTES = 65_536  # largest write, bytes; a longer frame is written alone
_FLUSHES_PER_CALL = 1_000  # outboxes per callback (about 4 ms), then other callbacks of the loop get a turn
_REST = 8  # length of a rest, in durations of the round before it: writing takes a ninth of the time
_QUARTER = 4  # ephemeral events may take a bound's share of one in so many
_SHORTEST_REST_S = 0.0005  # shorter rests are skipped, seconds: the loop's timers are rounded up to a millisecond


class Flusher:
    """Writes the outboxes of one event loop in rounds, and counts what they hold.

    Args:
        max_outbox_bytes: Bound of the pushes in one outbox.
        max_total_bytes: Bound of all outboxes together; beyond it, an outbox that queues over 64 KiB is full.
        max_interval_s: Longest rest after a round. See "Rounds" in the module docstring.
        clock: Returns seconds; where they begin does not matter.
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
        self._began = 0.0  # when the present round began, by `clock`; 0: no round is under way
        self._took_s = 0.0  # time spent in the present round, without the turns of other callbacks
        self._dirty: deque[Outbox] = deque()
        self._scheduled = False
        self.counters = counters
        self.held_bytes = 0  # bytes held for clients that read slowly, those in the transports' buffers included
        self.max_outbox_bytes = max_outbox_bytes
        self.max_total_bytes = max_total_bytes

    def mark(self, outbox: Outbox) -> None:
        """Write this outbox in the next round."""
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
    """Send queue of one connection.

    Subclasses implement what happens when it is full, when its last frame is written and when its replies are taken.
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
        self._queued = 0  # bytes of `_frames`
        self._has_last = False  # `put_last` was called
        self._paused = False  # the transport's buffer is full
        self._held = 0  # bytes in the transport's buffer when it became full
        self._written = 0  # bytes handed to the transport since the connection began
        self._replies: deque[tuple[int, int]] | None = None  # waiting replies: (`_written` once it is written, size)
        self._reply_bytes = 0  # bytes of `_replies`
        self.replies_wait = False  # `_reply_bytes` is above `REPLIES_WAIT_BYTES`
        self.marked = False  # the flusher will write this outbox in its next round

    def put(self, frame: bytes) -> None:
        """Queue a push; calls `outbox_full` when that exceeds a bound."""
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
            self.flush()  # so that a lot of data within one tick is not taken for a slow client
        elif not self.marked:
            self.marked = True
            flusher.mark(self)

    def has_room_for(self, frame: bytes) -> bool:
        """Return whether an ephemeral event may be queued; count it if it is dropped."""
        if not self._paused:
            return True
        flusher, size = self._flusher, len(frame)
        if (
            _QUARTER * (self._queued + size) <= flusher.max_outbox_bytes
            and _QUARTER * (flusher.held_bytes + size) <= flusher.max_total_bytes
        ):
            return True
        flusher.counters.ephemeral_dropped += 1
        return False

    def _queued_pushes(self) -> int:
        """Return the bytes in the queue that are pushes, not replies."""
        return self._queued - sum(size for end, size in self._replies or () if end > self._written)

    def put_reply(self, frame: bytes) -> None:
        """Queue a frame that the client asked for; updates `replies_wait`."""
        size = len(frame)
        if self._paused or size > SMALL_REPLY_BYTES:
            if self._replies is None:
                self._replies = deque()
            self._replies.append((self._written + self._queued + size, size))
            self._reply_bytes += size
        self.put(frame)
        self.replies_wait = self._reply_bytes > REPLIES_WAIT_BYTES  # after `put`, which may have written it already

    def put_last(self, frame: bytes) -> None:
        """Queue the last frame, whatever the bounds say.

        `outbox_empty` is called once it is written.
        """
        self._has_last = True
        self._frames.append(frame)
        self._queued += len(frame)
        if self._paused:
            self._flusher.held_bytes += len(frame)
        elif not self.marked:
            self.marked = True
            self._flusher.mark(self)

    def flush(self) -> None:
        """Write until the queue is empty or the transport's buffer is full."""
        frames = self._frames
        if not frames or self._paused:
            return
        transport = self._transport
        if transport.is_closing():
            self.drop_queue()
            return
        if self._queued <= _WRITE_BYTES:  # nearly always; the same as `_write`, inlined because it is the hot path
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
        """Stop counting replies that are written; may call `replies_taken`.

        While the transport's buffer is full, its content does not count as written.
        """
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
        """Write the first frames of the queue.

        The transport may call `pause_writing` during the write.
        """
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
        """Discard what is queued."""
        if self._paused:
            self._flusher.held_bytes -= self._queued
        self._frames.clear()
        self._queued = 0
        self._replies = None
        self._reply_bytes = 0
        self.replies_wait = False

    def release(self) -> None:
        """Discard everything and take it off the flusher's count: the connection is over."""
        self.drop_queue()
        self.resume_writing()

    def pause_writing(self) -> None:
        """Called by asyncio: the transport's buffer holds more than `HIGH_WATER_BYTES`."""
        self._paused = True
        self._held = self._transport.get_write_buffer_size()
        self._flusher.held_bytes += self._held + self._queued

    def resume_writing(self) -> None:
        """Called by asyncio: the transport's buffer has room again."""
        if self._paused:
            self._paused = False
            self._flusher.held_bytes -= self._held + self._queued
            self._held = 0
            self.flush()
            if self._replies is not None:
                self._forget_replies()

    def outbox_full(self) -> None:
        """Called when the queue exceeds its bound."""
        raise NotImplementedError

    def replies_taken(self) -> None:
        """Called when `replies_wait` has become false."""
        raise NotImplementedError

    def outbox_empty(self) -> None:
        """Called when everything is written, the frame of `put_last` included."""
        raise NotImplementedError
