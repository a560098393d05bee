"""Commands of clients, independent of the protocol that carries them.

A member that the client left out has its zero value. The meaning of each member is in wire protocol, 5.
"""

from __future__ import annotations

import msgspec

from services.edge.domain.model import StreamPosition


class Request(msgspec.Struct, kw_only=True):
    """Base class of all requests."""


class Subscribe(Request):
    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tags_filter: bytes = b""  # JSON text of the member `tf`; empty: no filter
    flag: int = 0
    type: int = 0


class Connect(Request):
    token: str = ""
    data: bytes = b""
    subs: dict[str, Subscribe] = {}
    name: str = ""
    version: str = ""


class Unsubscribe(Request):
    channel: str = ""


class Publish(Request):
    channel: str = ""
    data: bytes | None = None  # None: the member was absent; b"null" is data
    type: int = 0
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
    """The `ping` request, which is not supported: closes the connection with 3501."""


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
    type: int = 0


class Pong(Request):
    """An empty command: the client's answer to a ping of the server."""


class Malformed(Request):
    """Stands for bytes that are not a valid command: closes with 3501.

    The decoder ignores the rest of the message behind it.
    """

    reason: str


class Command(msgspec.Struct):
    """A request, and the id that its reply carries.

    The id is 0 for `Pong` and `Malformed`. A `Send` has no reply; its id may be 0.
    """

    id: int
    request: Request
