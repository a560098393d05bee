"""Circuit breaker of one replica: while it is silent, calls to it fail at once.

**Purpose.** A process that hangs keeps its connections, and the kernel even accepts new ones for it. Every call would
wait for its whole deadline, and what waits piles up.

**Rules.**

* Closed, which is the usual state: calls and streams use the replica.
* A call that got no answer by its deadline, or a stream that could not be opened in time or fell silent, opens the
  breaker (`failed`). Any answer, also an error, shows that the process lives and opens nothing.
* While it is open, nobody uses the replica. It is asked for its health, by one probe at a time, each of 1 s at most.
  The pauses between them grow from 0.05 to 0.5 s. The first answer closes the breaker, whatever it says.

Single calls and streams share the breaker of a replica: who notices first spares the others the wait.

**Example.** auth is frozen. The first login fails at its deadline, after 2.8 s; the next ones fail within a
millisecond. The process goes on, a probe is answered, and the next login is served: 3 s later at most, as a connection
that gRPC gave up meanwhile has to be made anew.

**Trade-offs.** No call of a user serves as the probe, as it does in the usual libraries: it would wait for its deadline
again and again. A process that answers, but too slowly, opens its breaker for no longer than a probe takes.

Decision: docs/decisions/0032-one-breaker-for-each-replica.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import end_task

logger = logging.getLogger(__name__)

PROBE_S = 1.0  # longest wait for the response to a probe, seconds
_PAUSE_S = (0.05, 0.5)  # pause between two probes, seconds: the first one, and the longest after doubling


class Breaker:
    """Says whether a replica may be used; asks it while it may not. See the module."""

    def __init__(self, address: str, probe: Callable[[], Awaitable[bool]]) -> None:
        """Begin closed. `probe` returns, within `PROBE_S`, whether the replica answered."""
        self._address = address
        self._probe = probe
        self._closed = asyncio.Event()
        self._closed.set()
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the replica must not be used."""
        return not self._closed.is_set()

    def failed(self) -> None:
        """Open the breaker, because the replica did not answer in time."""
        if self.is_open:
            return
        logger.warning("a replica does not answer; calls to it fail at once", extra={"address": self._address})
        self._closed.clear()
        self._probing = asyncio.create_task(self._probe_until_answered())

    async def wait_closed(self) -> None:
        """Wait until the replica may be used."""
        await self._closed.wait()

    async def end(self) -> None:
        """Stop probing, because the replica is not used any more."""
        if self._probing is not None:
            await end_task(self._probing)

    async def _probe_until_answered(self) -> None:
        backoff = Backoff(*_PAUSE_S)
        while not await self._probe():
            await asyncio.sleep(backoff.next_s())
        logger.info("a replica answers again", extra={"address": self._address})
        self._closed.set()
