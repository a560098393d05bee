"""Follows the control log: executes every control command once and in order.

**Purpose.** A control command (disconnect a user, unsubscribe, end a session) must take effect on every edge. Pub/sub
delivers a message only to those who are connected at that moment. So each command is appended to a stream in Redis, the
control log, and published, in one script. An edge that pub/sub did not reach reads the command from the log.

**Rules.**

1. Each command names the id of the one before it. A command whose `previous` is the last one executed here is executed
   at once. Any other one means that something was missed: then the log is read.
2. The log is also read after each (re)connect of pub/sub, and every 5 s for messages that pub/sub lost unnoticed.
3. A command whose id is not above the last one executed is dropped: it is executed once, however often it arrives.
4. The log keeps commands for a minute, and 10,000 at most. If commands were removed from it that this edge has not
   executed, `on_missed` is called: `Cluster` then closes the connections that were open at that time.
5. If too many commands run, none is skipped: reading stops, and is tried again after 0.25 s.
6. If the newest id in the log is below the last one executed here, Redis has lost commands. This edge goes on from the
   newest id, because new commands name that one as the one before them.

An edge starts with everything that the log still keeps. That does no harm: a command is only for connections that were
open when it was appended, or for those of a sign-in session that has ended.

**Example.** The last command executed is 5-0. Pub/sub brings 7-0 with `previous` 6-0: it is not executed yet. The log
is read after 5-0 and has 6-0 and 7-0; both are executed, in order. If the log began at 7-0, `on_missed` would be called
first.

**Trade-offs.** The sender does not wait for disconnected edges, so a command may take effect there later. In return,
one edge that is cut off does not block the others. Closing connections after a gap also hits clients that no command
was for.

Decision: docs/decisions/0009-control-commands-are-kept.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from services.edge.domain.model import ControlCommand, ControlCommandId
from services.edge.domain.ports import ControlLog
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

CHECK_S = 5.0  # interval of reading the log, seconds: finds commands that pub/sub lost unnoticed
_PAUSE_S = 0.25  # before reading again after a failure, or while too many commands run, seconds


class ControlLogFollower:
    """Executes control commands in order, from pub/sub and from the control log.

    It is the `ControlListener` of pub/sub.
    """

    def __init__(
        self,
        log: ControlLog,
        execute: Callable[[ControlCommand], bool],
        on_missed: Callable[[ControlCommand], None],
        *,
        check_s: float = CHECK_S,
    ) -> None:
        """Create a follower at the beginning of the log.

        Args:
            log: The control log.
            execute: Starts a command; returns False if too many run. Then it is called again later.
            on_missed: Called with the first command behind a gap: commands between the last executed one and this one
                are not kept any more.
            check_s: Interval of reading the log, seconds.
        """
        self._log, self._execute, self._on_missed, self._check_s = log, execute, on_missed, check_s
        self._position: ControlCommandId = (0, 0)
        self._behind = asyncio.Event()

    def on_command(self, command: ControlCommand) -> None:
        """Execute a command from pub/sub if it is the next one; else read the log."""
        if command.id <= self._position:
            return
        if command.previous == self._position and self._execute(command):
            self._position = command.id
        else:
            self._behind.set()

    def poll(self) -> None:
        """Read the log soon: commands may have been missed."""
        self._behind.set()

    async def run(self) -> None:
        """Read the log whenever commands may have been missed, until cancelled."""
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
        """Read the log and execute, in order, the commands that were missed.

        Return False if too many commands run; then the rest must be read again.

        Raises:
            Unavailable: Redis does not answer.
        """
        while True:
            since = self._position
            page = await self._log.read(since)
            if page.newest < since:  # Redis has lost commands that were executed here: go on from its newest one
                logger.warning("Redis lost control commands that this edge has executed")
                self._position = page.newest
                return True
            for command in page.commands:
                if command.id <= self._position:
                    continue  # pub/sub has brought it while the log was read
                if command.previous > self._position:
                    self._on_missed(command)
                if not self._execute(command):
                    return False
                self._position = command.id
            if page.is_last:
                return True
