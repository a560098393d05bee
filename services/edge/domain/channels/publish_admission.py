"""Whether one more publication may wait: by how long it would, and by the bytes that wait already.

**Purpose.** A burst is taken: 1,000 clients that publish 5 times each at the same moment are through in a second. An
overload, more than fits for longer, is refused on arrival (error 111, nothing was done), so that what is accepted does
not wait long. A number of publications can't tell one from the other: 300 are few for a quick log, many for a slow one.

**How long.** Publications of one client go to their log one after the other, so of each client one is in flight. What
the log does is shared among those in flight. A publication with N of its own client ahead waits for N + 1 such turns:

    wait = (N + 1) × in flight / rate

In a burst, behind which nothing comes, not for longer than all that waits takes, `waiting / rate`. The rate is that of
`Backlog`: measured where the log is slow, assumed (3,000/s) where nothing is known.

**Rules**, of each log (Redis; the store) by itself, so that a slow store keeps nothing from Redis:

1. `bytes`: all that waits, in queues too, is at most `EDGE_MAX_PENDING_PUBLISH_BYTES`; and a client that has N bytes
   waiting needs room for 8 N more: a few large ones leave room for the others. One publication may always wait.
2. Up to 16 may wait whatever is measured. Those of other clients do not count for a client that has none.
3. `silent`: no answer has come for as long as a publication may wait.
4. `own_queue`: a client with N ≥ 8 waiting, where N times the time that answers take is more than it may wait. Under
   strain a quarter of that: deep queues are what an overload fills, and a burst does not.
5. `wait`: the wait above is more than `EDGE_MAX_PUBLISH_WAIT_S`. What comes under strain that is older than that is no
   burst.

Strain begins when publications wait for a quarter of the longest wait on average, and ends when it has been less than a
tenth for a second.

**Example.** Two edges, 500 clients with 5 each: 500 are in flight, the fifth of each waits for 5 × 500 / 3,000 = 0.8 s:
taken. An edge whose log does 200/s, 300 clients that publish: after a second the rate is known, and 50 may wait.

**Fairness.** A client that floods has one publication in flight like everybody, and its deep queue only makes itself
wait: others do not notice it, beyond what reading and refusing its commands takes.

**Trade-offs.** A log that is far and not slow (answers after more than 0.1 s) is taken for slow until its load grows:
its rate rises with what is let through, but a burst on it is refused in part. While the rate is being learned (about
half a second) more may be admitted than should be. A call of the server API counts as a client with nothing waiting.
"""

from __future__ import annotations

from services.edge.domain.channels.backlog import Backlog

ALWAYS = 16  # may wait for a log whatever it does
_FEW = 8  # of one client: a queue that is not deep
_SHARE = 8  # who has N bytes waiting needs room for more than so many times N
_UNDER_STRAIN = 0.25  # of the longest wait, for deep queues
BYTES, SILENT, OWN_QUEUE, WAIT = RULES = ("bytes", "silent", "own_queue", "wait")


class PublishAdmission:
    """Of one edge, for all of its clients and the server API. Times are seconds of any clock that only goes forward."""

    def __init__(self, *, max_wait_s: float, max_bytes: int, now: float) -> None:
        self._max_wait_s, self._max_bytes = max_wait_s, max_bytes
        self.redis = Backlog(max_wait_s, now)
        self.store = Backlog(max_wait_s, now)
        self.bytes = 0  # of what waits
        self.refused = dict.fromkeys(RULES, 0)

    def admit(self, backlog: Backlog, size: int, now: float, own: int = 0, own_bytes: int = 0) -> bool:
        """Whether one of `size` bytes may wait, of a client of whom `own` do already, with `own_bytes`."""
        room = self._max_bytes - self.bytes
        if size + _SHARE * own_bytes <= room or not self.bytes:
            if (backlog.waiting if own else backlog.in_flight) < ALWAYS:
                return True
            rule = self._rule_of_time(backlog, now, own)
        else:
            rule = BYTES
        if rule:
            self.refused[rule] += 1
        return not rule

    def _rule_of_time(self, backlog: Backlog, now: float, own: int) -> str:
        """The one that is against it, or none."""
        backlog.look(now)
        longest_s = self._max_wait_s
        if backlog.silent_s(now) > longest_s:
            return SILENT
        strained_s = now - backlog.strained_since
        if own >= _FEW and own * backlog.latency_s > longest_s * (1.0 if strained_s < 0 else _UNDER_STRAIN):
            return OWN_QUEUE
        ahead = (own + 1) * (backlog.in_flight + 1)
        if strained_s < longest_s:
            ahead = min(ahead, backlog.waiting + 1)
        return WAIT if ahead > longest_s * backlog.per_s else ""

    def tick(self, now: float) -> None:
        """Called by a timer, a few times in a second."""
        self.redis.tick(now)
        self.store.tick(now)
