"""How a connection ends, by either side, without codes of a client protocol."""

from __future__ import annotations

import enum
from typing import NamedTuple


class EndReason(enum.Enum):
    """Why the server ends a connection.

    Each client protocol has its own code and text for it.
    """

    SHUTDOWN = enum.auto()  # this edge stops; the client may connect to another one
    SERVER_ERROR = enum.auto()  # a fault of the server
    EXPIRED = enum.auto()  # the connection token was not renewed in time
    SUBSCRIPTION_EXPIRED = enum.auto()  # the token of a server-side subscription was not renewed in time
    SLOW = enum.auto()  # the client reads too slowly
    INSUFFICIENT_STATE = enum.auto()  # something was missed that can't be repaired; the client begins anew
    NO_PONG = enum.auto()  # a ping was not answered
    TOO_MANY_REQUESTS = enum.auto()  # a flood of commands, or of WebSocket pings and pongs
    INVALID_TOKEN = enum.auto()
    BAD_REQUEST = enum.auto()  # misuse of the protocol
    STALE = enum.auto()  # no connect command in time
    DISCONNECTED = enum.auto()  # a backend closes it, or its sign-in session has ended
    CONNECTION_LIMIT = enum.auto()  # the user has too many connections
    CHANNEL_LIMIT = enum.auto()  # too many server-side subscriptions
    PERMISSION_DENIED = enum.auto()  # clients without a user may not connect
    NOT_AVAILABLE = enum.auto()  # the client asks for what this server does not do


class ClientEnd(enum.Enum):
    """How the client's side of a connection ended."""

    CLOSED = enum.auto()  # on purpose: a close frame with 1000, or without a code as browsers' `close()` sends it
    GOING_AWAY = enum.auto()  # 1001: the page is left or loaded again; nobody knows yet whether it comes back
    LOST = enum.auto()  # no close frame, or one with another code


class End(NamedTuple):
    """The end of a connection by the server.

    `code` and `text` are what a backend asked for in the server API; 0 and "": what belongs to the reason.
    """

    reason: EndReason
    code: int = 0
    text: str = ""


class Disconnect(Exception):
    """The connection must end for this reason. The session catches it and closes."""

    def __init__(self, reason: EndReason) -> None:
        self.reason = reason
        super().__init__(reason.name)
