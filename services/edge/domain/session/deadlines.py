"""Deadlines of one session: connect, pings and pongs, expiry of tokens.

**Purpose.** A session must end if the client does not connect in time, does not answer a ping, or does not renew its
token. A client that only reads slowly must not be taken for one that is gone.

**Rules.**

1. A session has one entry in the wheel of its node, at its earliest deadline. It is looked at up to 0.5 s late.
2. Without a connect command the connection ends (`STALE`) after `connect_timeout_s`. While the command is being
   executed, its own deadlines apply.
3. A ping is due in every interval of the client protocol (`Pings`); the first one after half to a whole interval at
   random, to spread pings of clients that connect together. No ping is sent while a pong is missing.
4. A missing pong ends the connection (`NO_PONG`) after the timeout of the protocol, unless it can't be there yet:
   * If at least 16 KiB are under way to the client, the ping is behind them. The session waits as long as the client
     takes some of these bytes within each timeout, and one more timeout once the ping must have arrived.
   * While the socket is not read (`is_paused`), the pong may lie behind what is not read.
5. A connection ends (`EXPIRED`) `expired_close_delay_s` after its expiry, which leaves time for a refresh. It ends at
   its expiry if its token came in the handshake, since the client was not told to refresh it, and if it has resumed.
   Meanwhile commands that need a rule of the namespace are refused (109); subscribe is not, because SDKs would repeat
   it for ever. An expired subscription ends with 2501, `expired_sub_close_delay_s` after its expiry; a server-side one
   ends the connection (`SUBSCRIPTION_EXPIRED`). The expiry is Unix time by the clock of Redis.
6. Shortly before its token expires a connection is listed in the session table, at once if it expires sooner
   (`domain/resume.py`).

**Example.** The pong timeout is 8 s. A client takes 600 KB of replies at 20 KB/s when a ping is queued behind them.
After 8 s there is no pong, and 440 KB are under way: the session waits, because the client takes bytes. After about 30
s the ping must have arrived. If there is no pong in the next timeout, the connection ends.

**Trade-offs.** A client that is gone while bytes are under way to it is noticed after two timeouts instead of one.

Decision: docs/decisions/0011-replies-wait-for-their-client.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain.ends import Disconnect, EndReason
from services.edge.domain.session.timers import NEVER
from services.edge.domain.settings import MAX_TTL_S
from services.shared.errors import UnsubscribeCode

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

_FAR_BEHIND_BYTES = 16_384  # bytes under way to the client, from which on a ping may be far behind
_REFRESH_BEFORE_S = 30.0  # how long before an expiry a client is told to refresh, at most, seconds
_CONNECTING_S = 1.0  # interval of looking at a session whose connect command is being executed, seconds


class Deadlines:
    """The deadlines of one session, an entry of its node's wheel.

    Times are monotonic seconds unless a comment says otherwise.
    """

    __slots__ = (
        "_arrival",
        "_close_at",
        "_close_is_backends",
        "_confirmed",
        "_node",
        "_ping_at",
        "_pings",
        "_pong_due",
        "_session",
        "_subscription_at",
        "_without_pong",
        "deadline",
        "expires_at",
        "wheel_slot",
    )

    def __init__(self, session: Session, now: float) -> None:
        self._session: Session | None = session
        self._node = session.node
        self._pings = session.protocol.pings
        self._ping_at = NEVER
        self._pong_due = NEVER  # when the pong is due; NEVER: no pong is missing
        self._arrival: int | None = None  # confirmed bytes at which a late ping has arrived; None: it is not late
        self._confirmed = 0  # confirmed bytes at the last look
        self._close_at: float = NEVER  # when the connection closes because of its expiry
        self._close_is_backends = False  # whether a backend set that
        self._subscription_at: float = NEVER  # when the first subscription ends because of its expiry
        self._without_pong: float = NEVER  # earliest deadline beside that of the pong
        self.expires_at: float | None = None  # Unix seconds
        self.deadline = now + session.node.settings.connect_timeout_s
        self.wheel_slot = -1
        session.node.wheel.schedule(self)

    def begin(self, expires_at: float | None, *, has_delay: bool = True) -> None:
        """Start the pings and set the expiry; called when the session opens."""
        node = self._node
        if self._pings.interval_s > 0:
            self._ping_at = node.clock.monotonic() + self._pings.interval_s * node.rng.uniform(0.5, 1.0)
        self.set_expiry(expires_at, has_delay=has_delay)

    def end(self) -> None:
        """Cancel all deadlines."""
        self.deadline = NEVER

    def release(self) -> None:
        """Cancel all deadlines and drop the session, because the connection is over.

        This breaks the reference cycle, so that memory is freed at once and not by the garbage collector.
        """
        self.end()
        self._session = None

    def set_expiry(self, expires_at: float | None, *, has_delay: bool = True, by_backend: bool = False) -> int:
        """Set when the connection expires (Unix seconds; None: never).

        `has_delay`: whether the client gets time to refresh beyond it (rule 5). `by_backend`: a backend wants it, so
        what expires can't be resumed. Return the `ttl` for the client, see `ttl`. In insecure mode nothing expires.
        """
        node = self._node
        if node.settings.insecure:
            expires_at = None
        self.expires_at = expires_at
        self._close_is_backends = by_backend
        if expires_at is None:
            self._close_at = NEVER
        else:
            left_s = max(0.0, expires_at - node.clock.wall())
            self._close_at = node.clock.monotonic() + left_s
            if has_delay:
                self._close_at += node.settings.expired_close_delay_s
        self.reschedule()
        return self.ttl(expires_at)

    def ttl(self, expires_at: float | None) -> int:
        """Return seconds until the client should refresh; 0 if the token never expires.

        A whole number, at least 1 and at most 365 days. SDKs refresh at that moment. So it is 30 s before the expiry,
        or a tenth of the time left if that is less: what they send meanwhile is still accepted.
        """
        if expires_at is None:
            return 0
        left_s = expires_at - self._node.clock.wall()
        return max(1, min(int(left_s - min(_REFRESH_BEFORE_S, left_s / 10)), MAX_TTL_S))

    @property
    def has_expired(self) -> bool:
        """Whether the token has expired, by more than the leeway.

        The connection stays open for the delay of rule 5.
        """
        expires_at = self.expires_at
        return expires_at is not None and self._node.clock.wall() > expires_at + self._node.verifier.leeway_s

    def pong(self) -> bool:
        """Note a pong; return False if there was no ping to answer."""
        asked = self._pong_due != NEVER
        if asked:
            self._pong_due = NEVER
            self._arrival = None
            self.deadline = self._without_pong  # later than before: the wheel reschedules it when it looks
        return asked

    def deadline_passed(self, now: float) -> None:
        """Do what is due and set the next deadline; called by the wheel."""
        session = self._session
        if session is None or session.is_over:
            return
        try:
            if not session.is_open:
                if not session.is_connecting:
                    raise Disconnect(EndReason.STALE)
                self.deadline = now + _CONNECTING_S
                return
            if now >= self._pong_due or now >= self._close_at:
                self._check(session, now)
            if now >= self._subscription_at:
                self._end_expired_subscriptions(session)
            if now >= self._ping_at:
                self._ping(session, now)
        except Disconnect as end:
            session.disconnect(end.reason, by_backend=end.reason is EndReason.EXPIRED and self._close_is_backends)
            return
        self.reschedule()

    def reschedule(self) -> None:
        """Compute the earliest deadline again, after an expiry has changed."""
        session = self._session
        if session is None or not session.is_open:
            return
        node = self._node
        expires_at = NEVER
        for subscription in session.subscriptions.values():  # each time, because Redis' clock may have been set
            if subscription.expires_at is not None and subscription.expires_at < expires_at:
                expires_at = subscription.expires_at
        self._subscription_at = NEVER
        if expires_at is not NEVER:
            left_s = expires_at + node.settings.expired_sub_close_delay_s - node.clock.wall()
            self._subscription_at = node.clock.monotonic() + max(0.0, left_s)
        list_at = NEVER
        if session.resume_key and not session.listed_as and session.token_expires_at is not None:
            list_at = node.clock.monotonic_at(node.resume.list_from(session.token_expires_at))
            if list_at <= node.clock.monotonic():
                session.list_here()
                list_at = NEVER
        self._without_pong = min(self._ping_at, self._close_at, self._subscription_at, list_at)
        self.deadline = min(self._without_pong, self._pong_due)
        node.wheel.schedule(self)

    def _check(self, session: Session, now: float) -> None:
        if now >= self._pong_due:
            if not self._may_be_late(session):
                raise Disconnect(EndReason.NO_PONG)
            self._pong_due = now + self._pings.timeout_s
        if now >= self._close_at:
            raise Disconnect(EndReason.EXPIRED)

    def _may_be_late(self, session: Session) -> bool:
        """Return whether an overdue pong gets another timeout.

        It does if the ping may not have arrived yet, or the pong may not have been read yet; see rule 4 of the module.
        """
        confirmed, under_way = session.connection.delivery()
        before, self._confirmed = self._confirmed, confirmed
        if self._arrival is None:
            if under_way < _FAR_BEHIND_BYTES:
                return session.is_paused  # the pong may lie behind what is not read
            self._arrival = confirmed + under_way
            return True
        if before < self._arrival <= confirmed:
            return True
        if confirmed >= self._arrival and not session.is_paused:
            return False
        return before < confirmed or (confirmed >= self._arrival and under_way < _FAR_BEHIND_BYTES)

    def _end_expired_subscriptions(self, session: Session) -> None:
        delay_s = self._node.settings.expired_sub_close_delay_s
        wall = self._node.clock.wall()
        for subscription in list(session.subscriptions.values()):
            if subscription.expires_at is None or wall < subscription.expires_at + delay_s:
                continue
            if subscription.server_side:
                raise Disconnect(EndReason.SUBSCRIPTION_EXPIRED)
            session.end_subscription(subscription, UnsubscribeCode.EXPIRED)

    def _ping(self, session: Session, now: float) -> None:
        pings = self._pings
        self._ping_at = now + pings.interval_s
        if self._pong_due != NEVER:
            return  # the last ping is not answered yet
        session.protocol.ping()
        if pings.timeout_s > 0:
            self._pong_due = now + pings.timeout_s
