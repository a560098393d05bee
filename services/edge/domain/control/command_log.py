"""Orders that every edge carries out once, whatever pub/sub loses: where one was missed, it is read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from services.edge.domain.model import ControlCommand, ControlCommandId
from services.edge.domain.ports import ControlLog
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

CHECK_S = 5.0  # what pub/sub lost without a sign is found within this
_PAUSE_S = 0.25


class ControlLogFollower:
    """How far this edge is. It begins with all that is kept: an order is only for who was there before it."""

    def __init__(
        self,
        log: ControlLog,
        execute: Callable[[ControlCommand], bool],
        on_missed: Callable[[ControlCommand], None],
        *,
        check_s: float = CHECK_S,
    ) -> None:
        """`carry_out` answers False where too much runs: it is asked again.

        `on_missed`: what came between this one and the last that was carried out is not kept any more.
        """
        self._log, self._execute, self._on_missed, self._check_s = log, execute, on_missed, check_s
        self._position: ControlCommandId = (0, 0)
        self._behind = asyncio.Event()

    def heard(self, order: ControlCommand) -> None:
        """Pub/sub brought one."""
        if order.id <= self._position:
            return
        if order.previous == self._position and self._execute(order):
            self._position = order.id
        else:
            self._behind.set()

    def look(self) -> None:
        """Something may have been missed."""
        self._behind.set()

    async def run(self) -> None:
        """Read what was not heard, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._check_s):
                    await self._behind.wait()
            self._behind.clear()
            try:
                done = await self.catch_up()
            except Unavailable:
                done = False
            if not done:
                self._behind.set()
                await asyncio.sleep(_PAUSE_S)

    async def catch_up(self) -> bool:
        """Carry out what is kept and was not heard, in order; False: too much runs."""
        while True:
            since = self._position
            page = await self._log.read(since)
            if page.newest < since:  # carried out here, and lost by Redis: what comes is numbered from there
                logger.warning("Redis has fewer orders than were carried out here")
                self._position = page.newest
                return True
            for order in page.orders:
                if order.id <= self._position:
                    continue  # heard meanwhile
                if order.previous > self._position:
                    self._on_missed(order)
                if not self._execute(order):
                    return False
                self._position = order.id
            if page.is_last:
                return True
