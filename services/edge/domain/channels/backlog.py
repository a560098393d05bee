"""Publications that wait for one log: how many they are, and how quickly the log takes them.

`publish_admission.py` says what this is for. Nothing here knows what a log is, or what time it is: times are passed in.
"""

from __future__ import annotations

import math

ASSUMED_PER_S = 3_000.0  # while nothing is known
_ASSUMED_LATENCY_S = 0.003  # the least that is reckoned with
_LEAST_PER_S = 0.1
_WINDOW_S = 0.1  # at least so long is measured at a time
_SILENT_S = 0.5  # without a single answer: that is a measurement, too
_MEMORY_S = 0.5  # what was measured is worth 37 % after so long
_IDLE_MEMORY_S = 1.0  # the same while nothing is in flight: what was, is forgotten within about 2 s
_SLOW, _LONG = 0.1, 0.25  # of the longest wait: answers are slow from the first on, waits long from the second
_CALM_S = 1.0  # waits shorter than the first for so long: the strain is over


class Backlog:
    """Counts what waits, and measures in windows of 0.1 s or more.

    A log that answers slowly shows what it can do: `per_s` follows the answers that came in the window. One that
    answers quickly could do more: then they are the least that it can do, and `per_s` goes back to the assumed rate.

    A window ends when somebody asks (`look`), and not with an answer: answers come in batches, and the first of a batch
    is no measurement. Without any answer it ends with a `tick` only: while thousands of commands are being read, the
    event loop has no turn for the answers, and for the timer neither.
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
        self.in_flight = 0  # handed to the log, not answered yet
        self.waiting = 0  # these, and those in the queues of their clients
        self.per_s = ASSUMED_PER_S  # that the log takes
        self.latency_s = _ASSUMED_LATENCY_S  # from the handing over to the answer, lately
        self.wait_s = 0.0  # the same with the queues, in the last window
        self.strained_since = math.inf  # the wait was long then, and has not been short for a while since
        self._max_wait_s = max_wait_s
        self._window_at = now  # when the window began
        self._answered, self._took_s = 0, 0.0  # in the window: how many, and how long they took in sum
        self._busy_s = 0.0  # of the window in which some were in flight, up to the last time that none was
        self._busy_since = self._moved_at = now  # moved: an answer came, or the first was handed over
        self._long_at = now  # when the wait was last not short

    def began(self, now: float) -> None:
        """One is handed over."""
        if not self.in_flight:
            self._busy_since = self._moved_at = now
        self.in_flight += 1

    def ended(self, now: float, took_s: float) -> None:
        """It was answered."""
        self.in_flight -= 1
        self._answered += 1
        self._took_s += took_s
        self._moved_at = now
        if not self.in_flight:
            self._busy_s += now - max(self._busy_since, self._window_at)

    def silent_s(self, now: float) -> float:
        """For how long no answer has come although some are due."""
        return now - self._moved_at if self.in_flight else 0.0

    def look(self, now: float) -> None:
        """Somebody wants to know: take note of the answers so far."""
        if now - self._window_at >= _WINDOW_S and (self._answered or not self.in_flight):
            self._end_window(now)

    def tick(self, now: float) -> None:
        """Called by a timer: the event loop had its turn at every answer that was there."""
        if self._answered or not self.in_flight:
            self.look(now)
        elif now - max(self._moved_at, self._window_at) >= _SILENT_S:
            self._end_window(now)

    def _end_window(self, now: float) -> None:
        window_s, answered = now - self._window_at, self._answered
        busy_s = self._busy_s + (now - max(self._busy_since, self._window_at) if self.in_flight else 0.0)
        if busy_s > 0:
            self._learn(now, window_s, busy_s)
        self._forget(window_s - busy_s)
        # Little's law: the mean wait is what waits, over what is answered in a second.
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
        """Nothing was in flight for so long: what was known grows old."""
        if idle_s > 0:
            old = math.exp(-idle_s / _IDLE_MEMORY_S)
            self.latency_s = max(self.latency_s * old, _ASSUMED_LATENCY_S)
            self.per_s = ASSUMED_PER_S + (self.per_s - ASSUMED_PER_S) * old
