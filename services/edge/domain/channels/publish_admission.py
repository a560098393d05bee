"""Decides whether one more publication may wait, by expected time and by bytes.

**Purpose.** A burst is accepted: 1,000 clients that publish 5 times each at the same moment are through in a second. An
overload, which is more than the log can take for longer, is refused on arrival (error 111, nothing was done), so that
accepted publications do not wait long. A fixed number can't tell the two apart: 300 waiting publications are few for a
quick log and many for a slow one.

**Expected wait.** Publications of one client go to their log one after the other, so each client has at most one in
flight. The log's rate is shared among those in flight. A publication with N of its own client ahead waits for N + 1
turns:

    wait = (N + 1) × in flight / rate

In a burst the real wait is shorter, because nothing comes behind it: at most `waiting / rate`. The rate comes from
`Backlog`: measured if the log is slow, assumed (3,000/s) if nothing is known.

**Rules.** Each log (Redis; the store) is judged by itself, so that a slow store does not hold up Redis. Rules 1 and 3
to 5 are named as in the metric of refused publications.

1. `bytes`: all waiting publications together, queued ones included, have at most `EDGE_MAX_PENDING_PUBLISH_BYTES`. This
   bound is for both logs together. A client with N bytes waiting also needs room for 8 N more, so a few clients with
   large publications leave room for others. If nothing waits, a publication of any size is accepted.
2. Below 16 waiting publications, rules 3 to 5 do not apply. For a client with none waiting, only those in flight count,
   not the queues of other clients.
3. `silent`: refused if no reply has come for as long as a publication may wait.
4. `own_queue`: refused if the client has N ≥ 8 waiting and N × latency is more than a publication may wait; under
   strain, more than a quarter of that. An overload fills deep queues, a burst does not.
5. `wait`: refused if the expected wait is above `EDGE_MAX_PUBLISH_WAIT_S`. The shorter wait of a burst counts until the
   strain has lasted that long; what comes later is no burst.

Strain begins when the mean wait is above a quarter of the longest wait. It ends when the mean wait has been below a
tenth of it for a second.

**Example.** Two edges; on each, 500 clients publish 5 times. 500 are in flight, and the fifth of each client waits for
5 × 500 / 3,000 = 0.8 s: accepted. Another edge has a log that takes 200/s, and 300 clients that publish without a
pause: after about two seconds the rate is known, and about 200 publications may wait.

**Fairness.** A client that floods has one publication in flight, as every client. Its deep queue delays only itself.
Others notice no more than the time for reading and refusing its commands.

**Trade-offs.** A log that is far away but not busy (answers after more than 0.1 s) is taken for slow until its load
grows: the estimated rate rises with the load, but a part of a burst is refused. While the rate is being learned (half a
second is its time constant), more may be accepted than should be. A call of the server API counts as a client with
nothing waiting.

Decision: docs/decisions/0018-a-burst-is-not-an-overload.md.
"""

from __future__ import annotations

from services.edge.domain.channels.backlog import Backlog

ALWAYS = 16  # publications that may wait for a log whatever its speed
_FEW = 8  # waiting publications of one client from which on its queue counts as deep
_SHARE = 8  # a client with N bytes waiting needs room for this many times N more
_UNDER_STRAIN = 0.25  # share of the longest wait that deep queues may have under strain
BYTES, SILENT, OWN_QUEUE, WAIT = RULES = ("bytes", "silent", "own_queue", "wait")


class PublishAdmission:
    """Admission of publications on one edge, for its clients and the server API.

    Times are seconds of any clock that only goes forward.
    """

    def __init__(self, *, max_wait_s: float, max_bytes: int, now: float) -> None:
        self._max_wait_s, self._max_bytes = max_wait_s, max_bytes
        self.redis = Backlog(max_wait_s, now)
        self.store = Backlog(max_wait_s, now)
        self.bytes = 0  # of all waiting publications, for both logs
        self.refused = dict.fromkeys(RULES, 0)  # number of refusals by rule

    def admit(self, backlog: Backlog, size: int, now: float, own: int = 0, own_bytes: int = 0) -> bool:
        """Return whether one more publication may wait; count it if it is refused.

        Args:
            backlog: Of the log that the publication is for.
            size: Bytes of the publication.
            own: Publications of the same client that wait already.
            own_bytes: Bytes of these.
        """
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
        """Return the rule of time (3 to 5) that refuses the publication, "" if none."""
        backlog.update(now)
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
        """Update the measurements; called by a timer, a few times a second."""
        self.redis.tick(now)
        self.store.tick(now)
