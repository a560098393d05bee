"""Drains an edge: disconnects its clients at random times over a grace period.

They are told that this edge shuts down, so that they reconnect.
The times are spread so that the other edges do not get all clients at once.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from services.edge.domain.ends import EndReason
from services.edge.domain.session.node import Node

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

_STEP_S = 0.05  # longest sleep at a time, seconds
_SPREAD = 0.9  # share of the grace over which clients are disconnected; the rest is for the close handshakes
_ROSTER_S = 0.5  # longest wait for presence before a client is disconnected, seconds


async def drain(node: Node, grace_s: float) -> None:
    """Disconnect every session within `grace_s` seconds.

    Return once no session is left, or after the grace. The caller accepts no new connections meanwhile.
    """
    spread_s = grace_s * _SPREAD
    started = node.clock.monotonic()
    sessions = list(node.sessions)
    node.rng.shuffle(sessions)
    due = sorted(node.rng.uniform(0.0, spread_s) for _ in sessions)
    async with asyncio.TaskGroup() as group:
        for session, at in zip(sessions, due, strict=True):
            while (left := started + at - node.clock.monotonic()) > 0:
                await asyncio.sleep(min(left, _STEP_S))
            group.create_task(_send_away(session))
    while node.sessions and node.clock.monotonic() - started < grace_s:
        for session in list(node.sessions):  # those that were opened after `sessions` was read
            session.disconnect(EndReason.SHUTDOWN)
        await asyncio.sleep(_STEP_S)


async def _send_away(session: Session) -> None:
    """Take a session off the rosters, then disconnect it.

    The other way round, the client could be back on another edge before its old entry is gone, and would be listed
    twice.
    """
    node = session.node
    leaving = [entry.channel for entry in session.presence.all()]
    session.presence.end(math.inf)
    if leaving:  # what is not done within `_ROSTER_S` goes on in the background, or the lease runs out
        waiting = [node.spawn(_presence_written(session, channel)) for channel in leaving]
        await asyncio.wait(waiting, timeout=_ROSTER_S)
    session.disconnect(EndReason.SHUTDOWN)


async def _presence_written(session: Session, channel: str) -> None:
    """Wait until presence knows that the client has left the channel, 1 s at most."""
    await session.node.presence.written(channel, session.client)
