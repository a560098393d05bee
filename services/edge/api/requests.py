"""Requests of the server API. Names are those of Centrifugo and the wire protocol.

Unknown members are refused, so that no caller relies on one without effect. The docstrings of the structs are their
descriptions in OpenAPI; each is one paragraph, because a second one would be shown as code.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.edge.domain.access.grants import Operation
from services.shared.checks import MAX_TIME_S

Whole = Annotated[int | float, msgspec.Meta(extra_json_schema={"type": "integer"})]
FromZero = Annotated[int | float, msgspec.Meta(extra_json_schema={"type": "integer", "minimum": 0})]
Time = Annotated[float, msgspec.Meta(le=MAX_TIME_S)]  # Unix seconds
JsonText = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"description": "any JSON value"})]


def whole(name: str, number: int | float) -> int:
    """Return a number as an integer: JSON does not distinguish `1` from `1.0`.

    Raises:
        ValueError: it is not an integer.
    """
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(f"`{name}` must be an integer")
    return int(number)


class Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all requests."""


class StreamPosition(Request):
    """A position in the log of a channel."""

    offset: FromZero = 0
    epoch: str = ""

    def __post_init__(self) -> None:
        self.offset = whole("offset", self.offset)
        if self.offset < 0:
            raise ValueError("`offset` must not be negative")


class Message(Request):
    """Base of requests that publish: the members that `Publish` and `Broadcast` share."""

    data: JsonText = msgspec.field(default_factory=msgspec.Raw)
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


class BoolValue(Request):
    """A switch that is set or cleared."""

    value: bool


class Subscribe(Request):
    """A channel, and the connections to subscribe to it.
    These are all connections of `user`, or only that of `client`. `info`: shown to others as `chan_info`. `data`: sent
    to the client with the subscription. `b64info` and `b64data`: the same in base64. `recover_since`: the position to
    recover from. `expire_at`: end of the subscription, Unix seconds; 0: never. `override`: options of the namespace to
    replace for this subscription.
    """

    user: str
    channel: str
    client: str = ""
    info: JsonText = msgspec.field(default_factory=msgspec.Raw)
    b64info: str = ""
    data: JsonText = msgspec.field(default_factory=msgspec.Raw)
    b64data: str = ""
    recover_since: StreamPosition | None = None
    expire_at: Time = 0.0
    override: dict[str, BoolValue] = {}


class Unsubscribe(Request):
    """A channel, and the connections to unsubscribe from it.
    These are all connections of `user`, or only that of `client`.
    """

    user: str
    channel: str
    client: str = ""


class DisconnectReason(Request):
    """Code (3000 to 4999) and reason of the close frame."""

    code: Whole = 3503
    reason: str = ""

    def __post_init__(self) -> None:
        self.code = whole("code", self.code)


class Disconnect(Request):
    """The connections to close.
    These are all connections of `user`, or only that of `client`. `whitelist`: client ids that stay connected.
    """

    user: str
    client: str = ""
    whitelist: list[str] = []
    disconnect: DisconnectReason | None = None


class Revoke(Request):
    """What is revoked: one of a user, a sign-in session, and a token.
    `user`: tokens issued until now, and those without `iat`. `session`: the claim `sid`. `token`: the claim `jti`.
    `ttl_s`: how long such tokens could be good, seconds; 30 days by default, 10 years at most.
    """

    user: str = ""
    session: str = ""
    token: str = ""
    ttl_s: Whole = 2_592_000

    def __post_init__(self) -> None:
        self.ttl_s = whole("ttl_s", self.ttl_s)


class GrantsGive(Request):
    """Grants to give to a user: each of `operations` in each of `channels`.
    A `*` in a channel stands for any text. 100 grants at most in one call, and 1,000 of a user. `expire_at`: Unix
    seconds; 0: never. Grants that are there already get the new expiry.
    """

    user: str
    channels: list[str]
    operations: list[Operation]
    expire_at: Time = 0.0


class GrantsTake(Request):
    """Grants to take from a user.
    Of `channels` (as they were given; empty: all) the `operations` (empty: all).
    """

    user: str
    channels: list[str] = []
    operations: list[Operation] = []


class GrantsList(Request):
    """The user whose grants are listed."""

    user: str


class Refresh(Request):
    """The connections whose expiry is set.
    These are all connections of `user`, or only that of `client`. `expired`: close them now. `expire_at`: the new
    expiry, Unix seconds; 0: never.
    """

    user: str
    client: str = ""
    expired: bool = False
    expire_at: Time = 0.0


class History(Request):
    """The page of a channel's log to read.
    `limit`: publications wanted; 0: only the position of the newest; negative: as many as allowed. `since`: begin
    strictly after this position, with `reverse` strictly before it. `reverse`: newest first.
    """

    channel: str
    limit: Whole = 0
    since: StreamPosition | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        self.limit = whole("limit", self.limit)


class ChannelOnly(Request):
    """A request that names a channel and nothing else."""

    channel: str


class PresenceMembers(ChannelOnly):
    """A page of the members of a channel.
    `limit`: of a page, 1,000 at most. `cursor`: that of the page before.
    """

    limit: Whole = 100
    cursor: str = ""

    def __post_init__(self) -> None:
        self.limit = whole("limit", self.limit)


class PresenceCounts(Request):
    """The channels whose clients and users are counted, 1,000 at most."""

    channels: list[str]


class PresenceChannels(Request):
    """A page of the channels that a user is in.
    `limit`: of a page, 1,000 at most. `cursor`: that of the page before.
    """

    user: str
    limit: Whole = 100
    cursor: str = ""

    def __post_init__(self) -> None:
        self.limit = whole("limit", self.limit)


class PresenceOnline(Request):
    """The users who may be online, 1,000 at most."""

    users: list[str]


class PresenceEnter(Request):
    """A channel, and the connections that enter presence of it.
    These are all connections of `user`, or only that of `client`. `data`: what others see, 2,048 bytes at most. They
    need not be subscribed, and stay until they leave, are taken off or close.
    """

    user: str
    channel: str
    client: str = ""
    data: JsonText = msgspec.field(default_factory=msgspec.Raw)


class PresenceUpdate(Request):
    """A channel, and the connections in presence of it whose data is changed.
    These are all connections of `user`, or only that of `client`. `data` is merged as RFC 7396 says, or with `replace`
    takes the place of the data of before.
    """

    user: str
    channel: str
    data: JsonText
    client: str = ""
    replace: bool = False


class PresenceLeave(Request):
    """A channel, and the connections to take out of its presence.
    These are all connections of `user`, or only that of `client`. They stay subscribed, and are not told.
    """

    user: str
    channel: str
    client: str = ""


class PresenceRemove(Request):
    """The connections to take out of presence of `channel`, or of all channels.
    These are all connections of `user`, or only that of `client`. Each is told by a leave of its own. `unsubscribe`:
    their subscriptions to those channels end, too.
    """

    user: str
    channel: str = ""
    client: str = ""
    unsubscribe: bool = False


class Channels(Request):
    """The channels to list.
    `pattern`: shell-style pattern of names; empty: all. `partial`: go on without nodes that do not answer.
    """

    pattern: str = ""
    partial: bool = False


class Connections(Request):
    """The connections to list: those of one of `user`, `channel` and `edge`.
    `edge`: name or id of an edge. `limit`: of a page, 1,000 at most. `cursor`: that of the page before.
    `with_channels`: also list the channels of each connection; then `limit` is 100 at most. `partial`: go on without
    nodes that do not answer.
    """

    user: str = ""
    channel: str = ""
    edge: str = ""
    limit: Whole = 100
    cursor: str = ""
    with_channels: bool = False
    partial: bool = False

    def __post_init__(self) -> None:
        self.limit = whole("limit", self.limit)


class Info(Request):
    """What to do if a node does not answer.
    `partial`: go on without it; else the call fails.
    """

    partial: bool = False


class Batch(Request):
    """Several commands.
    Each is an object with one member: the name of a method, and its request. `parallel`: run them at the same time, not
    one after the other.
    """

    commands: list[dict[str, msgspec.Raw]]
    parallel: bool = False
