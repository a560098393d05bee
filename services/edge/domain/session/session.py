"""The session of one connected client: its state, subscriptions and commands."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from functools import partial

from services.edge.domain import commands as c
from services.edge.domain.access.claims import ConnectionClaims
from services.edge.domain.access.grants import NO_GRANTS, Grants
from services.edge.domain.channels.channel import Subscription
from services.edge.domain.channels.encoding import encoded
from services.edge.domain.connections import Connection, Encoder, Identity, SessionProtocol
from services.edge.domain.ends import ClientEnd, End, EndReason
from services.edge.domain.limits.connection_caps import Counted
from services.edge.domain.model import ClientInfo, Publication
from services.edge.domain.presence.client_presence import ClientPresence
from services.edge.domain.replies import ErrorResult, LeavePush, PublicationPush, Push, Result, UnsubscribePush
from services.edge.domain.session.command_runner import OVER, CommandRunner, State
from services.edge.domain.session.deadlines import Deadlines
from services.edge.domain.session.node import Node
from services.edge.domain.session.withdrawal import may_enter_without
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import ErrorCode, ThalamusError, UnsubscribeCode

logger = logging.getLogger(__name__)

# How long an entry stays on rosters, by how the client's connection ended; seconds, at most the namespace's grace. A
# page that is loaded again is back within 2 s and takes its own place. A tab that was closed has left within 3 s:
# presence looks twice a second.
_STAYS_S = {ClientEnd.CLOSED: 0.0, ClientEnd.GOING_AWAY: 2.0, ClientEnd.LOST: math.inf}


class Session(CommandRunner):
    """One client on one connection.

    Its client protocol feeds it commands (`take`), pongs and the end of the connection. It sends replies, pings and the
    close through the protocol, and encoded pushes through the `Connection`. The base class executes the commands;
    `handlers` has what each command does.
    """

    __slots__ = (
        "_ended_for",
        "caps",
        "client",
        "conn_info",
        "counted",
        "deadlines",
        "encoder",
        "identity",
        "listed_as",
        "name",
        "opened_at",
        "presence",
        "protocol",
        "publish_buckets",
        "resume_key",
        "subscriptions",
        "token_channels",
        "token_expires_at",
        "token_id",
        "token_issued_at",
        "token_session",
        "user",
    )

    def __init__(
        self,
        node: Node,
        connection: Connection,
        protocol: SessionProtocol,
        client: str,
        identity: Identity | None = None,
    ) -> None:
        self.opened_at = now = node.clock.monotonic()
        super().__init__(node, connection, now)
        self.protocol = protocol
        self.encoder: Encoder = protocol.encoder
        self.client = client
        self.identity = identity  # what the handshake says, until the connect command has been executed
        self.user = ""
        self.conn_info = b""
        self.name = ""
        self.subscriptions: dict[str, Subscription] = {}
        self.caps: Grants = NO_GRANTS  # of the token
        self.token_channels: frozenset[str] = frozenset()
        self.token_session = ""  # the claim `sid` of the token: id of the sign-in that it comes from
        self.token_id = ""  # the claim `jti`
        self.token_issued_at: float | None = None  # the claim `iat`, Unix seconds
        self.token_expires_at: float | None = None  # the claim `exp`, Unix seconds
        self.resume_key = ""  # under which the session table lists connections with the token; empty: not at all
        self.listed_as = ""  # the key under which it lists this one; empty: it does not yet
        self.presence = ClientPresence(node.presence)
        self.counted: tuple[Counted, ...] = ()  # caps that have admitted this connection
        self.publish_buckets: dict[str, TokenBucket] | None = None  # by namespace, for its `publish_rate`
        self._ended_for: EndReason | None = None  # this side closed first; a close frame of the client only answers
        self.deadlines = Deadlines(self, now)
        node.sessions.add(self)

    # From the client protocol.

    def submit(self, commands: Iterable[c.Command]) -> None:
        """Accept the commands of one message: queue them, and run those that may run now."""
        if self.state in OVER:
            return
        for command in commands:
            if not self._queue.add(command, running=self._busy):
                self._turn_away(command)
                if self.state in OVER:
                    return
        self._pump()

    def pong(self) -> bool:
        """Take the reply to a ping; return False if no ping is unanswered."""
        return self.deadlines.pong()

    def closed(self, how: ClientEnd) -> None:
        """Clean up, because the connection is over; called once."""
        stays_s = _STAYS_S[how] if self._ended_for is None else math.inf
        self.state = State.CLOSED
        self.deadlines.release()
        self._forget_commands()
        self._unlist()
        self.node.sessions.discard(self)
        self.node.remove(self)
        for subscription in list(self.subscriptions.values()):
            self.drop(subscription)
        self.presence.end(stays_s)

    # To the client.

    def reply(self, command_id: int, result: Result) -> None:
        """Queue the reply to a command."""
        if self.state is State.CLOSED:
            return
        frame = self.protocol.encode_reply(command_id, result)
        if frame is not None:
            self.connection.send_reply(frame)

    def push(self, push: Push) -> None:
        """Queue a push, if the session is open: no push precedes the connect reply."""
        if self.state is State.OPEN and (frame := encoded(self.encoder, push)) is not None:
            self.connection.send(frame)

    def push_recovered(self, subscription: Subscription, publications: Iterable[Publication]) -> None:
        """Queue recovered publications.

        They count as replies, as the client asked for them.

        With delta the first of them is full, and each later one may be a patch of the one before.
        """
        encoder = self.encoder if subscription.delta is None else subscription.delta.patch
        previous = None
        for publication in publications:
            if self.state is not State.OPEN:
                return
            frame = encoder.encode(PublicationPush(subscription.channel, publication, previous=previous))
            previous = publication.data
            if frame is not None:
                self.connection.send_reply(frame)

    def disconnect(self, reason: EndReason, code: int = 0, text: str = "", *, by_backend: bool = False) -> None:
        """Close the connection for this reason; `closed` is called later.

        Who is removed (`EndReason.DISCONNECTED`) leaves the rosters now, and all others as after a broken connection.

        `code` and `text`: what a backend asked for (see `End`). `by_backend`: it can't be resumed, nor can one that is
        removed.
        """
        if self.state is State.CLOSED:
            return
        by_backend = by_backend or reason is EndReason.DISCONNECTED
        self.state = State.CLOSED
        self._ended_for = reason
        self._forget_commands()
        self.deadlines.end()
        if by_backend and (self.listed_as or (self.resume_key and self.token_session)):  # else nothing is listed
            self.node.resume.closed_by_backend(self.resume_key)
        self._unlist(may_resume=not by_backend)
        self.node.remove(self)
        for subscription in list(self.subscriptions.values()):
            self.node.hub.leave(subscription)  # no more pushes; `closed` takes the client off the rosters
        if reason is EndReason.DISCONNECTED:
            self.presence.end(0.0)  # `closed` waits for the client's answer
        try:
            code = self.protocol.end(End(reason, code, text))
        except Exception:
            self._drop_connection(0.0)
            return
        counts = self.node.counters.closes
        counts[code] = counts.get(code, 0) + 1

    def refuse_connect(self, command_id: int, error: ErrorResult) -> None:
        """Answer connect with an error and make the session unusable (wire protocol, 5.1).

        The client has `error_drop_delay_s` to close the connection.
        """
        if self.state is State.CLOSED:
            return
        self.reply(command_id, error)
        self.state = State.UNUSABLE
        self.deadlines.end()
        self._forget_commands()
        self.node.remove(self)
        delay_s = self.node.settings.error_drop_delay_s
        try:
            self.protocol.connect_refused(delay_s)
        except Exception:
            self._drop_connection(delay_s)

    def _drop_connection(self, delay_s: float) -> None:
        """End TCP without a close frame, because the client protocol failed to end it."""
        logger.exception(  # noqa: LOG004  # called in `except`
            "a client protocol failed to end a connection", extra={"protocol": type(self.protocol).__name__}
        )
        self.connection.drop_after(delay_s)

    # Subscriptions.

    def info(self, chan_info: bytes = b"") -> ClientInfo:
        """Return this client as other clients see it."""
        return ClientInfo(self.user, self.client, self.conn_info, chan_info)

    def replace_info(self, conn_info: bytes) -> None:
        """Replace the `info` that others see in publications and presence.

        Those who see joins are told, as of any update.
        """
        if conn_info == self.conn_info:
            return
        self.conn_info = conn_info
        for subscription in self.subscriptions.values():
            subscription.info = self.info(subscription.info.chan_info)
        self.presence.set_who(self.info())

    def presence_over(self, subscription: Subscription) -> None:
        """Note in presence that a subscription is over."""
        may_stay = partial(may_enter_without, self, subscription.channel)
        self.presence.subscription_over(subscription.channel, subscription, may_stay)

    def drop(self, subscription: Subscription) -> None:
        """Remove a subscription from the session and its channel, but not from presence."""
        if self.subscriptions.get(subscription.channel) is subscription:
            del self.subscriptions[subscription.channel]
        self.node.hub.leave(subscription)

    def insufficient_state(self, subscription: Subscription) -> None:
        """Handle a gap of a subscription that can't be repaired.

        The client gets a gap notification: unsubscribe 2500, or the end of the connection for a server-side
        subscription. A subscription without position joins the channel again. If the subscribe command is still
        running, it fails instead.
        """
        if not subscription.live:
            subscription.broken = True  # its subscribe command is still running, and checks this
        elif not (subscription.positioned or subscription.recoverable or self._is_member_only(subscription)):
            self.node.spawn(self._rejoin(subscription))
        elif subscription.server_side:
            self.disconnect(EndReason.INSUFFICIENT_STATE)
        else:
            self.end_subscription(subscription, UnsubscribeCode.INSUFFICIENT_STATE)

    def _is_member_only(self, subscription: Subscription) -> bool:
        """Whether it must be asked anew who may have the subscription."""
        namespace = self.node.namespaces.find(subscription.channel)
        return namespace is not None and namespace.conversations

    def no_longer_member(self, subscription: Subscription) -> None:
        """End a subscription, because the client may not read the conversation any more."""
        self.end_subscription(subscription, UnsubscribeCode.NO_LONGER_MEMBER)

    async def _rejoin(self, subscription: Subscription) -> None:
        """Put a subscription without position on the newly opened channel."""
        namespace = self.node.namespaces.find(subscription.channel)
        try:
            if namespace is None:
                raise ThalamusError(code=ErrorCode.UNKNOWN_CHANNEL)
            channel = await self.node.hub.open(subscription.channel, namespace)
            if self.subscriptions.get(subscription.channel) is subscription and self.state is State.OPEN:
                self.node.hub.join(channel, subscription)
                channel.go_live(subscription)
        except ThalamusError:
            self.end_subscription(subscription, UnsubscribeCode.INSUFFICIENT_STATE)

    def end_subscription(self, subscription: Subscription, code: int, reason: str = "") -> None:
        """End a subscription: take it off channel and roster, and tell the client.

        `reason` empty: the text that belongs to the code.
        """
        if self.subscriptions.get(subscription.channel) is not subscription:
            return
        self.drop(subscription)
        if not reason:
            reason = UnsubscribeCode(code).reason if code in set(UnsubscribeCode) else UnsubscribeCode.SERVER.reason
        self.push(UnsubscribePush(subscription.channel, code, reason))
        self.presence_over(subscription)

    def end_silently(self, subscription: Subscription) -> None:
        """Undo a subscription that the client has not been told of."""
        self.drop(subscription)
        self.presence_over(subscription)

    def taken_off(self, channel: str) -> bool:
        """Take the client off a roster, and tell it; return False if it was not there."""
        info = self.presence.leave(channel)
        if info is not None:
            self.push(LeavePush(channel, info))
        return info is not None

    # State.

    @property
    def is_connecting(self) -> bool:
        """Whether the connect command is being executed."""
        return self.state is State.CONNECTING

    @property
    def is_open(self) -> bool:
        """Whether the connect command has succeeded and the session has not ended."""
        return self.state is State.OPEN

    @property
    def is_over(self) -> bool:
        """Whether no more commands are read: closed, or connect has failed."""
        return self.state in OVER

    @property
    def was_sent_away(self) -> bool:
        """Whether this side has closed the connection because of the client.

        Not the client or the network, and not because this edge stops.
        """
        return self._ended_for not in (None, EndReason.SHUTDOWN)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed or being closed."""
        return self.state is State.CLOSED

    @property
    def is_paused(self) -> bool:
        """Whether the socket is not read at the moment; see `CommandRunner`."""
        return self._paused

    def shows(self, claims: ConnectionClaims, token: str) -> None:
        """Note what the token grants, and by what it can be revoked and resumed."""
        self.caps = claims.caps
        self.token_session, self.token_id, self.token_issued_at = claims.session, claims.token, claims.issued_at
        self.token_expires_at = claims.token_expires_at
        before, self.resume_key = self.resume_key, self.node.resume.key(claims, token)
        self._unlist(may_resume=before == self.resume_key)  # else nobody needs the token of before any more

    def list_here(self) -> None:
        """List this connection in the session table; `Deadlines` says when."""
        self.listed_as = self.resume_key
        self.node.resume.began(self.listed_as)

    def _unlist(self, *, may_resume: bool = True) -> None:
        if self.listed_as:
            key, self.listed_as = self.listed_as, ""
            self.node.resume.ended(key, may_resume=may_resume)

    def begin_connecting(self) -> None:
        """Note that the connect command has arrived."""
        self.state = State.CONNECTING

    def opened(self, claims: ConnectionClaims | None, *, has_delay: bool) -> None:
        """Open the session, because the connect command has succeeded; pings begin.

        `has_delay`: from the expiry to the close the client gets time to send a new token.
        """
        self.state = State.OPEN
        self.deadlines.begin(claims.expires_at if claims else None, has_delay=has_delay)
