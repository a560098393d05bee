"""When something of a session is due: its connect, pings and their pongs, its expiry and that of its subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.edge.domain.session.timers import NEVER
from services.edge.domain.settings import MAX_TTL_S
from services.shared.errors import CloseCode, Disconnect, UnsubscribeCode

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session

_FAR_BEHIND_BYTES = 16_384  # more than this before a ping, and it arrives late
_CONNECTING_S = 1.0  # connect is being worked on; its own deadlines end it


class Deadlines:
    """Of one session, on its node's wheel. Times are monotonic seconds where nothing else is said."""

    __slots__ = (
        "_arrival",
        "_close_at",
        "_node",
        "_ping_at",
        "_pong_due",
        "_session",
        "_subscription_at",
        "_taken",
        "_without_pong",
        "deadline",
        "expires_at",
        "wheel_slot",
    )

    def __init__(self, session: Session, now: float) -> None:
        self._session: Session | None = session
        self._node = session.node
        self._ping_at = NEVER
        self._pong_due = NEVER  # with a ping outstanding; NEVER: none is
        self._arrival: int | None = None  # the late ping is there once so many bytes are taken; None: it is not late
        self._taken = 0  # bytes, when we last looked
        self._close_at: float = NEVER  # the end of the grace after `expires_at`
        self._subscription_at: float = NEVER  # the same for the subscription that is the first to expire
        self._without_pong: float = NEVER  # the deadline, were no pong awaited
        self.expires_at: float | None = None  # Unix seconds
        self.deadline = now + session.node.settings.connect_timeout_s
        self.wheel_slot = -1
        session.node.wheel.schedule(self)

    def begin(self, expires_at: float | None) -> None:
        """The session is open: pings begin, and its expiry counts."""
        node = self._node
        if node.settings.ping_interval_s > 0:
            self._ping_at = node.clock.monotonic() + node.settings.ping_interval_s * node.rng.uniform(0.5, 1.0)
        self.set_expiry(expires_at)

    def end(self) -> None:
        """Nothing is due any more."""
        self.deadline = NEVER

    def release(self) -> None:
        """The connection is over: session and deadlines go with their last references, and wait for no collector."""
        self.end()
        self._session = None

    def set_expiry(self, expires_at: float | None) -> int:
        """When the connection expires (Unix seconds; None: never); returns the `ttl` to tell, 0 for never."""
        node = self._node
        if node.settings.insecure:
            expires_at = None
        self.expires_at = expires_at
        if expires_at is None:
            self._close_at = NEVER
        else:
            left_s = max(0.0, expires_at - node.clock.wall())
            self._close_at = node.clock.monotonic() + left_s + node.settings.expired_close_delay_s
        self.reschedule()
        return self.ttl(expires_at)

    def ttl(self, expires_at: float | None) -> int:
        """Whole seconds left, at least 1 and at most 365 days; 0 for never."""
        if expires_at is None:
            return 0
        return max(1, min(int(expires_at - self._node.clock.wall()), MAX_TTL_S))

    def pong(self) -> bool:
        """The client answered; False: nobody had asked."""
        asked = self._pong_due != NEVER
        if asked:
            self._pong_due = NEVER
            self._arrival = None
            self.deadline = self._without_pong  # later than before: the wheel finds out
        return asked

    def deadline_passed(self, now: float) -> None:
        """Called by the wheel."""
        session = self._session
        if session is None or session.is_over:
            return
        try:
            if not session.is_open:
                if not session.is_connecting:
                    raise Disconnect(CloseCode.STALE)
                self.deadline = now + _CONNECTING_S
                return
            if now >= self._pong_due or now >= self._close_at:
                self._check(session, now)
            if now >= self._subscription_at:
                self._end_expired_subscriptions(session)
            if now >= self._ping_at:
                self._ping(session, now)
        except Disconnect as end:
            session.disconnect(end.code, end.reason)
            return
        self.reschedule()

    def reschedule(self) -> None:
        """Something is due at another time than before, maybe the expiry of a subscription."""
        session = self._session
        if session is None or not session.is_open:
            return
        node = self._node
        expires_at = NEVER
        for subscription in session.subscriptions.values():  # anew each time: the clock of Redis may have been set
            if subscription.expires_at is not None and subscription.expires_at < expires_at:
                expires_at = subscription.expires_at
        self._subscription_at = NEVER
        if expires_at is not NEVER:
            left_s = max(0.0, expires_at - node.clock.wall())
            self._subscription_at = node.clock.monotonic() + left_s + node.settings.expired_sub_close_delay_s
        self._without_pong = min(self._ping_at, self._close_at, self._subscription_at)
        self.deadline = min(self._without_pong, self._pong_due)
        node.wheel.schedule(self)

    def _check(self, session: Session, now: float) -> None:
        if now >= self._pong_due:
            if not self._may_be_late(session):
                raise Disconnect(CloseCode.NO_PONG)
            self._pong_due = now + self._node.settings.pong_timeout_s
        if now >= self._close_at:
            raise Disconnect(CloseCode.EXPIRED)

    def _may_be_late(self, session: Session) -> bool:
        """Whether a pong that is overdue can't be there yet: the ping has not arrived, or we do not read.

        A ping may be behind much that the client asked for and takes slowly. While it takes some of that, it lives; and
        once the ping must have arrived, it has the usual time for the answer, which counts while we read.
        """
        taken, under_way = session.connection.delivery()
        before, self._taken = self._taken, taken
        if self._arrival is None:
            if under_way < _FAR_BEHIND_BYTES:
                return session.is_paused  # it may lie behind what we do not read
            self._arrival = taken + under_way
            return True
        if before < self._arrival <= taken:
            return True
        if taken >= self._arrival and not session.is_paused:
            return False
        return before < taken or (taken >= self._arrival and under_way < _FAR_BEHIND_BYTES)

    def _end_expired_subscriptions(self, session: Session) -> None:
        delay_s = self._node.settings.expired_sub_close_delay_s
        wall = self._node.clock.wall()
        for subscription in list(session.subscriptions.values()):
            if subscription.expires_at is None or wall < subscription.expires_at + delay_s:
                continue
            if subscription.server_side:
                raise Disconnect(CloseCode.SUBSCRIPTION_EXPIRED)
            session.end_subscription(subscription, UnsubscribeCode.EXPIRED)

    def _ping(self, session: Session, now: float) -> None:
        settings = self._node.settings
        self._ping_at = now + settings.ping_interval_s
        if self._pong_due != NEVER:
            return  # one ping, one pong
        session.ping()
        if settings.pong_timeout_s > 0:
            self._pong_due = now + settings.pong_timeout_s
