"""One client's session: commands in the order sent, one at a time; its subscriptions."""

from __future__ import annotations

import logging
from typing import Any

from services.edge.domain import commands as c
from services.edge.domain.access.tokens import ConnectionClaims
from services.edge.domain.channels.channel import Subscription
from services.edge.domain.model import ClientInfo, Publication
from services.edge.domain.ports import Connection, Dialect
from services.edge.domain.replies import Answer, ErrorReply, PublicationPush, Push, Result, UnsubscribePush
from services.edge.domain.session.command_runner import OVER, CommandRunner, State
from services.edge.domain.session.deadlines import Deadlines
from services.edge.domain.session.node import Node
from services.edge.domain.token_bucket import TokenBucket
from services.shared.errors import CloseCode, ErrorCode, ThalamusError, UnsubscribeCode

logger = logging.getLogger(__name__)


class Session(CommandRunner):
    """A `MessageHandler`: the transport tells it of messages, it answers through its `Connection`."""

    __slots__ = (
        "_ended_here",
        "_websocket_ping",
        "client",
        "conn_info",
        "deadlines",
        "dialect",
        "name",
        "opened_at",
        "publish_buckets",
        "subscriptions",
        "token_channels",
        "token_session",
        "user",
    )

    def __init__(
        self, node: Node, connection: Connection, dialect: Dialect, client: str, *, websocket_ping: bool = False
    ) -> None:
        self.opened_at = now = node.clock.monotonic()
        super().__init__(node, connection, now)
        self.dialect = dialect
        self.client = client
        self.user = ""
        self.conn_info = b""
        self.name = ""
        self.subscriptions: dict[str, Subscription] = {}
        self.token_channels: frozenset[str] = frozenset()
        self.token_session = ""  # the `sid` of the token: the signing-in that it comes from
        self.publish_buckets: dict[str, TokenBucket] | None = None
        self._ended_here = False  # we sent the first close frame: the client's is only its answer
        self._websocket_ping = websocket_ping
        self.deadlines = Deadlines(self, now)
        node.sessions.add(self)

    # From the transport.

    def message(self, payload: bytes, *, binary: bool) -> None:
        """Take one message; its commands run in order, after those that still run."""
        if self.state in OVER:
            return
        for command in self.dialect.decode(payload, binary=binary):
            if type(command.request) is c.Pong:  # not held up by a command that takes long
                if not self.deadlines.pong():
                    self.disconnect(CloseCode.BAD_REQUEST, CloseCode.BAD_REQUEST.reason)
            elif not self._queue.add(command, running=self._busy):
                self._turn_away(command)
                if self.state in OVER:
                    return
        self._pump()

    def websocket_pong(self) -> None:
        """The answer to our WebSocket ping; unasked ones are allowed there (RFC 6455, 5.5.3)."""
        if self._websocket_ping:
            self.deadlines.pong()

    def closed(self, *, clean: bool) -> None:
        """The connection is over, from whichever side."""
        self.state = State.CLOSED
        self.deadlines.release()
        self._forget_commands()
        self.node.sessions.discard(self)
        self.node.remove(self)
        for subscription in list(self.subscriptions.values()):
            self.drop(subscription)
            self.leave_roster(subscription, clean=clean and not self._ended_here)

    def leave_roster(self, subscription: Subscription, *, clean: bool) -> None:
        """Take what this subscription put on the roster off it, at once: a newer one's entry stays."""
        if subscription.presence:
            self.node.presence.leave(subscription.channel, self.client, owner=subscription, clean=clean)

    # To the client.

    def answer(self, command_id: int, result: Result) -> None:
        """Queue the reply to a command."""
        if self.state is State.CLOSED:
            return
        self.connection.send_reply(self.dialect.encode(Answer(command_id, result)))

    def push(self, push: Push) -> None:
        """Queue a push; none precedes the connect reply."""
        if self.state is State.OPEN:
            self.connection.send(self.dialect.encode(push))

    def push_publication(self, channel: str, publication: Publication) -> None:
        """Queue one publication that is recovered, and not live: it is asked for, as a reply is."""
        if self.state is State.OPEN:
            self.connection.send_reply(self.dialect.encode(PublicationPush(channel, publication)))

    def disconnect(self, code: int, reason: str) -> None:
        """End the connection with this code; `closed` follows from the transport."""
        if self.state is State.CLOSED:
            return
        counts = self.node.counters.closes
        counts[code] = counts.get(code, 0) + 1
        self.state = State.CLOSED
        self._ended_here = True
        self._forget_commands()
        self.deadlines.end()
        self.node.remove(self)
        for subscription in list(self.subscriptions.values()):
            self.node.hub.leave(subscription)  # no more pushes; presence leaves when the connection has ended
        self.connection.close(code, reason)

    def ping(self) -> None:
        """Ask whether the client is there, in the way that it wants to be asked."""
        if self._websocket_ping:
            self.connection.send_websocket_ping()
        else:
            self.connection.send(self.dialect.ping_frame)

    def refuse_connect(self, command_id: int, error: ErrorReply) -> None:
        """Answer connect with an error: the connection is of no more use (wire protocol, 5.1)."""
        if self.state is State.CLOSED:
            return
        self.answer(command_id, error)
        self.state = State.UNUSABLE
        self.deadlines.end()
        self._forget_commands()
        self.node.remove(self)
        self.connection.drop_after(self.node.settings.error_drop_delay_s)

    # Subscriptions.

    def info(self, chan_info: bytes = b"") -> ClientInfo:
        """This client as others see it."""
        return ClientInfo(self.user, self.client, self.conn_info, chan_info)

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscription and take it off its channel; presence is the caller's."""
        if self.subscriptions.get(subscription.channel) is subscription:
            del self.subscriptions[subscription.channel]
        self.node.hub.leave(subscription)

    def insufficient_state(self, subscription: Subscription) -> None:
        """Continuity is lost: a client-side subscription is ended with 2500, a server-side one closes 3010."""
        if not subscription.live:
            subscription.broken = True  # its subscribe is still running, and will find it
        elif not (subscription.positioned or subscription.recoverable):
            self.node.spawn(self._rejoin(subscription))
        elif subscription.server_side:
            self.disconnect(CloseCode.INSUFFICIENT_STATE, CloseCode.INSUFFICIENT_STATE.reason)
        else:
            self.end_subscription(subscription, UnsubscribeCode.INSUFFICIENT_STATE)

    async def _rejoin(self, subscription: Subscription) -> None:
        """A subscription without position asks for no continuity: put it on the channel as it is now."""
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
        """The server ends a subscription: off the channel, off the roster, and the client is told."""
        if self.subscriptions.get(subscription.channel) is not subscription:
            return
        self.drop(subscription)
        if not reason:
            reason = UnsubscribeCode(code).reason if code in set(UnsubscribeCode) else UnsubscribeCode.SERVER.reason
        self.push(UnsubscribePush(subscription.channel, code, reason))
        self.leave_roster(subscription, clean=True)

    def end_silently(self, subscription: Subscription) -> None:
        """Undo a subscription that the client never heard of."""
        self.drop(subscription)
        self.leave_roster(subscription, clean=True)

    # Where it stands.

    @property
    def is_connecting(self) -> bool:
        """The connect command is being worked on."""
        return self.state is State.CONNECTING

    @property
    def is_open(self) -> bool:
        """The connect command was granted, and nothing has ended it."""
        return self.state is State.OPEN

    @property
    def is_over(self) -> bool:
        """Nothing more is read of it."""
        return self.state in OVER

    @property
    def is_closed(self) -> bool:
        """Nobody is there any more."""
        return self.state is State.CLOSED

    @property
    def is_paused(self) -> bool:
        """Too much of what it sent waits: the rest is not read yet."""
        return self._paused

    @property
    def pings_by_websocket(self) -> bool:
        """The client asked for WebSocket ping frames (`cf_ws_frame_ping_pong=true`)."""
        return self._websocket_ping

    def begin_connecting(self) -> None:
        """The connect command has come."""
        self.state = State.CONNECTING

    def opened(self, claims: ConnectionClaims | None) -> None:
        """The connect command was granted; pings begin."""
        self.state = State.OPEN
        self.deadlines.begin(claims.expires_at if claims else None)

    def statistics(self) -> dict[str, Any]:
        """For the server API's `info` and for logs."""
        return {"client": self.client, "user": self.user, "name": self.name, "channels": len(self.subscriptions)}
