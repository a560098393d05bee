"""Leaving well: clients are told to reconnect in jittered batches over the grace, so that others can take them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.edge.domain.session.node import Node
from services.shared.errors import CloseCode

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

_STEP_S = 0.05
_SPREAD = 0.9  # of the grace; the rest is for the close handshakes
_ROSTER_S = 0.5  # for presence to hear of it before the client does


async def drain(node: Node, grace_s: float) -> None:
    """Disconnect every session with 3001 within `grace_s` seconds; nobody new may be let in meanwhile."""
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
        for session in list(node.sessions):  # connected while the others were told
            session.disconnect(CloseCode.SHUTDOWN, CloseCode.SHUTDOWN.reason)
        await asyncio.sleep(_STEP_S)


async def _send_away(session: Session) -> None:
    """Presence first: else the client may be back elsewhere before its old place is free, and look like another."""
    node = session.node
    leaving = [one for one in session.subscriptions.values() if one.presence]
    for subscription in leaving:
        session.leave_roster(subscription, clean=False)
    if leaving:  # what is not done in time goes on: presence hears later, or the lease ends
        waiting = [node.spawn(_written(session, one.channel)) for one in leaving]
        await asyncio.wait(waiting, timeout=_ROSTER_S)
    session.disconnect(CloseCode.SHUTDOWN, CloseCode.SHUTDOWN.reason)


async def _written(session: Session, channel: str) -> None:
    await session.node.presence.written(channel, session.client)
