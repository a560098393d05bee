"""Requests of the server API; names are those of the field's server API and of the wire protocol.

A member that is not here is refused by name: whoever sends one expects it to do something.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

_Whole = Annotated[int | float, msgspec.Meta(extra_json_schema={"type": "integer"})]
_FromZero = Annotated[int | float, msgspec.Meta(extra_json_schema={"type": "integer", "minimum": 0})]
_Json = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"description": "any JSON value"})]


def _whole(name: str, number: int | float) -> int:
    """The integer that was meant: JSON knows no difference between `1` and `1.0`."""
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(f"`{name}` must be an integer")
    return int(number)


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Of one method."""


class StreamPosition(_Request):
    offset: _FromZero = 0
    epoch: str = ""

    def __post_init__(self) -> None:
        self.offset = _whole("offset", self.offset)
        if self.offset < 0:
            raise ValueError("`offset` must not be negative")


class Message(_Request):
    """What `publish` and `broadcast` have in common.

    `b64data`: the JSON text of the data in base64, in place of `data`. `skip_history`: send it and keep it nowhere.
    """

    data: _Json = msgspec.field(default_factory=msgspec.Raw)
    b64data: str = ""
    tags: dict[str, str] = {}
    idempotency_key: str = ""
    skip_history: bool = False


class Publish(Message, kw_only=True):
    channel: str


class Broadcast(Message, kw_only=True):
    channels: list[str]


class BoolValue(_Request):
    value: bool


class Subscribe(_Request):
    user: str
    channel: str
    client: str = ""
    info: _Json = msgspec.field(default_factory=msgspec.Raw)
    b64info: str = ""
    data: _Json = msgspec.field(default_factory=msgspec.Raw)
    b64data: str = ""
    recover_since: StreamPosition | None = None
    expire_at: float = 0.0
    override: dict[str, BoolValue] = {}


class Unsubscribe(_Request):
    user: str
    channel: str
    client: str = ""


class DisconnectReason(_Request):
    code: _Whole = 3503
    reason: str = ""

    def __post_init__(self) -> None:
        self.code = _whole("code", self.code)


class Disconnect(_Request):
    user: str
    client: str = ""
    whitelist: list[str] = []
    disconnect: DisconnectReason | None = None


class Refresh(_Request):
    user: str
    client: str = ""
    expired: bool = False
    expire_at: float = 0.0


class History(_Request):
    channel: str
    limit: _Whole = 0
    since: StreamPosition | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        self.limit = _whole("limit", self.limit)


class ChannelOnly(_Request):
    channel: str


class Channels(_Request):
    pattern: str = ""


class Info(_Request):
    """Nothing is asked."""


class Batch(_Request):
    """Each command is an object with one member: the name of a method and its request."""

    commands: list[dict[str, msgspec.Raw]]
    parallel: bool = False
