"""The client side of the Centrifugal JSON protocol: frames to events. No I/O.

Section numbers are those of `docs/protocol.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cli.output import printable
from cli.realtime.messages import (
    ClientInfo,
    ConnectResult,
    Error,
    Position,
    Publication,
    Push,
    RefreshResult,
    Reply,
    SubscribeResult,
)

_TOKEN_EXPIRED = 109
_RESUBSCRIBE_FROM = 2500  # from this unsubscribe code on clients subscribe again, 8.3


@dataclass(frozen=True, slots=True)
class Connected:
    """The server accepted the connection.

    `expires_s`: seconds within which to refresh the token; None: it does not expire.
    """

    client: str
    version: str
    ping_s: int
    expires_s: int | None


@dataclass(frozen=True, slots=True)
class ConnectRefused:
    """The server refused `connect`. The connection can't be used."""

    error: Error

    @property
    def expired(self) -> bool:
        return self.error.code == _TOKEN_EXPIRED


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription was made.

    `position` is where it goes on from. `since` is the position from which recovery was asked for, if it was.
    """

    channel: str
    position: Position
    since: Position | None
    recovered: bool
    missed: int  # recovered publications, which follow as events


@dataclass(frozen=True, slots=True)
class SubscribeRefused:
    """The server refused a subscription."""

    channel: str
    error: Error


@dataclass(frozen=True, slots=True)
class Published:
    """A publication arrived."""

    channel: str
    publication: Publication


@dataclass(frozen=True, slots=True)
class Joined:
    """A client joined the channel."""

    channel: str
    info: ClientInfo


@dataclass(frozen=True, slots=True)
class Left:
    """A client left the channel."""

    channel: str
    info: ClientInfo


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """The server ended the subscription. `again`: the client should subscribe again."""

    channel: str
    code: int
    reason: str
    again: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A message for this client that belongs to no channel."""

    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The token was accepted. The connection may go on for this many seconds.

    None: without limit.
    """

    expires_s: int | None


@dataclass(frozen=True, slots=True)
class RefreshRefused:
    """The server refused a new token."""

    error: Error


Event = (
    Connected
    | ConnectRefused
    | Subscribed
    | SubscribeRefused
    | Published
    | Joined
    | Left
    | Unsubscribed
    | Message
    | Refreshed
    | RefreshRefused
)


class ProtocolBroken(Exception):
    """The server sent something that is not a frame of the protocol."""


@dataclass(slots=True)
class WireClient:
    """Follows channels over successive connections, and keeps the position in each."""

    channels: dict[str, Position | None]  # None: not recoverable, or no position yet
    token: str = ""
    version: str = ""
    _last_id: int = 0
    _asked: dict[int, tuple[str, str]] = field(default_factory=dict)  # id → (command, channel)
    _answers_pings: bool = False

    def hello(self) -> str:
        """Return the first frame of a new connection.

        It connects and subscribes to all channels, with recovery where a position is known.
        """
        self._last_id = 0
        self._asked.clear()
        self._answers_pings = False
        connect: dict[str, Any] = {"name": "cli", "version": self.version}
        if self.token:
            connect["token"] = self.token
        return "\n".join([self._command("connect", "", connect), *(self.subscribe(name) for name in self.channels)])

    def subscribe(self, channel: str) -> str:
        """Return a frame that subscribes to a channel, the first time or again."""
        request: dict[str, Any] = {"channel": channel, "recoverable": True, "positioned": True, "join_leave": True}
        since = self.channels[channel]
        if since is not None:
            request |= {"recover": True, "offset": since.offset, "epoch": since.epoch}
        return self._command("subscribe", channel, request)

    def refresh(self, token: str) -> str:
        """Return a frame that refreshes the connection with a new token.

        Later connections use that token too.
        """
        self.token = token
        return self._command("refresh", "", {"token": token})

    def drop(self, channel: str) -> None:
        """Forget a channel that was refused or ended for good."""
        self.channels.pop(channel, None)

    def receive(self, frame: str) -> tuple[list[Event], str]:
        """Return the events of a frame, and the frame to answer with (empty: none).

        Raises:
            ProtocolBroken: it is not a frame of the protocol.
        """
        events: list[Event] = []
        pong = ""
        for line in frame.split("\n"):
            try:
                reply = msgspec.json.decode(line, type=Reply)
            except msgspec.MsgspecError as error:
                raise ProtocolBroken(f"{error}: {line[:100]!r}") from error
            if reply.id:
                events += self._reply(reply)
            elif reply.push is not None:
                events += self._push(reply.push)
            elif self._answers_pings:
                pong = "{}"
        return events, pong

    def _command(self, name: str, channel: str, request: Mapping[str, Any]) -> str:
        self._last_id += 1
        self._asked[self._last_id] = (name, channel)
        return msgspec.json.encode({"id": self._last_id, name: request}).decode()

    def _reply(self, reply: Reply) -> Iterable[Event]:
        name, channel = self._asked.pop(reply.id, ("", ""))
        if reply.error is not None:
            match name:
                case "connect":
                    return [ConnectRefused(reply.error)]
                case "subscribe":
                    return [SubscribeRefused(channel, reply.error)]
                case "refresh":
                    return [RefreshRefused(reply.error)]
        if name == "connect" and (connected := reply.connect) is not None:
            self._answers_pings = connected.pong
            return [Connected(connected.client, connected.version, connected.ping, _expiry(connected))]
        if name == "subscribe" and reply.subscribe is not None:
            return self._subscribed(channel, reply.subscribe)
        if name == "refresh" and reply.refresh is not None:
            return [Refreshed(_expiry(reply.refresh))]
        raise ProtocolBroken(f"a reply to nothing we asked (id {reply.id})")

    def _subscribed(self, channel: str, result: SubscribeResult) -> Iterable[Event]:
        since = self.channels.get(channel) if result.was_recovering else None
        position = Position(result.offset, result.epoch)
        self.channels[channel] = position if result.recoverable else None
        yield Subscribed(channel, position, since, result.recovered, len(result.publications))
        for publication in result.publications:
            yield self._published(channel, publication)

    def _published(self, channel: str, publication: Publication) -> Published:
        known = self.channels.get(channel)
        if known is not None and publication.offset:
            self.channels[channel] = Position(publication.offset, publication.epoch or known.epoch)
        return Published(channel, publication)

    def _push(self, push: Push) -> Iterable[Event]:
        if push.pub is not None:
            yield self._published(push.channel, push.pub)
        elif push.join is not None:
            yield Joined(push.channel, push.join.info)
        elif push.leave is not None:
            yield Left(push.channel, push.leave.info)
        elif push.unsubscribe is not None:
            ended = push.unsubscribe
            yield Unsubscribed(push.channel, ended.code, printable(ended.reason), ended.code >= _RESUBSCRIBE_FROM)
        elif push.message is not None:
            yield Message(push.message.data)


def _expiry(result: ConnectResult | RefreshResult) -> int | None:
    return result.ttl if result.expires else None
