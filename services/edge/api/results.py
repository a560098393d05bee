"""Results of the server API as OpenAPI describes them. Only schemas are made of these: methods answer with dicts."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class _Result(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a method answers with."""


class Nothing(_Result):
    """It was done."""


class Published(_Result):
    """Where it stands in the log; both absent where the channel keeps none, or it was not to be kept."""

    offset: Count | msgspec.UnsetType = msgspec.UNSET
    epoch: str | msgspec.UnsetType = msgspec.UNSET


class Error(_Result):
    """`code` as in the client protocol, 8.1."""

    code: Annotated[int, msgspec.Meta(ge=100, le=112)]
    message: Annotated[str, msgspec.Meta(min_length=1)]


class Broadcasted(_Result):
    """One response per channel, in order: an object with `result` or `error`."""

    responses: list[BroadcastResponse]


class BroadcastResponse(_Result):
    result: Published | msgspec.UnsetType = msgspec.UNSET
    error: Error | msgspec.UnsetType = msgspec.UNSET


class ClientInfo(_Result):
    """A client as others see it; `conn_info` and `chan_info` are what its tokens say."""

    user: str
    client: str
    conn_info: Any = None
    chan_info: Any = None


class Publication(_Result):
    """`info` is absent where a backend published; `time`: Unix milliseconds."""

    data: Any
    offset: Count
    info: ClientInfo | msgspec.UnsetType = msgspec.UNSET
    tags: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    time: int | msgspec.UnsetType = msgspec.UNSET


class HistoryPage(_Result):
    """`offset` and `epoch` are the position of the channel's newest publication."""

    publications: list[Publication]
    offset: Count
    epoch: str


class Members(_Result):
    """By client id."""

    presence: dict[str, ClientInfo]


class Stats(_Result):
    num_clients: Count
    num_users: Count


class ChannelFigures(_Result):
    num_clients: Count


class ChannelList(_Result):
    """By name."""

    channels: dict[str, ChannelFigures]


class NodeFigures(_Result):
    """`uptime`: seconds."""

    uid: str
    name: str
    version: str
    num_clients: Count
    num_users: Count
    num_channels: Count
    num_subs: Count
    uptime: Count


class Nodes(_Result):
    nodes: list[NodeFigures]


class Replies(_Result):
    """One reply per command, in order: an object with `error`, or with the method's name and its result."""

    replies: list[dict[str, Any]]


class SignedIn(_Result):
    """`access_token` is a connection token; `refresh_token` is good once."""

    access_token: str
    expires_in_s: Count
    refresh_token: str
    user: str
    username: str


RESULTS: dict[str, type[_Result]] = {
    "publish": Published,
    "broadcast": Broadcasted,
    "subscribe": Nothing,
    "unsubscribe": Nothing,
    "disconnect": Nothing,
    "refresh": Nothing,
    "history": HistoryPage,
    "history_remove": Nothing,
    "presence": Members,
    "presence_stats": Stats,
    "channels": ChannelList,
    "info": Nodes,
    "batch": Replies,
}
