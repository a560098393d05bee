"""The edge's test of its own hearing: what it publishes to itself must come back."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from prometheus_client import Counter

from services.shared.errors import ThalamusError
from services.shared.hotlog import keys
from services.shared.process.cancellation import end_task

logger = logging.getLogger(__name__)

EVERY_S = 2.0
MISSED = 3  # in a row: the connection hears nothing
_STALLED = Counter("thalamus_edge_deaf", "Times that this edge found its pub/sub connection deaf and made a new one.")


class PubSubSelfCheck:
    """`publish` returns once Redis has taken it; `on_deaf` gives up the pub/sub connection.

    What Redis did not take, and what was sung without a connection to hear it, says nothing and is not counted.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], Awaitable[object]],
        on_stalled: Callable[[], None],
        *,
        is_open: Callable[[], bool] = lambda: True,
        every_s: float = EVERY_S,
    ) -> None:
        """`is_open`: there is a pub/sub connection, subscribed or about to be."""
        self.channel = keys.name(f"canary:{os.urandom(8).hex()}")
        self._publish, self._on_stalled, self._is_open, self._every_s = publish, on_stalled, is_open, every_s
        self._sent = 0
        self._heard = 0
        self._missed = 0
        self._task: asyncio.Task[None] | None = None
        self.stalled = False

    def start(self) -> None:
        """Sing in the background; the channel is subscribed already."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            await end_task(self._task)

    def heard(self, payload: bytes) -> None:
        """It came back, however late: the connection hears."""
        self._heard = max(self._heard, int(payload))
        self._missed = 0
        self.stalled = False

    async def _run(self) -> None:
        while True:
            await self._probe()
            await asyncio.sleep(self._every_s)

    async def _probe(self) -> None:
        if not self._is_open():
            self._missed, self._heard = 0, self._sent
            return
        if self._heard < self._sent:
            self._missed += 1
        if self._missed >= MISSED:
            self._missed = 0
            self.stalled = True
            _STALLED.inc()
            logger.error("nothing is heard of Redis: the pub/sub connection is made anew")
            self._on_stalled()
        self._sent += 1
        try:
            await self._publish(self.channel, str(self._sent).encode())
        except ThalamusError:
            self._heard = self._sent  # nothing to be heard
