"""Commands of clients, independent of the protocol that carries them.

A member that the client left out has its zero value. The meaning of each member is in wire protocol, 5. Members of type
bytes are payloads, as the client sent them.
"""

from __future__ import annotations

import enum

import msgspec

from services.edge.domain.model import StreamPosition


class Request(msgspec.Struct, kw_only=True):
    """Base class of all requests.

    `command_token` is a token beside the request, for namespaces that require one; extension of this server.
    """

    command_token: str = ""


class SubscriptionKind(enum.Enum):
    """What a client wants of a channel. Only streams are served."""

    STREAM = enum.auto()  # every publication
    SHARED_POLL = enum.auto()
    OTHER = enum.auto()


class Subscribe(Request):
    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""  # name of a format of deltas; "": none
    has_tags_filter: bool = False
    rejects_gap: bool = False  # the command fails (112) if recovery is impossible
    kind: SubscriptionKind = SubscriptionKind.STREAM


class Connect(Request):
    token: str = ""
    data: bytes = b""
    subs: dict[str, Subscribe] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}  # what a client would send as HTTP headers, if it could set them


class Unsubscribe(Request):
    channel: str = ""


class Publish(Request):
    channel: str = ""
    data: bytes | None = None  # None: the client sent none, which is an error
    to_map: bool = False  # the channel is to be a map, which is not served
    idempotency_key: str = ""  # extension of this server
    exclude_self: bool = False  # extension of this server


class Presence(Request):
    channel: str = ""


class PresenceStats(Request):
    channel: str = ""


class History(Request):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class Ping(Request):
    """A request for a ping of the server, which is not served: ends the connection."""


class Send(Request):
    data: bytes = b""


class Rpc(Request):
    method: str = ""
    data: bytes = b""


class Refresh(Request):
    token: str = ""


class SubRefresh(Request):
    channel: str = ""
    token: str = ""


class Malformed(Request):
    """Stands for bytes that are not a valid command: ends the connection.

    The decoder ignores the rest of the message behind it.
    """

    reason: str


class Command(msgspec.Struct):
    """A request, and the id that its reply carries.

    The id is 0 for `Malformed`. A `Send` has no reply; its id may be 0.
    """

    id: int
    request: Request
