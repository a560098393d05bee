"""Counts the publications that wait for one log, and measures the log's rate.

`publish_admission.py` uses this to decide whether one more publication may wait. There is no I/O here, and the caller
passes the time in.
"""

from __future__ import annotations

import math

ASSUMED_PER_S = 3_000.0  # publications per second, while nothing is measured
_ASSUMED_LATENCY_S = 0.003  # seconds; the estimate never goes below
_LEAST_PER_S = 0.1  # publications per second; the estimate never goes below
_WINDOW_S = 0.1  # shortest measurement, seconds
_SILENT_S = 0.5  # seconds without any reply, after which the absence of replies counts as a measurement
_MEMORY_S = 0.5  # seconds after which an old measurement has a weight of 37 % (1/e), while publications are in flight
_IDLE_MEMORY_S = 1.0  # the same while none is in flight: an old measurement is forgotten within about 2 s
_SLOW, _LONG = 0.1, 0.25  # shares of the longest wait: replies above the first are slow, waits above the second long
_CALM_S = 1.0  # seconds of waits below `_SLOW`, after which the strain is over


class Backlog:
    """Publications that wait for one log, and estimates of the log's rate and latency.

    It measures in windows of at least 0.1 s. If replies are slow, the log is busy: `per_s` follows the rate of replies
    in the window. If replies are quick, the log could do more than it was asked for: their rate is only a lower bound,
    and `per_s` returns to the assumed rate.

    A window ends when somebody calls `update`, not when a reply comes: replies come in batches, and the time until
    the first one of a batch is no measurement. A window without any reply ends only with a `tick`. While the edge
    reads thousands of commands, the event loop handles neither replies nor timers, so the absence of replies means
    nothing; a `tick` shows that the loop has had its turn.
    """

    __slots__ = (
        "_answered",
        "_busy_s",
        "_busy_since",
        "_long_at",
        "_max_wait_s",
        "_moved_at",
        "_took_s",
        "_window_at",
        "in_flight",
        "latency_s",
        "per_s",
        "strained_since",
        "wait_s",
        "waiting",
    )

    def __init__(self, max_wait_s: float, now: float) -> None:
        self.in_flight = 0  # publications handed to the log and not answered yet
        self.waiting = 0  # publications in flight and in the queues of their clients
        self.per_s = ASSUMED_PER_S  # estimate: publications that the log can take per second
        self.latency_s = _ASSUMED_LATENCY_S  # estimate: seconds from the hand-over to the log until its reply
        self.wait_s = 0.0  # mean wait in the last window, seconds, with the time in the queue of the client
        self.strained_since = math.inf  # when the wait became long; inf: it has been short for `_CALM_S`
        self._max_wait_s = max_wait_s
        self._window_at = now  # start of the window
        self._answered, self._took_s = 0, 0.0  # in the window: number of replies, and sum of their latencies
        self._busy_s = 0.0  # seconds of the window with publications in flight, up to the last time that none was
        # Start of the current busy time; and when the last reply came, or a busy time began.
        self._busy_since = self._moved_at = now
        self._long_at = now  # when the wait was last above `_SLOW`

    def began(self, now: float) -> None:
        """Count a publication that is handed to the log."""
        if not self.in_flight:
            self._busy_since = self._moved_at = now
        self.in_flight += 1

    def ended(self, now: float, took_s: float) -> None:
        """Count the reply to a publication that took `took_s` seconds."""
        self.in_flight -= 1
        self._answered += 1
        self._took_s += took_s
        self._moved_at = now
        if not self.in_flight:
            self._busy_s += now - max(self._busy_since, self._window_at)

    def silent_s(self, now: float) -> float:
        """Return for how many seconds no reply has come, 0 if none is outstanding."""
        return now - self._moved_at if self.in_flight else 0.0

    def update(self, now: float) -> None:
        """Update the estimates if the window is long enough, and has replies or is idle.

        Called whenever somebody is about to use the estimates.
        """
        if now - self._window_at >= _WINDOW_S and (self._answered or not self.in_flight):
            self._end_window(now)

    def tick(self, now: float) -> None:
        """Update the estimates; called by a timer.

        The event loop has handled all replies that had arrived. So if there are none, the log has been silent.
        """
        if self._answered or not self.in_flight:
            self.update(now)
        elif now - max(self._moved_at, self._window_at) >= _SILENT_S:
            self._end_window(now)

    def _end_window(self, now: float) -> None:
        window_s, answered = now - self._window_at, self._answered
        busy_s = self._busy_s + (now - max(self._busy_since, self._window_at) if self.in_flight else 0.0)
        if busy_s > 0:
            self._learn(now, window_s, busy_s)
        self._forget(window_s - busy_s)
        # Little's law: mean wait = number waiting / replies per second.
        self.wait_s = self.waiting * window_s / answered if answered else self.silent_s(now)
        if self.wait_s > _LONG * self._max_wait_s:
            self.strained_since = min(self.strained_since, now)
        if self.wait_s > _SLOW * self._max_wait_s:
            self._long_at = now
        elif now - self._long_at >= _CALM_S:
            self.strained_since = math.inf
        self._window_at, self._answered, self._took_s, self._busy_s = now, 0, 0.0, 0.0

    def _learn(self, now: float, window_s: float, busy_s: float) -> None:
        answered = self._answered
        latency_s = self._took_s / answered if answered else self.silent_s(now)
        old = math.exp(-busy_s / _MEMORY_S)
        self.latency_s = max(latency_s + (self.latency_s - latency_s) * old, _ASSUMED_LATENCY_S)
        if latency_s >= _SLOW * self._max_wait_s:
            measured = answered / busy_s
            self.per_s = max(measured + (self.per_s - measured) * old, _LEAST_PER_S)
        else:
            self.per_s = max(ASSUMED_PER_S + (self.per_s - ASSUMED_PER_S) * old, answered / window_s)

    def _forget(self, idle_s: float) -> None:
        """Move the estimates towards the assumed values, for `idle_s` idle seconds."""
        if idle_s > 0:
            old = math.exp(-idle_s / _IDLE_MEMORY_S)
            self.latency_s = max(self.latency_s * old, _ASSUMED_LATENCY_S)
            self.per_s = ASSUMED_PER_S + (self.per_s - ASSUMED_PER_S) * old
