"""The session table on Redis: which edges have, or had, connections with a key.

**Rules.**

1. An entry is one key: a line for each edge, with the time when its last connection ended, or 0 while it has one. It
   goes 300 s after its last change. It holds the lines of the 32 edges that wrote last.
2. A line with 0 counts as long as its edge lives: until the last renewal of the edge's lease (`edge_lease.py`). So
   nobody has to remove what a killed edge leaves.
3. One more line has the time when a backend last closed a connection with the key. What ended until then counts no
   more, whichever edge says it. Nor does a line with 0, if the lease of its edge was renewed before and has run out.
4. Changes are collected for 20 ms and written in batches, one at a time, each entry by a script. Only the last
   state of an entry counts, so while Redis does not answer it is replaced, and written later. It is lost if the edge
   dies before. Then its lines with 0 count by rule 2, also those of connections that a backend had closed.
5. An entry that Redis refuses to take (out of memory, read only) is given up. Nothing but resuming suffers: what is
   new can't be resumed, and what a backend closed meanwhile still counts by rule 2.
6. A lookup has 1 s. For a second after one that failed, the next ones fail at once.

**Example.** Of a connection the entry says `edge-a 0`. Its edge, which renewed its lease at 12:00:00, is killed.
Whoever looks at 12:01:30 learns that the connection was last seen at 12:00:00.

**Trade-offs.** Two round trips for a lookup: the leases of edges lie elsewhere in a Redis Cluster than the entry. There
are two also where nothing is found, so that the time does not tell who was here. Lookups are rare. Not a `Batcher`: see
rule 4.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from redis import exceptions

from services.edge.adapters.redis.edge_lease import EdgeLeases
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import end_task
from services.shared.process.log_limit import RateLimitedLog
from services.shared.redis.pipeline import RedisPipeline

KEPT_S = 300  # how long an entry is kept after its last change, seconds
_MOST_LINES = 32  # of an entry: edges
_MOST_PENDING = 100_000  # entries that wait to be written; beyond, the oldest are given up
_BATCH = 256  # entries that are written at once
_LINGER_S = 0.02  # for how long changes are collected, seconds
_WRITE_S = 2.8  # longest wait for a batch, seconds
_LOOKUP_S = 1.0  # longest wait for a lookup, and how long the next ones fail at once, seconds
_PAUSE_S = (0.1, 2.0)  # first and longest pause after a batch that failed, seconds
_OPEN, _REMOVED, _AS_BEFORE = b"0", b"", b"-"  # what an edge says of itself, beside the time of an end
_CLOSED = b"-"  # begins the line with the time when a backend closed a connection
_PUT = load(Path(__file__).parent / "put_session.lua")
_logger = logging.getLogger(__name__)
_given_up = RateLimitedLog(_logger, logging.ERROR, every_s=60.0)
_refused = RateLimitedLog(_logger, logging.ERROR, every_s=60.0)


class _Change(NamedTuple):
    """What is not written yet of an entry.

    The state of this edge, and when a backend closed a connection, in Unix ms; 0: it did not.
    """

    state: bytes = _AS_BEFORE
    closed_at: int = 0


class RedisSessionTable:
    """Implements `SessionTable`, see domain/ports.py.

    `clock` is that of Redis, Unix seconds.
    """

    def __init__(self, redis: RedisPipeline, leases: EdgeLeases, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._leases = leases
        self._clock = clock
        self._pending: dict[str, _Change] = {}  # by key
        self._writing: asyncio.Task[None] | None = None
        self._fail_until = float("-inf")  # by the clock of the event loop

    def opened(self, key: str) -> None:
        self._put(key, _OPEN)

    def ended(self, key: str, at: float) -> None:
        self._put(key, b"%d" % (at * 1000))

    def removed(self, key: str) -> None:
        self._put(key, _REMOVED)

    def closed(self, key: str, at: float) -> None:
        before = self._pending.get(key, _Change())
        self._put(key, before.state, max(before.closed_at, math.ceil(at * 1000)))

    async def last_seen(self, key: str) -> float | None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._fail_until:
            raise Unavailable("the session table can't be read")
        try:
            async with asyncio.timeout(_LOOKUP_S):
                return await self._last_seen(key)
        except (Unavailable, TimeoutError) as error:
            self._fail_until = loop.time() + _LOOKUP_S
            raise Unavailable(f"the session table can't be read: {error}") from error

    async def _last_seen(self, key: str) -> float | None:
        (reply,) = await self._redis.execute([("GET", keys.session(key))], timeout_s=_LOOKUP_S)
        states, closed_at = _parsed(raise_for_error(reply))
        if (own := self._pending.get(key)) is not None:
            closed_at = max(closed_at, own.closed_at / 1000)
            if own.state != _AS_BEFORE:
                states[self._leases.edge] = own.state
        found = [at for at in (int(state) / 1000 for state in states.values() if state.strip(b"0")) if at > closed_at]
        is_open = [edge for edge, state in states.items() if state == _OPEN]
        leases = await self._leases.read(is_open or [self._leases.edge])  # in any case: see Trade-offs
        now = self._clock()
        for lease in (leases[edge] for edge in is_open if edge in leases):
            if lease.renewed_at > closed_at or lease.is_good(now):
                found.append(lease.renewed_at)
        return max(found, default=None)

    async def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits, for at most `timeout_s` seconds."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=timeout_s)
            await end_task(self._writing)

    def _put(self, key: str, state: bytes, closed_at: int = 0) -> None:
        before = self._pending.get(key)
        self._pending[key] = _Change(state, closed_at or (before.closed_at if before is not None else 0))
        if len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]
            _given_up("too many entries of the session table wait for Redis")
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_pending())

    async def _write_pending(self) -> None:
        """Write all that waits, and return."""
        backoff = Backoff(*_PAUSE_S)
        pause_s = _LINGER_S
        while self._pending:
            await asyncio.sleep(pause_s)
            batch = dict(islice(self._pending.items(), _BATCH))
            try:
                replies = await self._redis.run([self._call(*one) for one in batch.items()], timeout_s=_WRITE_S)
            except Unavailable:
                pause_s = backoff.next_s()
                continue
            backoff.reset()
            pause_s = 0.0
            for key, change in batch.items():
                if self._pending.get(key) is change:  # else it has changed meanwhile
                    del self._pending[key]
            refusals = [reply for reply in replies if isinstance(reply, exceptions.RedisError)]
            if refusals:
                _refused("Redis refuses entries of the session table", count=len(refusals), error=str(refusals[0]))

    def _call(self, key: str, change: _Change) -> Call:
        edge, said, closed_at = self._leases.edge, change.state, change.closed_at
        return Call(_PUT, [keys.session(key)], [edge, said, KEPT_S, _MOST_LINES, closed_at])


def _parsed(text: bytes | None) -> tuple[dict[str, bytes], float]:
    """Return the state of each edge, and when a backend last closed a connection.

    In Unix seconds; 0: it did not. What this version can't read is left out, as earlier versions leave out that time.
    """
    states, closed_at = {}, 0.0
    for line in bytes(text or b"").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == _CLOSED and words[1][:1] == b"x" and words[1][1:].isdigit():
            closed_at = int(words[1][1:]) / 1000
        elif len(words) >= 2 and words[1].isdigit() and words[0].isascii():
            states[words[0].decode()] = words[1]
    return states, closed_at
