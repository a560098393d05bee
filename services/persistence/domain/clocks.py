"""The time for what can't be undone: two clocks must agree on it.

Purpose. Retention removes for ever what is old by some clock. If that clock is wrong, it removes what is young.

Rules.

* The time of Redis and that of this host must be the same to an hour. The earlier one counts.
* It must go on as the monotonic clock does: a step of more than an hour is believed only by a process that is started
  after it, or ends once the time is back. So a clock that Redis and this host share is not believed either.

Example. Redis's host is set a year ahead. Its time and ours differ, so nothing is removed until it is set back.

Trade-offs. A host that slept for hours does not remove anything until its process is restarted. Clocks that are wrong
alike before the process starts are not found out.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from services.persistence.metrics import RETENTION_DOUBTS

APART_S = 3_600.0  # clocks that differ by more are not believed


class ClocksDisagree(Exception):
    """It is not known what time it is."""


class Clocks:
    """The time, if clocks agree on it; see the module."""

    def __init__(
        self,
        asked: Callable[[], Awaitable[float]],
        host: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create it.

        `asked` asks Redis for its Unix time, in seconds; `host` and `monotonic` are clocks of this host.
        """
        self._asked, self._host, self._monotonic = asked, host, monotonic
        self._ahead: float | None = None  # of the monotonic clock, when they agreed last

    async def now(self) -> float:
        """Return the Unix time, seconds.

        Raises:
            ClocksDisagree: clocks differ, or jumped.
            Unavailable: Redis does not answer.
        """
        asked, host, monotonic = await self._asked(), self._host(), self._monotonic()
        now = min(asked, host)
        if abs(asked - host) > APART_S:
            RETENTION_DOUBTS.inc()
            raise ClocksDisagree(f"the clock of Redis is {asked - host:+.0f} s from that of this host")
        jumped = 0.0 if self._ahead is None else now - monotonic - self._ahead
        if abs(jumped) > APART_S:
            RETENTION_DOUBTS.inc()
            raise ClocksDisagree(f"the time has jumped by {jumped:+.0f} s since this process began")
        self._ahead = now - monotonic
        return now
