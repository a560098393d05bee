"""Tells all edges which profiles have changed.

**Purpose.** An edge keeps profiles for a minute. A change must be seen on every edge within seconds, without a call to
anyone for profiles that nobody looks at.

**Rules.**

1. The edge that has changed a profile drops it at once. The others hear of it by a control command, which names users
   and versions. Nobody answers, and nothing waits for it.
2. The first change is told at once. Changes of the next 0.25 s are told together: the control log keeps 10,000
   commands, and an edge that has missed one that is gone closes its connections. So users who change their profiles all
   the time take up 240 commands a minute for each edge, not more.
3. If Redis does not take a command, it is sent again until a minute has passed. By then every edge has read the profile
   anew.

**Example.** A user changes the name three times within 0.1 s, versions 4 to 6. The edges hear of version 4 at once, and
of version 6 after 0.25 s.

**Trade-offs.** Edges of before do not know the command: they log a warning, and have no profiles to drop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.edge.domain.control.operations import ProfilesChanged
from services.edge.domain.profiles.cache import FRESH_S
from services.edge.domain.session.node import Node
from services.shared.errors import ThalamusError

logger = logging.getLogger(__name__)

_PAUSE_S = 0.25  # between two commands, seconds
_MAX_BYTES = 32_768  # of the ids of a command
_MAX_PENDING = 10_000  # users; of others edges learn when they read the profile anew


class ProfileNews:
    """The changes that were made by this edge and are to be told."""

    def __init__(
        self, node: Node, tell: Callable[[ProfilesChanged], Awaitable[None]], *, pause_s: float = _PAUSE_S
    ) -> None:
        """Take the edge, and `Cluster.tell`."""
        self._node, self._tell, self._pause_s = node, tell, pause_s
        self._pending: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def changed(self, user: str, version: int) -> None:
        """Tell that a profile has this version now; 0: that it may have any."""
        self._node.profiles.changed(user, version)
        if len(self._pending) >= _MAX_PENDING and user not in self._pending:
            logger.warning("too many profiles change: other edges learn of some of them within a minute")
            return
        self._add(user, version)
        if self._task is None or self._task.done():
            self._task = self._node.spawn(self._run())

    async def _run(self) -> None:
        failing_since: float | None = None
        while self._pending:
            batch = self._take()
            try:
                await self._tell(ProfilesChanged(versions=batch))
                failing_since = None
            except ThalamusError as error:
                now = self._node.clock.monotonic()
                failing_since = now if failing_since is None else failing_since
                if now - failing_since > FRESH_S:
                    logger.warning("edges were not told of changed profiles", extra={"error": repr(error)})
                    failing_since = None
                else:
                    for user, version in batch.items():
                        self._add(user, version)
            await asyncio.sleep(self._pause_s)

    def _add(self, user: str, version: int) -> None:
        before = self._pending.get(user, version)
        self._pending[user] = max(before, version) if before and version else 0

    def _take(self) -> dict[str, int]:
        batch: dict[str, int] = {}
        size = 0
        for user, version in list(self._pending.items()):
            size += len(user.encode()) + 16
            if batch and size > _MAX_BYTES:
                break
            batch[user] = version
            del self._pending[user]
        return batch
