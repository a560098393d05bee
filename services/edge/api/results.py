"""Results of the server API, for OpenAPI only: methods return dicts.

The docstrings of the structs are their descriptions; each is one paragraph.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class _Result(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all results."""


class Nothing(_Result):
    """An empty object: the call was executed."""


class Subscribed(_Result):
    """The clients are subscribed, but for `refused_clients` of them.
    Those speak JSON, and the channel has binary data. Absent: none. If all were refused, it is error 108.
    """

    refused_clients: Count | msgspec.UnsetType = msgspec.UNSET


class Published(_Result):
    """Position of the publication in the log.
    Both members are absent if the channel has no log, or if the publication was not to be kept.
    """

    offset: Count | msgspec.UnsetType = msgspec.UNSET
    epoch: str | msgspec.UnsetType = msgspec.UNSET


class Error(_Result):
    """An error; `code` is one of the client protocol, section 8.1."""

    code: Annotated[int, msgspec.Meta(ge=100, le=112)]
    message: Annotated[str, msgspec.Meta(min_length=1)]


class Broadcasted(_Result):
    """One response per channel, in order: an object with `result` or `error`."""

    responses: list[BroadcastResponse]


class BroadcastResponse(_Result):
    """Outcome of the publish to one channel: either `result` or `error`."""

    result: Published | msgspec.UnsetType = msgspec.UNSET
    error: Error | msgspec.UnsetType = msgspec.UNSET


class ClientInfo(_Result):
    """A client as others see it. `conn_info` and `chan_info` come from its tokens."""

    user: str
    client: str
    conn_info: Any = None
    chan_info: Any = None


class Publication(_Result):
    """One publication.
    `b64data`: the data in base64, instead of `data`, if the namespace has binary data. `info` is absent if a backend
    published it. `time`: Unix milliseconds.
    """

    offset: Count
    data: Any = None
    b64data: str | msgspec.UnsetType = msgspec.UNSET
    info: ClientInfo | msgspec.UnsetType = msgspec.UNSET
    tags: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    time: int | msgspec.UnsetType = msgspec.UNSET


class HistoryPage(_Result):
    """A page of a channel's log.
    `offset` and `epoch`: position of the channel's newest publication, not of the page.
    """

    publications: list[Publication]
    offset: Count
    epoch: str


class Members(_Result):
    """Clients in the channel, by client id."""

    presence: dict[str, ClientInfo]


class Stats(_Result):
    """Number of clients in the channel, and of their distinct users."""

    num_clients: Count
    num_users: Count


class ChannelFigures(_Result):
    """Number of subscribers of one channel."""

    num_clients: Count


class ChannelList(_Result):
    """Channels by name."""

    channels: dict[str, ChannelFigures]


class NodeFigures(_Result):
    """Figures of one node. `num_subs`: subscriptions. `uptime`: seconds."""

    uid: str
    name: str
    version: str
    num_clients: Count
    num_users: Count
    num_channels: Count
    num_subs: Count
    uptime: Count


class Nodes(_Result):
    """All nodes, sorted by `uid`."""

    nodes: list[NodeFigures]


class Replies(_Result):
    """One reply per command, in order.
    Each is an object with `error`, or with the method's name and its result.
    """

    replies: list[dict[str, Any]]


class SignedIn(_Result):
    """Tokens of a signed-in user.
    `access_token`: a connection token. `refresh_token`: can be used once.
    """

    access_token: str
    expires_in_s: Count
    refresh_token: str
    user: str
    username: str


class Ticket(_Result):
    """A ticket for one WebSocket handshake: `?ticket=` in its address."""

    ticket: str
    expires_in_s: Count


class SessionTicket(_Result):
    """A ticket of a signed-in user for one WebSocket handshake (`?session=`)."""

    session: str
    expires_in_s: Count
    user: str
    username: str


RESULTS: dict[str, type[_Result]] = {
    "publish": Published,
    "broadcast": Broadcasted,
    "subscribe": Subscribed,
    "unsubscribe": Nothing,
    "disconnect": Nothing,
    "revoke": Nothing,
    "refresh": Nothing,
    "history": HistoryPage,
    "history_remove": Nothing,
    "presence": Members,
    "presence_stats": Stats,
    "channels": ChannelList,
    "info": Nodes,
    "batch": Replies,
}
