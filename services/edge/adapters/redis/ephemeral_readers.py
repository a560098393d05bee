"""Whether all edges can read ephemeral events.

**Purpose.** While a cluster is updated, some of its edges can't.

**Rules.**

1. Every edge is subscribed to the control channel. One that reads ephemeral events is also subscribed to a pub/sub
   channel that announces it. Redis drops both subscriptions when an edge dies, so nothing is left of it.
2. PUBLISH returns how many subscribers received the message. One message to each of the two, in one round trip: if as
   many received the second as the first, all edges read ephemeral events.
3. The messages say nothing. That to the control channel is a reply to nobody, which edges of every version ignore. That
   to the other one is an event of a channel that does not exist.
4. Nobody asks unless there is something to publish. An answer is good for 10 s if it is yes, and for 1 s if it is no.

**Example.** Three edges, one of them of before: 3 and 2 receive the messages, so nothing is published. The third one is
replaced; a second later 3 and 3 receive them.

**Trade-off.** An edge of before that comes within the 10 s, after a rollback, is sent some events. It logs and counts
each as unreadable, and drops it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from services.shared.errors import Busy, Unavailable
from services.shared.hotlog import keys
from services.shared.process.single_flight import SingleFlight

YES_S, NO_S = 10.0, 1.0  # how long an answer is good, seconds
_TO_NOBODY = msgspec.json.encode({"id": "", "sender": "", "to": "-"})  # a reply; see domain/control/cluster.py


class EphemeralReaders:
    """Asks whether all edges read ephemeral events, and remembers the answer.

    Args:
        publish: Publishes on a pub/sub channel; returns how many subscribers received it.
        now: Monotonic seconds.
    """

    def __init__(self, publish: Callable[[str, bytes], Awaitable[int]], now: Callable[[], float] = time.monotonic):
        self.channel = keys.ephemeral_readers()  # every edge that reads them must be subscribed to it
        self._publish, self._now = publish, now
        self._are_all, self._good_until = False, float("-inf")
        self._asking = SingleFlight[bool]()

    async def are_all(self) -> bool:
        """Return whether all connected edges do; False also if Redis does not answer."""
        if self._now() < self._good_until:
            return self._are_all
        return await self._asking.do("", self._ask, name="count readers of ephemeral events")

    async def _ask(self) -> bool:
        try:
            edges, readers = await asyncio.gather(
                self._publish(keys.control(), _TO_NOBODY), self._publish(self.channel, keys.EPHEMERAL)
            )
            self._are_all = 0 < edges <= readers
        except (Unavailable, Busy):
            self._are_all = False
        self._good_until = self._now() + (YES_S if self._are_all else NO_S)
        return self._are_all
