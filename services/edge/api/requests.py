"""Requests of the server API. Names are those of Centrifugo and the wire protocol.

Unknown members are refused, so that no caller relies on one without effect. The docstrings of the structs are their
descriptions in OpenAPI; each is one paragraph, because a second one would be shown as code.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

_Whole = Annotated[int | float, msgspec.Meta(extra_json_schema={"type": "integer"})]
_FromZero = Annotated[int | float, msgspec.Meta(extra_json_schema={"type": "integer", "minimum": 0})]
_Json = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"description": "any JSON value"})]


def _whole(name: str, number: int | float) -> int:
    """Return a number as an integer: JSON does not distinguish `1` from `1.0`.

    Raises:
        ValueError: it is not an integer.
    """
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(f"`{name}` must be an integer")
    return int(number)


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all requests."""


class StreamPosition(_Request):
    """A position in the log of a channel."""

    offset: _FromZero = 0
    epoch: str = ""

    def __post_init__(self) -> None:
        self.offset = _whole("offset", self.offset)
        if self.offset < 0:
            raise ValueError("`offset` must not be negative")


class Message(_Request):
    """Base of requests that publish: the members that `Publish` and `Broadcast` share."""

    data: _Json = msgspec.field(default_factory=msgspec.Raw)
    b64data: str = ""
    tags: dict[str, str] = {}
    idempotency_key: str = ""
    skip_history: bool = False


class Publish(Message, kw_only=True):
    """A publication for one channel.
    `b64data`: the data in base64, instead of `data`; a JSON text, unless the namespace has binary data.
    `skip_history`: send it, but do not keep it in the log. `idempotency_key`: a repeat with the same key within 300
    seconds returns the position of the first publish.
    """

    channel: str


class Broadcast(Message, kw_only=True):
    """A publication for each of several channels.
    The other members are those of `publish`.
    """

    channels: list[str]


class BoolValue(_Request):
    """A switch that is set or cleared."""

    value: bool


class Subscribe(_Request):
    """A channel, and the connections to subscribe to it.
    These are all connections of `user`, or only that of `client`. `info`: shown to others as `chan_info`. `data`: sent
    to the client with the subscription. `b64info` and `b64data`: the same in base64. `recover_since`: the position to
    recover from. `expire_at`: end of the subscription, Unix seconds; 0: never. `override`: options of the namespace to
    replace for this subscription.
    """

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
    """A channel, and the connections to unsubscribe from it.
    These are all connections of `user`, or only that of `client`.
    """

    user: str
    channel: str
    client: str = ""


class DisconnectReason(_Request):
    """Code (3000 to 4999) and reason of the close frame."""

    code: _Whole = 3503
    reason: str = ""

    def __post_init__(self) -> None:
        self.code = _whole("code", self.code)


class Disconnect(_Request):
    """The connections to close.
    These are all connections of `user`, or only that of `client`. `whitelist`: client ids that stay connected.
    """

    user: str
    client: str = ""
    whitelist: list[str] = []
    disconnect: DisconnectReason | None = None


class Revoke(_Request):
    """What is revoked: one of a user, a sign-in session, and a token.
    `user`: tokens issued until now, and those without `iat`. `session`: the claim `sid`. `token`: the claim `jti`.
    `ttl_s`: how long such tokens could be good, seconds; 30 days by default, 10 years at most.
    """

    user: str = ""
    session: str = ""
    token: str = ""
    ttl_s: _Whole = 2_592_000

    def __post_init__(self) -> None:
        self.ttl_s = _whole("ttl_s", self.ttl_s)


class Refresh(_Request):
    """The connections whose expiry is set.
    These are all connections of `user`, or only that of `client`. `expired`: close them now. `expire_at`: the new
    expiry, Unix seconds; 0: never.
    """

    user: str
    client: str = ""
    expired: bool = False
    expire_at: float = 0.0


class History(_Request):
    """The page of a channel's log to read.
    `limit`: publications wanted; 0: only the position of the newest; negative: as many as allowed. `since`: begin
    strictly after this position, with `reverse` strictly before it. `reverse`: newest first.
    """

    channel: str
    limit: _Whole = 0
    since: StreamPosition | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        self.limit = _whole("limit", self.limit)


class ChannelOnly(_Request):
    """A request that names a channel and nothing else."""

    channel: str


class Channels(_Request):
    """The channels to list. `pattern`: shell-style pattern of names; empty: all."""

    pattern: str = ""


class Info(_Request):
    """An empty object."""


class Batch(_Request):
    """Several commands.
    Each is an object with one member: the name of a method, and its request. `parallel`: run them at the same time, not
    one after the other.
    """

    commands: list[dict[str, msgspec.Raw]]
    parallel: bool = False
