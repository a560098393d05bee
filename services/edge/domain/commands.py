"""What clients ask for, whatever dialect they speak. Absent members have their zero value; source: wire protocol, 5."""

from __future__ import annotations

import msgspec

from services.edge.domain.model import StreamPosition


class Request(msgspec.Struct, kw_only=True):
    """One request of a command."""


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
    tags_filter: bytes = b""  # JSON text of `tf`; empty: none
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
    idempotency_key: str = ""  # our extension
    exclude_self: bool = False  # our extension


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
    """The unused `ping` request: closes 3501."""


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
    """An empty command: the answer to the server's ping."""


class Malformed(Request):
    """What could not be read as a command: closes 3501; nothing of the message is looked at after it."""

    reason: str


class Command(msgspec.Struct):
    """A request and the id that its reply shall carry; 0 for `Send`, `Pong` and `Malformed`."""

    id: int
    request: Request
