"""Renews connections that a hook signed in, by asking the hook of refreshes.

**Purpose.** Such a client has no token, so it can't send a new one before its connection expires.

**Rules.**

1. The hook is asked when a client would be told to refresh: 30 s before the expiry, or a tenth of the time left.
2. It answers a later `expires_at`, and the connection goes on until then. Without `expires_at`, or if it refuses, the
   connection ends (3005) at its expiry.
3. If the hook fails, it is asked again every 5 s, until the connection ends: `expired_close_delay_s` after its expiry.
   A hook that fails open lets the connection go on for another minute.

**Example.** A hook signs a client in for an hour. After 59.5 minutes the hook of refreshes is asked, and answers the
end of the next hour. The client notices nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from services.edge.domain.hooks.model import FAILED_OPEN, CommandRefused
from services.edge.domain.session.hooked import ask_refresh
from services.edge.domain.session.timers import NEVER
from services.shared.errors import ErrorCode

if TYPE_CHECKING:
    from services.edge.domain.hooks.hook import Hook
    from services.edge.domain.session.session import Session

logger = logging.getLogger(__name__)

_AGAIN_S = 5.0  # after a failure of the hook, seconds
_OPEN_S = 60.0  # that a connection goes on if the hook fails open, seconds
_FAILURES = frozenset({ErrorCode.HOOK_UNAVAILABLE, ErrorCode.HOOK_FAILED})


class Renewal:
    """An entry of the node's wheel, for one connection.

    It finds the session by its client id, so that it does not keep it in memory.
    """

    __slots__ = ("_client", "_hook", "_node", "deadline", "wheel_slot")

    def __init__(self, session: Session, hook: Hook) -> None:
        self._client, self._node, self._hook = session.client, session.node, hook
        self.deadline = NEVER
        self.wheel_slot = -1
        self._schedule(session)

    def deadline_passed(self, now: float) -> None:
        """Ask the hook in the background; called by the wheel."""
        self.deadline = NEVER
        session = self._session()
        if session is not None:
            self._node.spawn(self._renew(session))

    def _session(self) -> Session | None:
        session = self._node.clients.get(self._client)
        return session if session is not None and session.is_open else None

    def _schedule(self, session: Session) -> None:
        expires_at = session.deadlines.expires_at
        if expires_at is not None:
            self._at(session.deadlines.ttl(expires_at))

    def _at(self, in_s: float) -> None:
        self.deadline = self._node.clock.monotonic() + in_s
        self._node.wheel.schedule(self)

    async def _renew(self, session: Session) -> None:
        before = session.deadlines.expires_at
        try:
            answer = await ask_refresh(session, self._hook, before, has_token=False)
        except CommandRefused as error:
            if error.code in _FAILURES or error.refusal.temporary:
                self._at(_AGAIN_S)
            return
        if self._session() is not session:
            return  # it ended
        if session.deadlines.expires_at != before:  # a backend has set another one, which counts
            self._schedule(session)
            return
        expires_at = answer.expires_at
        if answer is FAILED_OPEN:
            expires_at = self._node.clock.wall() + _OPEN_S
        if answer.info is not None:
            session.replace_info(answer.info)
        if expires_at is not None:
            session.deadlines.set_expiry(expires_at)
            self._schedule(session)
