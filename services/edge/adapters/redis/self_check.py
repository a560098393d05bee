"""Pub/sub self-check: the edge publishes to itself, and expects the message back.

This finds a pub/sub connection that looks healthy and delivers nothing (stalled).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from services.shared.errors import ThalamusError
from services.shared.hotlog import keys
from services.shared.process.cancellation import end_task
from services.shared.process.metrics import RenamedCounter

logger = logging.getLogger(__name__)

EVERY_S = 2.0  # pause between two probes, seconds
MISSED = 3  # probes in a row that did not come back, after which the connection counts as stalled
_STALLED = RenamedCounter(
    "thalamus_edge_pubsub_stalled",
    "Times that the pub/sub connection of this edge stalled and was replaced.",
    old_name="thalamus_edge_deaf",
)


class PubSubSelfCheck:
    """Publishes a probe every `every_s` seconds, and gives up a stalled connection.

    A probe that Redis did not accept is not counted, nor is one without a pub/sub connection: it proves nothing.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], Awaitable[object]],
        on_stalled: Callable[[], None],
        *,
        is_open: Callable[[], bool] = lambda: True,
        every_s: float = EVERY_S,
    ) -> None:
        """Make the check; nothing is published before `start`.

        Args:
            publish: Publishes a payload; returns once Redis has accepted it.
            on_stalled: Gives up the pub/sub connection.
            is_open: Whether there is a pub/sub connection, subscribed or about to be.
        """
        self.channel = keys.name(f"canary:{os.urandom(8).hex()}")
        self._publish, self._on_stalled, self._is_open, self._every_s = publish, on_stalled, is_open, every_s
        self._sent = 0
        self._received = 0
        self._missed = 0
        self._task: asyncio.Task[None] | None = None
        self.stalled = False

    def start(self) -> None:
        """Start to probe in the background; `channel` must be subscribed already."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop probing."""
        if self._task is not None:
            await end_task(self._task)

    def received(self, payload: bytes) -> None:
        """Note that a probe came back, however late: the connection works."""
        self._received = max(self._received, int(payload))
        self._missed = 0
        self.stalled = False

    async def _run(self) -> None:
        while True:
            await self.probe()
            await asyncio.sleep(self._every_s)

    async def probe(self) -> None:
        """Judge the probes sent so far, and send another one."""
        if not self._is_open():
            self._missed, self._received = 0, self._sent
            return
        if self._received < self._sent:
            self._missed += 1
        if self._missed >= MISSED:
            self._missed = 0
            self.stalled = True
            _STALLED.inc()
            logger.error("the pub/sub connection delivers nothing: connecting again")
            self._on_stalled()
        self._sent += 1
        try:
            await self._publish(self.channel, str(self._sent).encode())
        except ThalamusError:
            self._received = self._sent  # this probe will not come back, which proves nothing
